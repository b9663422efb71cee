//! `SLOTS`, the array of all Maglev tables. One of its chunks at a time is mapped into our memory: what is mapped counts as
//! ours, all of it, whether it was touched or not.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;

use aya::maps::MapType;
use lb_common::mem::Slots;
use lb_common::tables::map;

use super::Error;
use super::chunks::{Chunks, MMAPABLE};
use super::dense::Words;

/// Slots of a chunk.
const CHUNK: usize = map::SLOTS_CHUNK as usize;
const SLOTS_PER_WORD: u32 = 2;
/// 64-bit words of a chunk.
const WORDS: u32 = map::SLOTS_CHUNK / SLOTS_PER_WORD;

/// The array.
#[derive(Debug)]
pub(super) struct SlotArray {
    chunks: Chunks<u64>,
    len: usize,
    /// The chunk that was last used.
    mapped: Option<(u32, Words)>,
}

impl SlotArray {
    /// What is pinned, with room for so many slots at most.
    ///
    /// # Errors
    /// A pin cannot be opened.
    pub(super) fn open(folder: &Path, len: u32) -> Result<Self, Error> {
        let chunks = Chunks::open(folder, map::SLOTS, (len / SLOTS_PER_WORD, WORDS), (MapType::Array, MMAPABLE))?;
        Ok(Self { chunks, len: len as usize, mapped: None })
    }

    /// Finds chunks that another has made since.
    ///
    /// # Errors
    /// A pin cannot be opened.
    pub(super) fn look(&mut self) -> Result<(), Error> {
        self.chunks.look()
    }

    /// Makes room for tables that are about to be written, in one go.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn make_room<'a>(&mut self, tables: impl Iterator<Item = (u32, &'a Slots)>) -> io::Result<()> {
        let len = self.len;
        let fitting = tables.map(|(at, slots)| at as usize..at as usize + slots.len()).filter(|place| place.end <= len);
        let mut numbers: Vec<_> =
            fitting.filter(|place| !place.is_empty()).flat_map(|place| chunks_of(&place)).collect();
        numbers.dedup();
        self.chunks.make(numbers)
    }

    /// Writes the slots of a table. The frontends that point to it must be written after it.
    ///
    /// # Errors
    /// It ends beyond the array (`E2BIG`), or there is no memory.
    pub(super) fn write(&mut self, at: u32, slots: &Slots) -> io::Result<()> {
        let at = at as usize;
        if at + slots.len() > self.len {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        self.chunks.make(chunks_of(&(at..at + slots.len())))?;
        let mut ids = slots.iter();
        self.visit(at..at + slots.len(), |words, places| {
            for (place, id) in places.zip(&mut ids) {
                if let Some(slot) = words.and_then(|words| words.half(place)) {
                    slot.store(id, Ordering::Relaxed);
                }
            }
        })?;
        // The frontend that will point here must not be seen before its slots.
        std::sync::atomic::fence(Ordering::Release);
        Ok(())
    }

    /// Whether these are the slots of a table.
    ///
    /// # Errors
    /// A chunk cannot be mapped.
    pub(super) fn are(&mut self, at: u32, slots: &Slots) -> io::Result<bool> {
        let (place, mut seen, mut same) = (at as usize..at as usize + slots.len(), 0, true);
        if place.end > self.len {
            return Ok(false);
        }
        self.visit(place, |words, places| {
            let slot = |place| words.and_then(|words| words.half(place)).map_or(0, |slot| slot.load(Ordering::Relaxed));
            let some = seen..seen + places.len();
            seen = some.end;
            same = same && slots.are(some, |at| slot(places.start + at));
        })?;
        Ok(same)
    }

    /// Reads those of a table; only its beginning where it ends beyond the array.
    ///
    /// # Errors
    /// A chunk cannot be mapped.
    pub(super) fn read(&mut self, at: u32, len: u32) -> io::Result<Slots> {
        // A frontend that points beyond the array is a stranger's; what it names is not worth its memory.
        let at = at as usize;
        let place = at..(at + len as usize).min(self.len).max(at);
        let mut ids = Vec::with_capacity(place.len());
        self.visit(place, |words, places| {
            let slot = |place| words.and_then(|words| words.half(place)).map_or(0, |slot| slot.load(Ordering::Relaxed));
            ids.extend(places.map(slot));
        })?;
        Ok(ids.into())
    }

    /// Visits slots in their order: each chunk, if it is there, with the numbers that they have in it.
    fn visit(&mut self, slots: Range<usize>, mut each: impl FnMut(Option<&Words>, Range<usize>)) -> io::Result<()> {
        for number in chunks_of(&slots) {
            let base = number as usize * CHUNK;
            let first = slots.start.max(base) - base;
            let last = slots.end.min(base + CHUNK) - base;
            each(self.chunk(number)?, first..last);
        }
        Ok(())
    }

    fn chunk(&mut self, number: u32) -> io::Result<Option<&Words>> {
        let Some(chunk) = self.chunks.chunk(number) else { return Ok(None) };
        let words = match self.mapped.take().filter(|(mapped, _)| *mapped == number) {
            Some((_, words)) => words,
            None => Words::map(chunk, WORDS as usize)?,
        };
        Ok(Some(&self.mapped.insert((number, words)).1))
    }
}

/// The numbers of the chunks in which slots lie.
fn chunks_of(slots: &Range<usize>) -> impl Iterator<Item = u32> + use<> {
    let numbers = slots.start / CHUNK..slots.end.div_ceil(CHUNK).max(slots.start / CHUNK);
    // Indexes of slots have 32 bits.
    numbers.map(|number| number as u32)
}
