//! Arrays that grow: an array of maps, whose elements are chunks of one size. A chunk is made when something in it is
//! first written. So memory follows need, nothing that is in use ever moves, and the programs that use it go on as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};
use lb_common::tables::Entry;

use super::dense::Words;
use super::{Error, pins, sys};

/// `BPF_F_MMAPABLE`.
pub(super) const MMAPABLE: u32 = 1 << 10;

/// An array in a folder of pins: `NAME` is the array of maps, `NAME-<number>` each chunk that there is.
#[derive(Debug)]
pub(super) struct Chunks<V> {
    name: &'static str,
    folder: PathBuf,
    array: OwnedFd,
    /// Elements of the array, and of a chunk.
    room: (u32, u32),
    /// Kind and `BPF_F_…` of each chunk, as the programs declare them.
    kind: (MapType, u32),
    there: BTreeMap<u32, OwnedFd>,
    /// Those that are known to be in the array.
    linked: BTreeSet<u32>,
    element: PhantomData<V>,
}

impl<V: Entry> Chunks<V> {
    /// What is pinned. `room`: elements of the array, and of a chunk.
    ///
    /// # Errors
    /// A pin cannot be opened, or is no such chunk.
    pub(super) fn open(
        folder: &Path,
        name: &'static str,
        room: (u32, u32),
        kind: (MapType, u32),
    ) -> Result<Self, Error> {
        let array = sys::open(&folder.join(name)).map_err(|error| Error::map("open", name, &error))?;
        let (folder, there, linked) = (folder.to_owned(), BTreeMap::new(), BTreeSet::new());
        let mut this = Self { name, folder, array, room, kind, there, linked, element: PhantomData };
        this.look()?;
        Ok(this)
    }

    /// Finds what another has made since.
    ///
    /// # Errors
    /// As of [`Chunks::open`].
    pub(super) fn look(&mut self) -> Result<(), Error> {
        let name = self.name;
        let failed = |error: &dyn std::error::Error| Error::map("open", name, error);
        for (number, path) in pinned(&self.folder, name)? {
            if self.there.contains_key(&number) {
                continue;
            }
            let info = MapInfo::from_pin(&path).map_err(|error| failed(&error))?;
            let found = (info.value_size(), info.max_entries());
            let needed = (sys::value_size::<V>(), self.chunk_len());
            if found != needed {
                let describe = |(value, len)| format!("values of {value} bytes, room for {len}");
                return Err(Error::Shape { map: name, found: describe(found), needed: describe(needed) });
            }
            self.there.insert(number, sys::open(&path).map_err(|error| failed(&error))?);
        }
        Ok(())
    }

    /// How many elements there may be.
    pub(super) fn len(&self) -> u32 {
        self.room.0
    }

    /// How many elements a chunk has.
    pub(super) fn chunk_len(&self) -> u32 {
        self.room.1
    }

    /// The pin of a chunk, if it is there.
    pub(super) fn pin(&self, number: u32) -> Option<PathBuf> {
        self.there.contains_key(&number).then(|| self.folder.join(format!("{}-{number}", self.name)))
    }

    /// A chunk, if it is there.
    pub(super) fn chunk(&self, number: u32) -> Option<BorrowedFd<'_>> {
        self.there.get(&number).map(OwnedFd::as_fd)
    }

    /// An element; none where its chunk is not there.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn get(&self, index: u32) -> io::Result<Option<V>> {
        let chunk = self.chunk(index / self.chunk_len());
        chunk.map(|chunk| sys::get(chunk, index % self.chunk_len())).transpose()
    }

    /// Writes an element.
    ///
    /// # Errors
    /// It is beyond the array (`E2BIG`), or there is no memory for its chunk.
    pub(super) fn put(&mut self, index: u32, value: &V) -> io::Result<()> {
        if index >= self.len() {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let (number, place) = (index / self.chunk_len(), index % self.chunk_len());
        self.make([number])?;
        self.chunk(number).map_or(Ok(()), |chunk| sys::put(chunk, place, value))
    }

    /// Visits all elements that there are, in the order of their indexes. The chunks must be [`MMAPABLE`]: one at a time is mapped,
    /// since the kernel would look for each of its elements and copy it out by itself.
    ///
    /// # Errors
    /// A chunk cannot be mapped.
    pub(super) fn each(&self, mut each: impl FnMut(&u32, &V)) -> io::Result<()> {
        // Elements of arrays begin at multiples of eight bytes.
        let words = size_of::<V>().div_ceil(8);
        for (number, chunk) in &self.there {
            let base = number * self.chunk_len();
            let memory = Words::map(chunk.as_fd(), words * self.chunk_len() as usize)?;
            for place in 0..self.chunk_len() {
                if let Some(value) = memory.entry(place as usize * words) {
                    each(&(base + place), &value);
                }
            }
        }
        Ok(())
    }

    /// Sees to it that these chunks are there.
    ///
    /// # Errors
    /// There is no memory for a chunk.
    pub(super) fn make(&mut self, numbers: impl IntoIterator<Item = u32>) -> io::Result<()> {
        let mut missing = Vec::new();
        for number in numbers {
            if self.linked.contains(&number) {
                continue;
            }
            if !self.there.contains_key(&number) {
                let made = sys::create_array::<V>(self.name, self.chunk_len(), self.kind)?;
                // Pinned before it is in the array: what the programs can see, every agent can find.
                sys::pin(made.as_fd(), &self.folder.join(format!("{}-{number}", self.name)))?;
                self.there.insert(number, made);
            } else if sys::get::<u32>(self.array.as_fd(), number).is_ok() {
                self.linked.insert(number);
                continue;
            }
            missing.push(number);
        }
        let fds: Vec<_> = missing.iter().filter_map(|number| Some((*number, self.chunk(*number)?))).collect();
        // All at once, since each such write waits until no program can see what was there before.
        sys::put_maps(self.array.as_fd(), &fds)?;
        self.linked.extend(missing);
        Ok(())
    }
}

/// The chunks of an array in a folder of pins.
fn pinned(folder: &Path, name: &str) -> Result<Vec<(u32, PathBuf)>, Error> {
    let number = |pin: &String| pin.strip_prefix(name)?.strip_prefix('-')?.parse().ok();
    Ok(pins::names(folder)?.iter().filter_map(|pin| Some((number(pin)?, folder.join(pin)))).collect())
}

/// Puts all chunks that are pinned also into another array, which is to take the place of the pinned one.
///
/// # Errors
/// A pin cannot be opened, or the other array has no room for it.
pub(super) fn share(folder: &Path, name: &str, array: BorrowedFd<'_>) -> io::Result<()> {
    let open = |(number, path): (u32, PathBuf)| Ok((number, sys::open(&path)?));
    let chunks: Vec<_> =
        pinned(folder, name).map_err(io::Error::other)?.into_iter().map(open).collect::<io::Result<_>>()?;
    let chunks: Vec<_> = chunks.iter().map(|(number, chunk)| (*number, chunk.as_fd())).collect();
    sys::put_maps(array, &chunks)
}
