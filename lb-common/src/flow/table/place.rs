//! Where a key may be.

use super::{Memory, control, layout};
use crate::ip::Ip;

/// Where a key may be.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) first: u32,
    pub(super) second: u32,
    pub(super) home: u32,
    pub(super) tag: u32,
}

impl Place {
    /// In the only table, or the one that entries are moved to.
    #[inline(always)]
    pub(super) fn of<M: Memory>(memory: &M, hash: u64) -> Self {
        Self::within::<M>(0, memory.buckets(), hash)
    }

    /// In the table that entries are moved from.
    #[inline(always)]
    pub(super) fn old<M: Memory>(memory: &M, hash: u64) -> Self {
        Self::within::<M>(memory.buckets(), memory.old(), hash)
    }

    /// In the table that entries are inserted into.
    #[inline(always)]
    pub(super) fn to_fill<M: Memory>(memory: &M, hash: u64) -> Self {
        if memory.turned() { Self::of(memory, hash) } else { Self::old(memory, hash) }
    }

    /// In a table of so many buckets from `base` on.
    #[inline(always)]
    fn within<M: Memory>(base: u32, buckets: u32, hash: u64) -> Self {
        let buckets = u64::from(buckets);
        let (high, low) = (hash >> 32, hash & 0xffff_ffff);
        Self {
            first: base + ((high * buckets) >> 32) as u32,
            second: base + ((low * buckets) >> 32) as u32,
            home: (((low & 0xffff) * u64::from(M::WAYS)) >> 16) as u32,
            tag: (high as u32) << control::TAG.trailing_zeros(),
        }
    }
}

/// All bits of the result depend on all bits of the key (the finaliser of MurmurHash3, on 64 bits).
#[inline(always)]
pub(super) fn hash<A: Ip>(words: &[u64; 5], seed: u32) -> u64 {
    let mut state = u64::from(seed);
    for word in words.iter().take(layout::key_words::<A>()) {
        state = (state ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        state ^= state >> 32;
    }
    state = state.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ state >> 32
}
