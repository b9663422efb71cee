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
    #[inline(always)]
    pub(super) fn of<M: Memory>(memory: &M, hash: u64) -> Self {
        let buckets = u64::from(memory.buckets());
        let (high, low) = (hash >> 32, hash & 0xffff_ffff);
        Self {
            first: ((high * buckets) >> 32) as u32,
            second: ((low * buckets) >> 32) as u32,
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
