//! The pinned maps, opened and typed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapType, PerCpuArray};
use lb_common::ip::{Family, Ip, V4, V6};
use lb_common::mem;
use lb_common::tables::{
    Affinity, AffinityKey, Backend, Config, Entry, FragmentKey, FragmentPorts, Frontend, FrontendKey, Name, RangeKey,
    SocketBucket, map,
};

use super::chunks::{Chunks, MMAPABLE};
use super::dense::Unmapped;
use super::shape::{self, Shape};
use super::slots::SlotArray;
use super::table::FlowTable;
use super::traffic::TrafficArray;
use super::{Capacities, Error, Pins, Raw, sys};

/// A hash map.
#[derive(Debug)]
pub(super) struct Table<K: Entry, V: Entry> {
    pub(super) map: HashMap<MapData, Raw<K>, Raw<V>>,
    all: Whole,
}

/// A trie of source ranges.
pub(super) struct Ranges<A: Ip> {
    pub(super) map: LpmTrie<MapData, Raw<RangeKey<A>>, u32>,
    all: Whole,
}

/// A key of such a trie, as the kernel has it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Prefix<A: Ip> {
    len: u32,
    key: RangeKey<A>,
}

impl<A: Ip> Entry for Prefix<A> {
    const FIELDS: usize = size_of::<u32>() + RangeKey::<A>::FIELDS;
}

/// A map to be read as a whole.
#[derive(Debug)]
struct Whole {
    fd: OwnedFd,
    /// Bytes of a key, bytes of a value, room for entries.
    shape: (u32, u32, u32),
}

impl<K: Entry, V: Entry> Table<K, V> {
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        match self.map.get(&Raw(*key), 0) {
            Ok(Raw(value)) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn each(&self, each: impl FnMut(&K, &V)) -> io::Result<()> {
        sys::read_all(self.all.fd.as_fd(), self.all.shape, each)
    }
}

impl<A: Ip> Ranges<A> {
    /// Each range, and the length of its prefix.
    pub(super) fn each(&self, mut each: impl FnMut(RangeKey<A>, u32)) -> io::Result<()> {
        sys::read_all(self.all.fd.as_fd(), self.all.shape, |Prefix { len, key }: &Prefix<A>, _: &u32| each(*key, *len))
    }
}

/// The maps of one family.
pub struct FamilyMaps<A: Ip> {
    pub(super) frontends: Table<FrontendKey<A>, Frontend>,
    pub(super) backends: Chunks<Backend<A>>,
    pub(super) ranges: Ranges<A>,
    pub(super) flows: FlowTable<A>,
    pub(super) sockets: Array<MapData, Raw<SocketBucket<A>>>,
    pub(super) affinity: Table<AffinityKey<A>, Affinity>,
    pub(super) fragments: Table<FragmentKey<A>, FragmentPorts>,
}

/// All pinned maps.
pub struct Maps {
    pub(super) v4: FamilyMaps<V4>,
    pub(super) v6: FamilyMaps<V6>,
    pub(super) names: Table<u32, Name>,
    pub(super) devices: Table<u32, u32>,
    pub(super) config: Array<MapData, Raw<Config>>,
    pub(super) slots: SlotArray,
    pub(super) traffic: TrafficArray,
    pub(super) filter: Unmapped,
    pub(super) counters: PerCpuArray<MapData, u64>,
    /// Where they are pinned.
    folder: PathBuf,
    shapes: Vec<(Shape, u32)>,
}

/// A family, as the key to its maps.
pub trait Of: mem::Of {
    /// This family's maps.
    fn maps(maps: &Maps) -> &FamilyMaps<Self>;
    /// The same, to be changed.
    fn maps_mut(maps: &mut Maps) -> &mut FamilyMaps<Self>;
}

macro_rules! of {
    ($ip:ty, $field:ident) => {
        impl Of for $ip {
            fn maps(maps: &Maps) -> &FamilyMaps<Self> {
                &maps.$field
            }
            fn maps_mut(maps: &mut Maps) -> &mut FamilyMaps<Self> {
                &mut maps.$field
            }
        }
    };
}

of!(V4, v4);
of!(V6, v6);

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The map.
    pub map: &'static str,
    /// What is in it: entries, or flows.
    pub entries: u64,
    /// What it has room for.
    pub capacity: u64,
    /// The option that enlarges it.
    pub option: Option<&'static str>,
}

