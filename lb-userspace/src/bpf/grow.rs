//! Maps that shall be larger than the pinned ones. A map of the kernel's keeps its size, so a larger one takes its place:
//! it is made and filled under another name, the programs are loaded over it, and one step then gives it the name.
//!
//! Until that step nothing has changed for anybody, and whoever is killed before leaves no more than the other name behind.
//! Programs of the agent before go on with the old map until their links have the new ones: both hold the same, as long
//! as nobody writes. So this is for maps that only the agent writes, and it must not write before it has attached.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use lb_common::ip::{V4, V6};
use lb_common::tables::{Entry, Frontend, FrontendKey, Name, map};

use super::maps::Prefix;
use super::shape::{self, Shape};
use super::{Capacities, Error, chunks, pins, sys};

/// The end of the name under which a map waits to take the place of another.
const NEW: &str = "-new";

/// How large the maps are to be.
#[derive(Debug)]
pub(super) struct Sizes {
    folder: PathBuf,
    /// Entries of each, as the kernel counts them.
    entries: Vec<(&'static str, u32)>,
    larger: Vec<Larger>,
    /// Which options have no effect yet.
    pub(super) warnings: Vec<String>,
}

/// A map that is to take the place of a pinned one.
#[derive(Debug)]
struct Larger {
    map: &'static str,
    /// Entries of the pinned one.
    pinned: u32,
    contents: Contents,
}

/// How the larger map gets what the pinned one holds.
#[derive(Clone, Copy, Debug)]
enum Contents {
    /// By a function that copies all entries, given the room of the pinned one.
    Entries(fn(BorrowedFd<'_>, BorrowedFd<'_>, u32) -> io::Result<()>),
    /// The chunks are pinned themselves, and are shared.
    Chunks,
}

impl Contents {
    /// Of the maps that only the agent writes, and that an option enlarges.
    fn of(map: &str) -> Option<Self> {
        match map {
            _ if map == map::FRONTENDS[0] => Some(Self::Entries(copy::<FrontendKey<V4>, Frontend>)),
            _ if map == map::FRONTENDS[1] => Some(Self::Entries(copy::<FrontendKey<V6>, Frontend>)),
            _ if map == map::SOURCE_RANGES[0] => Some(Self::Entries(copy::<Prefix<V4>, u32>)),
            _ if map == map::SOURCE_RANGES[1] => Some(Self::Entries(copy::<Prefix<V6>, u32>)),
            map::NAMES => Some(Self::Entries(copy::<u32, Name>)),
            map::SLOTS => Some(Self::Chunks),
            _ if map::BACKENDS.contains(&map) => Some(Self::Chunks),
            _ => None,
        }
    }
}

impl Sizes {
    /// As the options want them; without these, as they are pinned. Removes what an agent left that was killed.
    ///
    /// # Errors
    /// The pinned maps are of other shapes, or cannot be read.
    pub(super) fn of(folder: &Path, wanted: Option<&Capacities>) -> Result<Self, Error> {
        let mut sizes =
            Self { folder: folder.to_owned(), entries: Vec::new(), larger: Vec::new(), warnings: Vec::new() };
        // Tables of flows, which packets write, are another's to replace.
        let shapes = shape::shapes(&wanted.copied().unwrap_or_default());
        for shape in shapes.into_iter().filter(|shape| !shape.holds_flows()) {
            pins::unpin(&sizes.waiting(shape.map))?;
            let entries = match shape.pinned(folder)? {
                Some(pinned) if wanted.is_some() => sizes.choose(&shape, pinned),
                Some(pinned) => pinned,
                None => shape.capacity,
            };
            sizes.entries.push((shape.map, entries));
        }
        Ok(sizes)
    }

    /// Entries of a map of which there is one already.
    fn choose(&mut self, shape: &Shape, pinned: u32) -> u32 {
        match Contents::of(shape.map) {
            Some(contents) if pinned < shape.capacity => {
                self.larger.push(Larger { map: shape.map, pinned, contents });
                shape.capacity
            }
            _ => {
                self.warnings.extend(shape.keeps(pinned, shape.capacity));
                pinned
            }
        }
    }

    /// Has the programs of an object use maps of these sizes.
    pub(super) fn apply(&self, loader: &mut EbpfLoader<'_>) {
        for (map, entries) in &self.entries {
            loader.map_max_entries(map, *entries);
        }
        for Larger { map, .. } in &self.larger {
            loader.map_pin_path(map, self.waiting(map));
        }
    }

    /// Fills the larger maps. To be called when the loader has made them, and before a packet meets a program that uses them.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub(super) fn fill(&self) -> Result<(), Error> {
        for Larger { map, pinned, contents } in &self.larger {
            let failed = |error: io::Error| Error::map("enlarge", map, &error);
            let to = sys::open(&self.waiting(map)).map_err(failed)?;
            match contents {
                Contents::Entries(copy) => {
                    let from = sys::open(&self.folder.join(map)).map_err(failed)?;
                    copy(from.as_fd(), to.as_fd(), *pinned).map_err(failed)?;
                }
                Contents::Chunks => chunks::share(&self.folder, map, to.as_fd()).map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Gives the larger maps their names.
    ///
    /// # Errors
    /// A pin cannot be renamed.
    pub(super) fn settle(&self) -> Result<(), Error> {
        self.larger.iter().try_for_each(|Larger { map, .. }| {
            let waiting = self.waiting(map);
            fs::rename(&waiting, self.folder.join(map)).map_err(|source| Error::file("rename", &waiting, source))
        })
    }

    fn waiting(&self, map: &str) -> PathBuf {
        waiting(&self.folder, map)
    }
}

/// Where a map waits to take the place of another.
pub(super) fn waiting(folder: &Path, map: &str) -> PathBuf {
    folder.join(format!("{map}{NEW}"))
}

fn copy<K: Entry, V: Entry>(from: BorrowedFd<'_>, to: BorrowedFd<'_>, capacity: u32) -> io::Result<()> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let shape = (sys::value_size::<K>(), sys::value_size::<V>(), capacity);
    sys::read_all(from, shape, |key: &K, value: &V| {
        keys.push(*key);
        values.push(*value);
    })?;
    sys::write_all(to, &keys, &values)
}
