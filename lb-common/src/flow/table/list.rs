//! Where in a bucket there is something to be listed.

use super::{Bucket, Memory, control};

/// The ways of a bucket in which entries are, a bit each.
#[inline(always)]
pub fn live<M: Memory>(bucket: M::Bucket) -> u32 {
    let mut ways = 0;
    for index in 0..M::WAYS / 2 {
        let pair = bucket.pair(index);
        // Not those that have moved.
        let pair = pair >> control::LIVE.trailing_zeros() & pair >> control::USED.trailing_zeros();
        ways |= (pair as u32 & 1 | (pair >> 31) as u32 & 2) << (2 * index);
    }
    ways
}
