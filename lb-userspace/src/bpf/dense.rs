//! Arrays of numbers that the kernel lets us map into our memory, so that reading and writing cost no system call.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use lb_common::tables::Entry;
use memmap2::{MmapOptions, MmapRaw};

use super::sys;

/// An array map of 64-bit words, or of elements of several (`BPF_F_MMAPABLE`). The programs read and write it at the same
/// time, so each access is atomic.
#[derive(Debug)]
pub(super) struct Words {
    memory: MmapRaw,
    words: usize,
}

impl Words {
    /// Maps the array, whose elements are `words` words together.
    pub(super) fn map(array: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let memory = MmapOptions::new().len(words * 8).map_raw(array.as_raw_fd())?;
        Ok(Self { memory, words })
    }

    pub(super) fn words(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.words).filter_map(|index| Some(self.word(index)?.load(Ordering::Relaxed)))
    }

    /// The words as twice as many halves, the low half first.
    pub(super) fn halves(&self) -> usize {
        self.words * 2
    }

    pub(super) fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.words {
            return None;
        }
        // SAFETY: the index is inside the mapping, which starts at a page and lives as long as self; all others
        // that write this memory, here and in the kernel, do so atomically.
        Some(unsafe { AtomicU64::from_ptr(self.memory.as_mut_ptr().cast::<u64>().add(index)) })
    }

    /// A copy of an entry that begins at a word; none where it ends beyond the last. One that is written meanwhile may be half of
    /// what it was.
    pub(super) fn entry<V: Entry>(&self, index: usize) -> Option<V> {
        let mut copy = MaybeUninit::<V>::uninit();
        for (word, at) in (0..size_of::<V>()).step_by(8).enumerate() {
            let bytes = self.word(index + word)?.load(Ordering::Relaxed).to_ne_bytes();
            let len = bytes.len().min(size_of::<V>() - at);
            // SAFETY: so many bytes are left both there and here.
            unsafe { bytes.as_ptr().copy_to_nonoverlapping(copy.as_mut_ptr().cast::<u8>().add(at), len) };
        }
        // SAFETY: all of it was written, and an entry is plain integers.
        Some(unsafe { copy.assume_init() })
    }

    pub(super) fn half(&self, index: usize) -> Option<&AtomicU32> {
        if index >= self.halves() {
            return None;
        }
        // The low half comes first in memory only on little-endian machines, the only ones the object is built for.
        const { assert!(cfg!(target_endian = "little")) };
        // SAFETY: as in `word`; nobody uses a word as such and as halves both.
        Some(unsafe { AtomicU32::from_ptr(self.memory.as_mut_ptr().cast::<u32>().add(index)) })
    }
}

/// Such an array, mapped when it is first used: most who open all maps never look into it.
#[derive(Debug)]
pub(super) struct Unmapped {
    array: OwnedFd,
    words: u32,
    mapped: OnceLock<Words>,
}

impl Unmapped {
    /// The array, which has `words` elements.
    pub(super) fn new(array: OwnedFd, words: u32) -> Self {
        Self { array, words, mapped: OnceLock::new() }
    }

    /// A word of it, read without mapping it.
    ///
    /// # Errors
    /// It is beyond the array.
    pub(super) fn read(&self, index: u32) -> io::Result<u64> {
        sys::get(self.array.as_fd(), index)
    }

    /// It, mapped.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn words(&self) -> io::Result<&Words> {
        if let Some(words) = self.mapped.get() {
            return Ok(words);
        }
        let words = Words::map(self.array.as_fd(), self.words as usize)?;
        Ok(self.mapped.get_or_init(|| words))
    }
}

/// Numbers of the set bits of a word, the first of which has number `base`.
pub(super) fn bits(base: u32, mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(base + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_from_the_low_end() {
        assert_eq!(bits(128, 0b101 | 1 << 63).collect::<Vec<_>>(), [128, 130, 191]);
        assert_eq!(bits(0, 0).count(), 0);
    }
}
