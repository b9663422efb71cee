//! A table of flows, mapped into our memory: the protocol of the programs, run beside them.

use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use lb_common::flow::table::{self, Bucket, Memory, Way};
use lb_common::ip::Ip;

use super::super::dense::Words;

/// The table.
#[derive(Debug)]
pub(super) struct Mapped<A> {
    words: Words,
    buckets: u32,
    family: PhantomData<A>,
}

/// A bucket.
#[derive(Debug)]
pub(super) struct Line<'a, A> {
    words: &'a Words,
    /// Where it begins, in 64-bit words.
    at: usize,
    family: PhantomData<A>,
}

/// Control word and entry of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<'a> {
    control: &'a AtomicU32,
    words: &'a Words,
    /// Where the entry begins, in 64-bit words.
    at: usize,
}

impl<A: Ip> Mapped<A> {
    /// Maps an array of so many buckets.
    pub(super) fn new(array: BorrowedFd<'_>, buckets: u32) -> Self {
        let words = Words::map(array, buckets as usize * table::bucket_words::<A>()).unwrap();
        Self { words, buckets, family: PhantomData }
    }

    /// What makes hashes unpredictable: 0 in a table that is new.
    fn seed(&self) -> u32 {
        self.words.half(table::SEED_AT).map_or(0, |seed| seed.load(Ordering::Relaxed))
    }

    fn bucket(&self, index: u32) -> Option<Line<'_, A>> {
        let at = index as usize * table::bucket_words::<A>();
        (index < self.buckets).then_some(Line { words: &self.words, at, family: PhantomData })
    }
}

impl<'a, A: Ip> Memory for &'a Mapped<A> {
    const WAYS: u32 = table::WAYS;
    type Bucket = Line<'a, A>;

    fn buckets(&self) -> u32 {
        self.buckets
    }

    fn seed(&self) -> u32 {
        Mapped::seed(self)
    }

    fn bucket(&self, index: u32) -> Option<Line<'a, A>> {
        Mapped::bucket(self, index)
    }
}

impl<A> Clone for Line<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Line<'_, A> {}

impl<'a, A: Ip> Line<'a, A> {
    fn half(&self, at: usize) -> Option<&'a AtomicU32> {
        self.words.half(2 * self.at + at)
    }
}

impl<'a, A: Ip> Bucket for Line<'a, A> {
    type Way = Slot<'a>;

    fn version(&self) -> u32 {
        self.half(table::VERSION_AT).map_or(1, |version| version.load(Ordering::Acquire))
    }

    fn swap_version(&self, old: u32, new: u32) -> bool {
        let word = self.half(table::VERSION_AT);
        word.is_some_and(|word| word.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok())
    }

    fn set_version(&self, version: u32) {
        if let Some(word) = self.half(table::VERSION_AT) {
            word.store(version, Ordering::Release);
        }
    }

    fn pair(&self, index: u32) -> u64 {
        let word = self.words.word(self.at + table::pair_at(index as usize));
        word.filter(|_| index < table::WAYS / 2).map_or(0, |pair| pair.load(Ordering::Acquire))
    }

    fn way(&self, index: u32) -> Option<Slot<'a>> {
        let (words, index) = (self.words, index as usize);
        let control = self.half(table::control_at(index)).filter(|_| index < table::WAYS as usize)?;
        Some(Slot { control, words, at: self.at + table::line_at::<A>(index) })
    }
}

impl Way for Slot<'_> {
    fn control(&self) -> u32 {
        // What was read of the entry before stays before.
        fence(Ordering::Acquire);
        self.control.load(Ordering::Acquire)
    }

    fn swap(&self, old: u32, new: u32) -> bool {
        let swapped = self.control.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        // What is written of the entry later stays later.
        fence(Ordering::SeqCst);
        swapped
    }

    fn publish(&self, control: u32) {
        self.control.store(control, Ordering::Release);
    }

    fn word(&self, index: usize) -> u64 {
        self.words.word(self.at + index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn set(&self, index: usize, value: u64) {
        if let Some(word) = self.words.word(self.at + index) {
            word.store(value, Ordering::Relaxed);
        }
    }
}
