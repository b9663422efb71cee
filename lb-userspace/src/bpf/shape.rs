//! What each pinned map must look like, and how large the options make it.

use std::path::Path;

use aya::maps::{MapInfo, MapType};
use lb_common::flow::table::{bucket_words, buckets_for, flows_in};
use lb_common::ip::{Family, V4, V6};
use lb_common::tables::{
    Affinity, AffinityKey, Config, Filter, FragmentKey, FragmentPorts, Frontend, FrontendKey, Name, RangeKey,
    SocketBucket, map,
};
use lb_common::verdict::Reason;

use super::Error;

/// Sizes of the maps that options enlarge. Those of pinned maps are [`super::grow`]'s to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Frontends of a family, and Service ports.
    pub services: u32,
    /// Backend ids of a family.
    pub backends: u32,
    /// Maglev slots.
    pub slots: u32,
    /// Source ranges of a family.
    pub source_ranges: u32,
    /// Flows of a family, at most.
    pub flows: u32,
    /// Flows of a family for which a new table has room: as it fills, a larger one takes its place.
    pub flows_at_first: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            services: map::FRONTENDS_CAPACITY,
            backends: map::BACKENDS_CAPACITY,
            slots: map::SLOTS_CAPACITY,
            source_ranges: map::SOURCE_RANGES_CAPACITY,
            flows: map::FLOWS_CAPACITY,
            flows_at_first: map::FLOWS_AT_FIRST,
        }
    }
}

/// The shape of a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) map: &'static str,
    pub(super) kind: MapType,
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) capacity: u32,
    /// The option that enlarges it.
    pub(super) option: Option<&'static str>,
}

/// One there, one back.
const ENTRIES_PER_FLOW: u32 = 2;

/// All maps that are pinned, with the sizes asked for.
pub(super) fn shapes(capacities: &Capacities) -> Vec<Shape> {
    const fn of<K, V>(map: &'static str, kind: MapType, capacity: u32, option: Option<&'static str>) -> Shape {
        Shape { map, kind, key: size_of::<K>(), value: size_of::<V>(), capacity, option }
    }
    use MapType::{Array, ArrayOfMaps, Hash, LpmTrie, LruHash, PerCpuArray};
    let Capacities { services, backends, slots, source_ranges, .. } = *capacities;
    let (services_by, backends_by) = (Some("--max-services"), Some("--max-backends"));
    let ranges_by = Some("--max-source-ranges");
    vec![
        of::<FrontendKey<V4>, Frontend>(map::FRONTENDS[0], Hash, services, services_by),
        of::<FrontendKey<V6>, Frontend>(map::FRONTENDS[1], Hash, services, services_by),
        of::<u32, u32>(map::BACKENDS[0], ArrayOfMaps, backends.div_ceil(map::BACKENDS_CHUNK), backends_by),
        of::<u32, u32>(map::BACKENDS[1], ArrayOfMaps, backends.div_ceil(map::BACKENDS_CHUNK), backends_by),
        of::<u32, u32>(map::SLOTS, ArrayOfMaps, slots.div_ceil(map::SLOTS_CHUNK), Some("--max-slots")),
        // The key of a trie begins with the length of its prefix.
        of::<(u32, RangeKey<V4>), u32>(map::SOURCE_RANGES[0], LpmTrie, source_ranges, ranges_by),
        of::<(u32, RangeKey<V6>), u32>(map::SOURCE_RANGES[1], LpmTrie, source_ranges, ranges_by),
        of::<AffinityKey<V4>, Affinity>(map::AFFINITY[0], LruHash, map::AFFINITY_CAPACITY, None),
        of::<AffinityKey<V6>, Affinity>(map::AFFINITY[1], LruHash, map::AFFINITY_CAPACITY, None),
        of::<FragmentKey<V4>, FragmentPorts>(map::FRAGMENTS[0], LruHash, map::FRAGMENTS_CAPACITY, None),
        of::<FragmentKey<V6>, FragmentPorts>(map::FRAGMENTS[1], LruHash, map::FRAGMENTS_CAPACITY, None),
        of::<u32, u32>(map::DEVICES, Hash, map::DEVICES_CAPACITY, None),
        of::<u32, Name>(map::NAMES, Hash, services, services_by),
        of::<u32, u32>(map::TRAFFIC, ArrayOfMaps, map::TRAFFIC_CAPACITY / map::TRAFFIC_CHUNK, None),
        of::<u32, u64>(map::FILTER, Array, Filter::WORDS, None),
        of::<u32, Config>(map::CONFIG, Array, 1, None),
        of::<u32, u64>(map::EPOCH, Array, 1, None),
        of::<u32, u64>(map::COUNTERS, PerCpuArray, Reason::COUNT, None),
        flows(Family::V4, capacities),
        flows(Family::V6, capacities),
        of::<u32, SocketBucket<V4>>(map::SOCKETS[0], Array, map::SOCKETS_BUCKETS, None),
        of::<u32, SocketBucket<V6>>(map::SOCKETS[1], Array, map::SOCKETS_BUCKETS, None),
    ]
}

