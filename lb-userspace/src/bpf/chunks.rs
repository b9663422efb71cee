//! Arrays that grow: an array of maps, whose elements are chunks of one size. A chunk is made when something in it is
//! first written. So memory follows need, nothing that is in use ever moves, and the programs that use it go on as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{Error, pins, sys};

/// What all chunks of an array have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Bytes of an element.
    pub(super) value: u32,
    /// Elements.
    pub(super) len: u32,
    /// `BPF_F_…`, as the programs declare them.
    pub(super) flags: u32,
}

/// An array in a folder of pins: `NAME` is the array of maps, `NAME-<number>` each chunk that there is.
#[derive(Debug)]
pub(super) struct Chunks {
    name: &'static str,
    folder: PathBuf,
    array: OwnedFd,
    chunk: Chunk,
    there: BTreeMap<u32, OwnedFd>,
    /// Those that are known to be in the array.
    linked: BTreeSet<u32>,
}

impl Chunks {
    /// What is pinned.
    ///
    /// # Errors
    /// A pin cannot be opened.
    pub(super) fn open(folder: &Path, name: &'static str, chunk: Chunk) -> Result<Self, Error> {
        let open = |path: PathBuf| sys::open(&path).map_err(|error| Error::map("open", name, &error));
        let mut there = BTreeMap::new();
        for pin in pins::names(folder)? {
            if let Some(number) = pin.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')?.parse().ok()) {
                there.insert(number, open(folder.join(&pin))?);
            }
        }
        let array = open(folder.join(name))?;
        Ok(Self { name, folder: folder.to_owned(), array, chunk, there, linked: BTreeSet::new() })
    }

    /// A chunk, if it is there.
    pub(super) fn get(&self, number: u32) -> Option<BorrowedFd<'_>> {
        self.there.get(&number).map(OwnedFd::as_fd)
    }

    /// Sees to it that these chunks are there.
    ///
    /// # Errors
    /// There is no memory for a chunk.
    pub(super) fn make(&mut self, numbers: impl Iterator<Item = u32>) -> io::Result<()> {
        let mut missing = Vec::new();
        for number in numbers {
            if self.linked.contains(&number) {
                continue;
            }
            if !self.there.contains_key(&number) {
                let Chunk { value, len, flags } = self.chunk;
                let made = sys::create_array(self.name, value, len, flags)?;
                // Pinned before it is in the array: what the programs can see, every agent can find.
                sys::pin(made.as_fd(), &self.folder.join(format!("{}-{number}", self.name)))?;
                self.there.insert(number, made);
            } else if sys::has(self.array.as_fd(), number)? {
                self.linked.insert(number);
                continue;
            }
            missing.push(number);
        }
        let fds: Vec<_> = missing.iter().filter_map(|number| Some((*number, self.get(*number)?))).collect();
        // All at once, since each such write waits until no program can see what was there before.
        sys::put_maps(self.array.as_fd(), &fds)?;
        self.linked.extend(missing);
        Ok(())
    }
}