impl Maps {
    /// Opens what an agent of this layout pinned.
    ///
    /// # Errors
    /// Nothing is pinned, or maps of other shapes are.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        if !pins.exist() {
            return Err(Error::NotInstalled { path: pins.root().to_owned() });
        }
        let folder = pins.maps();
        let mut shapes = Vec::new();
        for shape in shape::shapes(&Capacities::default()) {
            let capacity = shape.pinned(&folder)?.ok_or_else(|| Error::Map {
                act: "open",
                map: shape.map,
                reason: format!("it is not pinned at {}", folder.display()),
            })?;
            shapes.push((shape, capacity));
        }
        Ok(Self {
            v4: family(pins, &shapes)?,
            v6: family(pins, &shapes)?,
            names: table(&folder, map::NAMES)?,
            devices: table(&folder, map::DEVICES)?,
            config: typed(data(&folder, map::CONFIG)?, map::CONFIG)?,
            slots: SlotArray::open(&folder, room_of(&shapes, map::SLOTS))?,
            traffic: TrafficArray::open(&folder)?,
            filter: unmapped(&folder, map::FILTER)?,
            counters: typed(data(&folder, map::COUNTERS)?, map::COUNTERS)?,
            folder,
            shapes,
        })
    }

    /// How full each map is. Of `SLOTS` the caller knows more than the array does.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn fill(&self, slots_used: u64) -> Result<Vec<Fill>, Error> {
        let mut fills = Vec::new();
        for (shape, capacity) in &self.shapes {
            let entries = match shape.map {
                map::SLOTS => slots_used,
                map::FILTER | map::CONFIG | map::EPOCH | map::COUNTERS | map::TRAFFIC => continue,
                // Full of what sockets left that are closed.
                sockets if map::SOCKETS.contains(&sockets) => continue,
                _ => self.entries(shape.map)?,
            };
            fills.push(self.full(shape, *capacity, entries));
        }
        Ok(fills)
    }

    /// How full each map is of which `levels` says how many entries it holds. Reads no entries.
    pub fn fill_of(&self, levels: &[(&str, u64)]) -> Vec<Fill> {
        let level = |map| Some(levels.iter().find(|(name, _)| *name == map)?.1);
        self.shapes
            .iter()
            .filter_map(|(shape, capacity)| Some(self.full(shape, *capacity, level(shape.map)?)))
            .collect()
    }

    fn full(&self, shape: &Shape, capacity: u32, entries: u64) -> Fill {
        // While these are open, a larger table may have taken the place of one of flows.
        let now = if shape.holds_flows() { shape.pinned(&self.folder).ok().flatten() } else { None };
        // A half that lost its other half is a flow as well.
        let entries = entries.div_ceil(u64::from(shape.entries_each()));
        let capacity = u64::from(shape.room(now.unwrap_or(capacity)));
        Fill { map: shape.map, entries, capacity, option: shape.option }
    }

    /// The names of Service ports, by id.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn names(&self) -> Result<BTreeMap<u32, Name>, Error> {
        let mut names = BTreeMap::new();
        let read = self.names.each(|id, name| {
            names.insert(*id, *name);
        });
        read.map(|()| names).map_err(|error| Error::map("read", map::NAMES, &error))
    }

    /// Room in a map, as people count it.
    pub fn capacity(&self, map: &str) -> u32 {
        room_of(&self.shapes, map)
    }

    /// Entries of a map, counted one by one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn entries(&self, name: &'static str) -> Result<u64, Error> {
        self.count(name).map_err(|error| Error::map("read", name, &error))
    }

    fn count(&self, name: &str) -> io::Result<u64> {
        let mut n = 0;
        for (family, index) in [(Family::V4, 0), (Family::V6, 1)] {
            let done = match family {
                Family::V4 => self.v4.count(name, index, &mut n),
                Family::V6 => self.v6.count(name, index, &mut n),
            };
            done?;
        }
        if name == map::NAMES {
            self.names.each(|_, _| n += 1)?;
        } else if name == map::DEVICES {
            self.devices.each(|_, _| n += 1)?;
        }
        Ok(n)
    }
}

