//! The kernel's maps as a [`Store`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering;

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use lb_common::ip::{Be16, Family, V4, V6};
use lb_common::mem::{self, Image, Runs};
use lb_common::tables::{Backend, Config, Filter, Frontend, FrontendKey, map};

use super::dense::bits;
use super::error::io_error;
use super::maps::{FamilyMaps, Of};
use super::same::holds;
use super::{Error, Maps, Object, Pins, Raw};
use crate::plan::{FamilyOp, Op};
use crate::store::{Store, StoreError};

/// The value of each source range.
const ADMITTED: u32 = 1;

/// The kernel's maps.
pub struct BpfStore {
    maps: Maps,
    pins: Pins,
    /// Whether the programs are known to serve IPv6.
    serves_v6: bool,
    writes: u64,
}

impl BpfStore {
    /// The maps that are pinned.
    ///
    /// # Errors
    /// None are, or they are of other shapes.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self { maps: Maps::open(pins)?, pins: pins.clone(), serves_v6: false, writes: 0 })
    }

    /// The maps that only the packet path writes.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The same, to be changed.
    pub fn maps_mut(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// Map operations written since the store was opened.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// What the programs know of the node.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn config(&self) -> Result<Config, StoreError> {
        match self.maps.config.get(&0, 0) {
            Ok(Raw(config)) => Ok(config),
            Err(MapError::KeyNotFound) => Ok(Config::EMPTY),
            Err(error) => Err(StoreError::Read { map: map::CONFIG, source: io_error(error) }),
        }
    }

    /// The frontends of these Service ports, by id.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn frontends_of<A: Of>(&self, services: &BTreeSet<u32>) -> Result<Vec<FrontendKey<A>>, StoreError> {
        let mut keys = Vec::new();
        let read = A::maps(&self.maps).frontends.each(|key, frontend| {
            if services.contains(&frontend.service) {
                keys.push(*key);
            }
        });
        let map = map::FRONTENDS[names_of::<A>()];
        read.map(|()| keys).map_err(|source| StoreError::Read { map, source })
    }

    /// Finds parts of maps that another process, or part of this one, has made since this was opened.
    ///
    /// # Errors
    /// A pin cannot be opened.
    pub fn look(&mut self) -> Result<(), Error> {
        let Maps { v4, v6, slots, traffic, .. } = &mut self.maps;
        v4.backends.look()?;
        v6.backends.look()?;
        slots.look()?;
        traffic.look()
    }

    /// Of these frontends alone: they, their slots, and the backends in these.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read_frontends<A: Of>(
        &mut self,
        keys: impl IntoIterator<Item = FrontendKey<A>>,
    ) -> Result<Image, StoreError> {
        let mut image = Image::default();
        let names = names_of::<A>();
        let side = A::side_mut(&mut image);
        for key in keys {
            let found = A::maps(&self.maps).frontends.get(&key);
            let failed = |error| StoreError::Read { map: map::FRONTENDS[names], source: io_error(error) };
            if let Some(frontend) = found.map_err(failed)? {
                side.frontends.insert(key, frontend);
            }
        }
        let runs = self.runs(side)?;
        let ids: BTreeSet<_> = runs.values().flat_map(|slots| slots.ids().iter().copied()).collect();
        for id in ids {
            let found = A::maps(&self.maps).backends.get(id);
            let found = found.map_err(|source| StoreError::Read { map: map::BACKENDS[names], source })?;
            if let Some(backend) = found.filter(|backend| backend.port.wire() != 0) {
                side.backends.insert(id, backend);
            }
        }
        image.runs = runs;
        Ok(image)
    }

    fn family<A: Of>(&mut self, op: &FamilyOp<A>) -> Result<(), MapError> {
        let FamilyMaps { frontends, backends, ranges, .. } = A::maps_mut(&mut self.maps);
        match op {
            FamilyOp::Backend { id, backend } => backends.put(*id, backend).map_err(MapError::from),
            FamilyOp::RemoveBackend { id } => {
                let none = Backend { addr: A::default(), port: Be16::new(0), flags: 0 };
                backends.put(*id, &none).map_err(MapError::from)
            }
            FamilyOp::Frontend { key, frontend } => frontends.map.insert(Raw(*key), Raw(*frontend), 0),
            FamilyOp::RemoveFrontend { key } => gone(frontends.map.remove(&Raw(*key))),
            FamilyOp::Range { key, len } => ranges.map.insert(&Key::new(*len, Raw(*key)), ADMITTED, 0),
            FamilyOp::RemoveRange { key, len } => gone(ranges.map.remove(&Key::new(*len, Raw(*key)))),
        }
    }

    /// Nothing depends on it, so a failure stops nothing.
    fn forget_traffic(&self, id: u32) {
        if let Err(error) = self.maps.traffic.clear(id) {
            tracing::debug!("cannot clear what a removed Service port has carried: {error}");
        }
    }

    fn filter(&self, bit: u32, set: bool) -> Result<(), MapError> {
        let index = bit as usize / 64;
        // The other half belongs to the packet path.
        let word = self.maps.filter.words()?.word(index).filter(|_| bit < Filter::BITS);
        let word = word.ok_or_else(|| io::Error::other("the bit is not the agent's"))?;
        let mask = 1u64 << (bit % 64);
        if set {
            word.fetch_or(mask, Ordering::Release);
        } else {
            word.fetch_and(!mask, Ordering::Release);
        }
        Ok(())
    }

    /// The tables that frontends point to.
    fn runs<A: Of>(&mut self, image: &mem::Side<A>) -> Result<Runs, StoreError> {
        let mut lens = BTreeMap::<u32, u32>::new();
        for table in image.frontends.values().flat_map(Frontend::tables) {
            let len = lens.entry(table.at).or_default();
            *len = table.len.max(*len);
        }
        let slots = &mut self.maps.slots;
        let read: io::Result<_> = lens.into_iter().map(|(at, len)| Ok((at, slots.read(at, len)?))).collect();
        read.map_err(|source| StoreError::Read { map: map::SLOTS, source })
    }
}

fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Where a family's maps stand among the names.
fn names_of<A: Of>() -> usize {
    match A::FAMILY {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn side<A: Of>(maps: &Maps, image: &mut Image) -> Result<(), StoreError> {
    let names = names_of::<A>();
    let FamilyMaps { frontends, backends, ranges, .. } = A::maps(maps);
    let side = A::side_mut(image);
    let read = |map| move |source| StoreError::Read { map, source };
    frontends
        .each(|key, frontend| {
            side.frontends.insert(*key, *frontend);
        })
        .map_err(read(map::FRONTENDS[names]))?;
    backends
        .each(|id, backend| {
            if backend.port.wire() != 0 {
                side.backends.insert(*id, *backend);
            }
        })
        .map_err(read(map::BACKENDS[names]))?;
    ranges
        .each(|key, len| {
            side.ranges.insert((key, len));
        })
        .map_err(read(map::SOURCE_RANGES[names]))
}

impl Store for BpfStore {
    fn holds(&mut self, image: &Image) -> Result<bool, StoreError> {
        let same = self.config()? == image.config && self.maps.hold(image)?;
        Ok(same && holds::<V4>(&self.maps, image, 0)? && holds::<V6>(&self.maps, image, 1)?)
    }

    fn read(&mut self) -> Result<Image, StoreError> {
        let mut image = Image::default();
        let maps = &self.maps;
        let read = |map| move |source| StoreError::Read { map, source };
        side::<V4>(maps, &mut image)?;
        side::<V6>(maps, &mut image)?;
        maps.names
            .each(|id, name| {
                image.names.insert(*id, *name);
            })
            .map_err(read(map::NAMES))?;
        image.config = self.config()?;
        let words = maps.filter.words().map_err(read(map::FILTER))?;
        let words = words.words().take(Filter::BITS as usize / 64);
        image.filter = (0..).zip(words).flat_map(|(index, word)| bits(index * 64, word)).collect();
        image.runs = self.runs(&image.v4)?;
        image.runs.extend(self.runs(&image.v6)?);
        Ok(image)
    }

    fn write(&mut self, op: &Op) -> Result<(), StoreError> {
        if !self.serves_v6 && matches!(op, Op::V6(FamilyOp::Frontend { .. })) {
            let loaded = Object::load_v6(&self.pins);
            loaded.map_err(|error| StoreError::of(op, io::Error::other(error)))?;
            self.serves_v6 = true;
        }
        let written = match op {
            Op::Config(config) => self.maps.config.set(0, Raw(*config), 0),
            Op::Run { at, slots } => self.maps.slots.write(*at, slots).map_err(MapError::from),
            Op::Name { id, name } => self.maps.names.map.insert(Raw(*id), Raw(**name), 0),
            Op::RemoveName { id } => gone(self.maps.names.map.remove(&Raw(*id))).inspect(|()| self.forget_traffic(*id)),
            Op::Filter { bit, set } => self.filter(*bit, *set),
            Op::V4(op) => self.family(op),
            Op::V6(op) => self.family(op),
        };
        written.map_err(|error| match io_error(error) {
            // E2BIG is what the kernel says of a full hash table and of an index beyond an array, ENOSPC of a full trie.
            full if matches!(full.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => StoreError::full(op),
            source => StoreError::of(op, source),
        })?;
        self.writes += 1;
        Ok(())
    }

    fn prepare(&mut self, ops: &[Op]) {
        let tables = ops.iter().filter_map(|op| match op {
            Op::Run { at, slots } => Some((*at, slots)),
            _ => None,
        });
        let made = self.maps.slots.make_room(tables);
        let named = ops.iter().filter_map(|op| if let Op::Name { id, .. } = op { Some(*id) } else { None });
        let made = made.and_then(|()| self.maps.traffic.make_room(named));
        let made = made.and_then(|()| {
            make_room::<V4>(&mut self.maps, ops, |op| if let Op::V4(op) = op { Some(op) } else { None })
        });
        let made = made.and_then(|()| {
            make_room::<V6>(&mut self.maps, ops, |op| if let Op::V6(op) = op { Some(op) } else { None })
        });
        if let Err(error) = made {
            tracing::debug!("cannot make room: {error}");
        }
    }
}

/// Makes room for the backends of a family among these writes.
fn make_room<A: Of>(maps: &mut Maps, ops: &[Op], of: impl Fn(&Op) -> Option<&FamilyOp<A>>) -> io::Result<()> {
    let backends = &mut A::maps_mut(maps).backends;
    let ids = ops.iter().filter_map(of).filter_map(|op| match op {
        FamilyOp::Backend { id, .. } => Some(*id),
        _ => None,
    });
    let (len, chunk) = (backends.len(), backends.chunk_len());
    let numbers: BTreeSet<_> = ids.filter(|id| *id < len).map(|id| id / chunk).collect();
    backends.make(numbers)
}