/// That of a family's table of flows, when it is new.
pub(super) const fn flows(family: Family, capacities: &Capacities) -> Shape {
    let (map, words) = match family {
        Family::V4 => (map::FLOWS[0], bucket_words::<V4>()),
        Family::V6 => (map::FLOWS[1], bucket_words::<V6>()),
    };
    let Capacities { flows, flows_at_first, .. } = *capacities;
    Shape {
        map,
        kind: MapType::Array,
        key: size_of::<u32>(),
        value: 8 * words,
        capacity: buckets_for(if flows < flows_at_first { flows } else { flows_at_first }),
        option: Some("--max-flows"),
    }
}

impl Shape {
    /// The capacity of the pinned map, if there is one.
    ///
    /// # Errors
    /// It is another kind of map.
    pub(super) fn pinned(&self, maps: &Path) -> Result<Option<u32>, Error> {
        self.pinned_at(&maps.join(self.map))
    }

    /// The same of one that is pinned under another name.
    ///
    /// # Errors
    /// As above.
    pub(super) fn pinned_at(&self, path: &Path) -> Result<Option<u32>, Error> {
        if !path.exists() {
            return Ok(None);
        }
        let info = MapInfo::from_pin(path).map_err(|error| Error::map("open", self.map, &error))?;
        let kind = info.map_type().map_err(|error| Error::map("open", self.map, &error))?;
        let found = (kind, info.key_size() as usize, info.value_size() as usize);
        // The programs address these by index, so that another size is another shape.
        let fixed = self.option.is_none() && matches!(self.kind, MapType::Array | MapType::PerCpuArray);
        if found != (self.kind, self.key, self.value) || fixed && info.max_entries() != self.capacity {
            let describe = |kind: MapType, key: usize, value: usize, len: u32| {
                format!("kind {kind:?}, keys of {key} bytes, values of {value}, room for {len}")
            };
            return Err(Error::Shape {
                map: self.map,
                found: describe(found.0, found.1, found.2, info.max_entries()),
                needed: describe(self.kind, self.key, self.value, self.capacity),
            });
        }
        Ok(Some(info.max_entries()))
    }

    /// What is to be said where the pinned map is larger than `most`, which an option wants.
    pub(super) fn keeps(&self, pinned: u32, most: u32) -> Option<String> {
        let option = self.option.filter(|_| pinned > most)?;
        let (map, has, wants) = (self.map, self.room(pinned), self.room(most));
        Some(format!(
            "the map {map} keeps room for {has}, not {wants} ({option}): less takes effect after `sluice uninstall`"
        ))
    }

    /// Room as people count it, from that of the kernel.
    pub(super) fn room(&self, capacity: u32) -> u32 {
        match self.map {
            map::SLOTS => capacity.saturating_mul(map::SLOTS_CHUNK),
            backends if map::BACKENDS.contains(&backends) => capacity.saturating_mul(map::BACKENDS_CHUNK),
            _ if self.holds_flows() => flows_in(capacity),
            _ => capacity,
        }
    }

    /// Entries that people count as one.
    pub(super) fn entries_each(&self) -> u32 {
        if self.holds_flows() { ENTRIES_PER_FLOW } else { 1 }
    }

    /// Whether it is a table of flows.
    pub(super) fn holds_flows(&self) -> bool {
        map::FLOWS.contains(&self.map)
    }
}
