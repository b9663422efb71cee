//! `SLOTS`, the array of all Maglev tables. A window of it at a time is mapped into our memory: what is mapped counts as
//! ours, all of it, whether it was touched or not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use lb_common::mem::Slots;

use super::dense::Words;
use super::shape::SLOTS_PER_WORD;

/// Slots of a window, 1 MiB: 260 tables of ten backends.
const WINDOW: usize = 1 << 18;

/// The array.
#[derive(Debug)]
pub(super) struct SlotArray {
    array: OwnedFd,
    len: usize,
    /// The last window that was asked for, and its number.
    window: Option<(usize, Words)>,
}

impl SlotArray {
    /// The array, which has `words` elements.
    pub(super) fn new(array: OwnedFd, words: u32) -> Self {
        Self { array, len: words as usize * SLOTS_PER_WORD as usize, window: None }
    }

    /// Writes the slots of a table. The frontends that point to it must be written after it.
    ///
    /// # Errors
    /// It ends beyond the array (`E2BIG`), or the array cannot be mapped.
    pub(super) fn write(&mut self, at: u32, slots: &Slots) -> io::Result<()> {
        let at = at as usize;
        if at + slots.len() > self.len {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let mut ids = slots.iter();
        self.visit(at, slots.len(), |words, places| {
            for (place, id) in places.zip(&mut ids) {
                if let Some(slot) = words.half(place) {
                    slot.store(id, Ordering::Relaxed);
                }
            }
        })?;
        // The frontend that will point here must not be seen before its slots.
        std::sync::atomic::fence(Ordering::Release);
        Ok(())
    }

    /// Reads those of a table; only its beginning where it ends beyond the array.
    ///
    /// # Errors
    /// The array cannot be mapped.
    pub(super) fn read(&mut self, at: u32, len: u32) -> io::Result<Slots> {
        // A frontend that points beyond the array is a stranger's; what it names is not worth its memory.
        let len = (len as usize).min(self.len.saturating_sub(at as usize));
        let mut ids = Vec::with_capacity(len);
        self.visit(at as usize, len, |words, slots| {
            ids.extend(slots.map(|slot| words.half(slot).map_or(0, |slot| slot.load(Ordering::Relaxed))));
        })?;
        Ok(ids.into())
    }

    /// Visits slots in their order: each window with the numbers that they have in it.
    fn visit(
        &mut self,
        mut at: usize,
        len: usize,
        mut each: impl FnMut(&Words, std::ops::Range<usize>),
    ) -> io::Result<()> {
        let end = at + len;
        while at < end {
            let (number, first) = (at / WINDOW, at % WINDOW);
            let last = (first + end - at).min(WINDOW);
            each(self.window(number)?, first..last);
            at += last - first;
        }
        Ok(())
    }

    fn window(&mut self, number: usize) -> io::Result<&Words> {
        let words = match self.window.take().filter(|(mapped, _)| *mapped == number) {
            Some((_, words)) => words,
            None => {
                let (first, len) = (number * WINDOW, (self.len - number * WINDOW).min(WINDOW));
                let per_word = SLOTS_PER_WORD as usize;
                Words::map(self.array.as_fd(), first / per_word..(first + len) / per_word)?
            }
        };
        Ok(&self.window.insert((number, words)).1)
    }
}
