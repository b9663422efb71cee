//! The ways of a bucket at one look: which of them are free, and whose the others are.

use super::{Bucket, Memory, Way, control, holds};
use crate::flow::state;
use crate::ip::Ip;

/// Marks of ways of a bucket: those with a tag, those that are free, those of established flows. First the even ways have
/// one each, then the odd ones. Made without branches, since the kernel's verifier walks each way that they make.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    pub(super) alike: u32,
    pub(super) free: u32,
    pub(super) established: u32,
}

/// Ways of a bucket that may be given to another flow, all of one kind.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// The lowest is given first.
    pub(super) kind: u32,
    pub(super) ways: u32,
}

impl Room {
    pub(super) const FREE: u32 = 0;
    /// Of half-open flows that are over.
    const OVER: u32 = 1;
    /// Of any half-open flows.
    const HALF_OPEN: u32 = 2;
}

/// The way of a mark.
#[inline(always)]
pub(super) const fn way_of<M: Memory>(mark: u32) -> u32 {
    if mark < M::WAYS / 2 { 2 * mark } else { 2 * (mark - M::WAYS / 2) + 1 }
}

/// The mark of a way.
#[inline(always)]
pub(super) const fn mark_of<M: Memory>(way: u32) -> u32 {
    way / 2 + way % 2 * (M::WAYS / 2)
}

/// A word of both control words of a pair.
const fn both(word: u32) -> u64 {
    (word as u64) << 32 | word as u64
}

/// All marks.
#[inline(always)]
const fn all<M: Memory>() -> u32 {
    (1 << M::WAYS) - 1
}

/// Marks from the bits of both halves, of which the high one has those of the odd ways.
#[inline(always)]
const fn close<M: Memory>(halves: u64) -> u32 {
    (halves | halves >> (32 - M::WAYS / 2)) as u32 & all::<M>()
}

impl Marks {
    #[inline(always)]
    pub(super) fn of<M: Memory>(bucket: M::Bucket, tag: u32) -> Self {
        const TOP: u64 = both(1 << 31);
        let (mut alike, mut used, mut established) = (0, 0, 0);
        for index in 0..M::WAYS / 2 {
            let pair = bucket.pair(index);
            let difference = (pair ^ both(tag)) & both(control::TAG | control::FOUND) ^ both(control::FOUND);
            // The top bit of a half stays clear only where all its bits are.
            let equal = !((difference & !TOP).wrapping_add(!TOP) | difference) & TOP;
            alike |= (equal >> 31) << index;
            used |= (pair & both(control::USED)) << index;
            established |= (pair & both(state::ESTABLISHED)) << index;
        }
        let free = !close::<M>(used >> control::USED.trailing_zeros()) & all::<M>();
        Self {
            alike: close::<M>(alike),
            free,
            established: close::<M>(established >> state::ESTABLISHED.trailing_zeros()),
        }
    }

    /// Those of half-open flows.
    #[inline(always)]
    const fn half_open<M: Memory>(self) -> u32 {
        !self.free & !self.established & all::<M>()
    }

    /// The ways that are given to another flow first.
    #[inline(always)]
    pub(super) fn room<M: Memory>(self, bucket: M::Bucket) -> Room {
        if self.free != 0 {
            return Room { kind: Room::FREE, ways: self.free };
        }
        match self.over::<M>(bucket) {
            0 => Room { kind: Room::HALF_OPEN, ways: self.half_open::<M>() },
            over => Room { kind: Room::OVER, ways: over },
        }
    }

    /// Those of half-open flows that are over.
    #[inline(always)]
    fn over<M: Memory>(self, bucket: M::Bucket) -> u32 {
        let [there, back] = [state::FIN_THERE, state::FIN_BACK].map(|fin| (state::RST / fin).trailing_zeros());
        let mut over = 0;
        for index in 0..M::WAYS / 2 {
            let pair = bucket.pair(index);
            // All at the place of the reset's bit.
            let fins = pair << there & pair << back;
            over |= ((pair | fins) & both(state::RST)) << index;
        }
        close::<M>(over >> state::RST.trailing_zeros()) & self.half_open::<M>()
    }

    /// The way that holds a key, [`Memory::WAYS`] for none.
    #[inline(always)]
    pub(super) fn holder<A: Ip, M: Memory>(self, bucket: M::Bucket, tag: u32, key: &[u64; 5]) -> u32 {
        let mut alike = self.alike;
        for _ in 0..M::WAYS {
            if alike == 0 {
                break;
            }
            let number = way_of::<M>(alike.trailing_zeros());
            if let Some(way) = bucket.way(number)
                && holds::<A, _>(way, way.control(), tag, key)
            {
                return number;
            }
            alike &= alike - 1;
        }
        M::WAYS
    }
}