impl<A: Of> FamilyMaps<A> {
    fn count(&self, name: &str, index: usize, n: &mut u64) -> io::Result<()> {
        if name == map::FRONTENDS[index] {
            self.frontends.each(|_, _| *n += 1)?;
        } else if name == map::BACKENDS[index] {
            self.backends.each(|_, backend| *n += u64::from(backend.port.wire() != 0))?;
        } else if name == map::SOURCE_RANGES[index] {
            self.ranges.each(|_, _| *n += 1)?;
        } else if name == map::AFFINITY[index] {
            self.affinity.each(|_, _| *n += 1)?;
        } else if name == map::FLOWS[index] {
            // Half-open ones make room for each other, and take none from these. While a table grows some are counted twice.
            self.flows.each(|_, flow| *n += u64::from(flow.is_established())).map(drop)?;
        } else if name == map::FRAGMENTS[index] {
            self.fragments.each(|_, _| *n += 1)?;
        }
        Ok(())
    }
}

fn room_of(shapes: &[(Shape, u32)], map: &str) -> u32 {
    let of = shapes.iter().find(|(shape, _)| shape.map == map);
    of.map_or(0, |(shape, capacity)| shape.room(*capacity))
}

fn family<A: Of>(pins: &Pins, shapes: &[(Shape, u32)]) -> Result<FamilyMaps<A>, Error> {
    let folder = &pins.maps();
    let index = match A::FAMILY {
        Family::V4 => 0,
        Family::V6 => 1,
    };
    let backends = map::BACKENDS[index];
    Ok(FamilyMaps {
        frontends: table(folder, map::FRONTENDS[index])?,
        backends: Chunks::open(
            folder,
            backends,
            (room_of(shapes, backends), map::BACKENDS_CHUNK),
            (MapType::Array, MMAPABLE),
        )?,
        ranges: ranges(folder, map::SOURCE_RANGES[index])?,
        flows: FlowTable::new(&pins.programs()),
        sockets: typed(data(folder, map::SOCKETS[index])?, map::SOCKETS[index])?,
        affinity: table(folder, map::AFFINITY[index])?,
        fragments: table(folder, map::FRAGMENTS[index])?,
    })
}

pub(super) fn data(folder: &Path, name: &'static str) -> Result<MapData, Error> {
    MapData::from_pin(folder.join(name)).map_err(|error| Error::map("open", name, &error))
}

fn whole(data: &MapData, name: &'static str) -> Result<Whole, Error> {
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(|error| Error::map("open", name, &error))?;
    let info = data.info().map_err(|error| Error::map("open", name, &error))?;
    Ok(Whole { fd, shape: (info.key_size(), info.value_size(), info.max_entries()) })
}

fn typed<T: TryFrom<Map, Error = MapError>>(data: MapData, name: &'static str) -> Result<T, Error> {
    Map::from_map_data(data).and_then(T::try_from).map_err(|error| Error::map("open", name, &error))
}

pub(super) fn table<K: Entry, V: Entry>(folder: &Path, name: &'static str) -> Result<Table<K, V>, Error> {
    let data = data(folder, name)?;
    Ok(Table { all: whole(&data, name)?, map: typed(data, name)? })
}

fn ranges<A: Ip>(folder: &Path, name: &'static str) -> Result<Ranges<A>, Error> {
    let data = data(folder, name)?;
    Ok(Ranges { all: whole(&data, name)?, map: typed(data, name)? })
}

fn unmapped(folder: &Path, name: &'static str) -> Result<Unmapped, Error> {
    let Whole { fd, shape: (_, _, words) } = whole(&data(folder, name)?, name)?;
    Ok(Unmapped::new(fd, words))
}
