//! `TRAFFIC`: what Service ports carry, counted on each CPU.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use aya::maps::{Map, MapData, MapError, MapType, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use lb_common::tables::{Traffic, map};

use super::chunks::Chunks;
use super::error::io_error;
use super::{Error, Pins, Raw};

/// What these Service ports, in order of their ids, have carried on this node.
///
/// # Errors
/// Nothing is pinned, or it cannot be read.
pub fn traffic(pins: &Pins, ids: impl Iterator<Item = u32>) -> Result<BTreeMap<u32, Traffic>, Error> {
    // Opened anew each time: it is asked for seldom, and meanwhile there may be more of it.
    let array = TrafficArray::open(&pins.maps())?;
    array.read(ids).map_err(|error| Error::map("read", map::TRAFFIC, &error))
}

/// The array.
#[derive(Debug)]
pub(super) struct TrafficArray(Chunks<Traffic>);

impl TrafficArray {
    /// What is pinned.
    ///
    /// # Errors
    /// A pin cannot be opened.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let room = (map::TRAFFIC_CAPACITY, map::TRAFFIC_CHUNK);
        Ok(Self(Chunks::open(folder, map::TRAFFIC, room, (MapType::PerCpuArray, 0))?))
    }

    /// Finds chunks that another has made since.
    ///
    /// # Errors
    /// A pin cannot be opened.
    pub(super) fn look(&mut self) -> Result<(), Error> {
        self.0.look()
    }

    /// Makes room for what these Service ports carry. Ids beyond the array are not counted.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn make_room(&mut self, ids: impl Iterator<Item = u32>) -> io::Result<()> {
        let mut numbers: Vec<_> = ids.filter(|id| *id < self.0.len()).map(|id| id / map::TRAFFIC_CHUNK).collect();
        numbers.sort_unstable();
        numbers.dedup();
        self.0.make(numbers)
    }

    /// Forgets what a Service port has carried: its id is to be another's.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn clear(&self, id: u32) -> io::Result<()> {
        let Some(mut chunk) = self.chunk(id / map::TRAFFIC_CHUNK)? else { return Ok(()) };
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let none = PerCpuValues::try_from(vec![Raw(Traffic::NONE); cpus])?;
        chunk.set(id % map::TRAFFIC_CHUNK, none, 0).map_err(io_error)
    }

    fn read(&self, ids: impl Iterator<Item = u32>) -> io::Result<BTreeMap<u32, Traffic>> {
        let (mut all, mut open) = (BTreeMap::new(), None);
        for id in ids {
            let number = id / map::TRAFFIC_CHUNK;
            if open.as_ref().is_none_or(|(opened, _)| *opened != number) {
                open = Some((number, self.chunk(number)?));
            }
            let Some((_, Some(chunk))) = &open else { continue };
            let values = chunk.get(&(id % map::TRAFFIC_CHUNK), 0).map_err(io_error)?;
            all.insert(id, values.iter().fold(Traffic::NONE, |sum, Raw(one)| sum.plus(one)));
        }
        Ok(all)
    }

    fn chunk(&self, number: u32) -> io::Result<Option<PerCpuArray<MapData, Raw<Traffic>>>> {
        let open = |path| PerCpuArray::try_from(Map::from_map_data(MapData::from_pin(path)?)?);
        let chunk: Result<_, MapError> = self.0.pin(number).map(open).transpose();
        chunk.map_err(io_error)
    }
}
