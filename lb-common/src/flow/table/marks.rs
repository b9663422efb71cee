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

impl Marks {
    #[inline(always)]
    pub(super) fn of<M: Memory>(bucket: M::Bucket, tag: u32) -> Self {
        const fn both(word: u32) -> u64 {
            (word as u64) << 32 | word as u64
        }
        const TOP: u64 = both(1 << 31);
        let (mut alike, mut used, mut established) = (0, 0, 0);
        for index in 0..M::WAYS / 2 {
            let pair = bucket.pair(index);
            let difference = (pair ^ both(tag)) & both(control::TAG | control::LIVE) ^ both(control::LIVE);
            // The top bit of a half stays clear only where all its bits are.
            let equal = !((difference & !TOP).wrapping_add(!TOP) | difference) & TOP;
            alike |= (equal >> 31) << index;
            used |= (pair & both(control::USED)) >> control::USED.trailing_zeros() << index;
            established |= (pair & both(state::ESTABLISHED)) >> state::ESTABLISHED.trailing_zeros() << index;
        }
        let all = (1 << M::WAYS) - 1;
        let close = |halves: u64| (halves | halves >> (32 - M::WAYS / 2)) as u32 & all;
        Self { alike: close(alike), free: !close(used) & all, established: close(established) }
    }

    /// Those of half-open flows.
    #[inline(always)]
    pub(super) const fn half_open<M: Memory>(self) -> u32 {
        !self.free & !self.established & ((1 << M::WAYS) - 1)
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
