//! Whether the kernel's maps are as they were left: all of them are read, and nothing is made of what they hold.

use std::io;

use lb_common::mem::Image;
use lb_common::tables::{Filter, map};

use super::Maps;
use super::dense::bits;
use super::maps::{FamilyMaps, Of};
use crate::store::StoreError;

/// Whether the maps hold what an image says, and no more.
pub(super) fn holds<A: Of>(maps: &Maps, image: &Image, names: usize) -> Result<bool, StoreError> {
    let FamilyMaps { frontends, backends, ranges, .. } = A::maps(maps);
    let (side, read) = (A::side(image), |map| move |source| StoreError::Read { map, source });
    let (mut same, mut count) = (true, 0);
    frontends
        .each(|key, frontend| {
            count += 1;
            same &= side.frontends.get(key) == Some(frontend);
        })
        .map_err(read(map::FRONTENDS[names]))?;
    same &= count == side.frontends.len();
    // These come in the order of their ids.
    let mut wanted = side.backends.iter();
    backends
        .each(|id, backend| same &= backend.port.wire() == 0 || wanted.next() == Some((id, backend)))
        .map_err(read(map::BACKENDS[names]))?;
    same &= wanted.next().is_none();
    let mut count = 0;
    ranges
        .each(|key, len| {
            count += 1;
            same &= side.ranges.contains(&(key, len));
        })
        .map_err(read(map::SOURCE_RANGES[names]))?;
    Ok(same && count == side.ranges.len())
}

impl Maps {
    /// The same of the maps that the families share.
    pub(super) fn hold(&mut self, image: &Image) -> Result<bool, StoreError> {
        let read = |map| move |source| StoreError::Read { map, source };
        let (mut same, mut count) = (true, 0);
        let names = self.names.each(|id, name| {
            count += 1;
            same &= image.names.get(id) == Some(name);
        });
        names.map_err(read(map::NAMES))?;
        let words = self.filter.words().map_err(read(map::FILTER))?;
        let words = words.words().take(Filter::BITS as usize / 64);
        let set = (0..).zip(words).flat_map(|(index, word)| bits(index * 64, word));
        same &= count == image.names.len() && set.eq(image.filter.iter().copied());
        let slots = &mut self.slots;
        let mut tables = image.runs.iter().map(|(at, run)| slots.are(*at, run));
        let are: io::Result<bool> = tables.try_fold(same, |same, is| Ok(same && is?));
        are.map_err(read(map::SLOTS))
    }
}
