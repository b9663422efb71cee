//! In which order buckets are listed, and where in a bucket there is something to be listed.

use super::{Bucket, Memory, control};

/// The bucket with a place in the order in which all are listed. The table that entries move from comes first: one that is there no
/// more when its bucket is looked into is in the other table by then. So none is missed, and one that moves may be listed twice.
#[inline(always)]
pub fn in_turn<M: Memory>(memory: &M, place: u32) -> Option<M::Bucket> {
    let (buckets, old) = (memory.buckets(), memory.old());
    if place < old {
        return memory.bucket(buckets.wrapping_add(place));
    }
    let index = place - old;
    if index < buckets { memory.bucket(index) } else { None }
}

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
