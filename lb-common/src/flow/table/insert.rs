//! Adding entries: who makes room for whom.

use super::control::{LIVE, ONE, SEQUENCE, STATE, USED};
use super::layout::{RESERVED, pack_key, write};
use super::{Bucket, Marks, Memory, NOWHERE, Place, SPILLED, TRIES, Way, hash, holds, mark_of, search, way_at, way_of};
use crate::flow::{mirror, state};
use crate::ip::Ip;
use crate::tables::{Flow, FlowKey, InsertError, Refused};

/// A bucket with no more free ways than these is crowded: a key that has another one that is less so goes there. Fewer would
/// leave fewer keys in their second bucket, and more of them without room in a table that is nearly full.
const CROWDED: u32 = 4;

/// In the version of a bucket: somebody inserts.
const LOCKED: u32 = 1;

/// In the version of a bucket: from one mark to the next, of that which comes after the last victim.
const TURN: u32 = 4;

/// Adds an entry, never in the place of an established one, and never beside one with the same key.
///
/// # Errors
/// The key is taken, or there is no room.
pub fn insert<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), InsertError> {
    let search = || search(memory, key);
    finish_by(begin(memory, key, flow), search, || claim(memory, key), |spot| finish(memory, key, flow, spot))
}

/// What is left to do after [`begin`] returned `spot`, where `search` stands for [`search`], `claim` for [`claim`] and `finish` for
/// [`finish`]: one after the other they need less of a small stack than one inside of the other.
///
/// # Errors
/// As for [`insert`].
#[inline(always)]
pub fn finish_by(
    spot: u64,
    search: impl FnOnce() -> u64,
    claim: impl FnOnce() -> u64,
    finish: impl FnOnce(u64),
) -> Result<(), InsertError> {
    match spot {
        DONE => return Ok(()),
        TAKEN => return Err(InsertError::Exists),
        BUSY => return Err(InsertError::Full),
        UNSURE if search() != NOWHERE => {
            finish(NOWHERE);
            return Err(InsertError::Exists);
        }
        _ => {}
    }
    let spot = claim();
    finish(spot);
    if spot == NOWHERE { Err(InsertError::Full) } else { Ok(()) }
}

/// Nothing: the entry is in its bucket.
pub const DONE: u64 = 0;
/// The key was there already.
const TAKEN: u64 = 1;
/// Another CPU has the bucket.
pub const BUSY: u64 = 2;
/// The version is taken, and the key may be there.
const UNSURE: u64 = 3;
/// The version is taken, the key is not there, and the bucket is crowded.
const CROWD: u64 = 4;

/// Adds an entry where its first bucket has room for it and nothing else can have its key: what most insertions come to. Of
/// others it tells [`finish_by`] how they go on, of which some have the version taken then.
#[inline(always)]
pub fn begin<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>) -> u64 {
    let words = pack_key(key);
    put(memory, &words, Place::of(memory, hash::<A>(&words, memory.seed())), flow)
}

/// [`begin`] of both entries of a flow, seen from the one there: of the way back, then, where that is done, of the way there, with
/// a result above [`THERE`]. The lines of both are asked for together, before the first compare-and-swap, which waits for all
/// that was read before it.
#[inline(always)]
pub fn begin_both<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>) -> u64 {
    let (back_key, back) = mirror(key, flow);
    let (words, back_words) = (pack_key(key), pack_key(&back_key));
    let place = Place::of(memory, hash::<A>(&words, memory.seed()));
    let back_place = Place::of(memory, hash::<A>(&back_words, memory.seed()));
    for place in [&place, &back_place] {
        if let Some(way) = memory.bucket(place.first).and_then(|bucket| bucket.way(place.home)) {
            way.control();
            way.word(0);
        }
    }
    match put(memory, &back_words, back_place, &back) {
        DONE => match put(memory, &words, place, flow) {
            DONE => DONE,
            left => THERE + left,
        },
        left => left,
    }
}

/// What is added to a result of [`begin_both`] that is of the way there.
pub const THERE: u64 = 8;

/// Adds both entries of a flow, seen from the one there, the way back first.
///
/// # Errors
/// Which of the two was refused, and why. The way back may be there already where the way there was.
pub fn insert_both<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), Refused> {
    let rest = |key: &FlowKey<A>, flow: &Flow<A>, left| {
        finish_by(left, || search(memory, key), || claim(memory, key), |spot| finish(memory, key, flow, spot))
    };
    let left = begin_both(memory, key, flow);
    if left >= THERE {
        return rest(key, flow, left - THERE).map_err(Refused::There);
    }
    let (back_key, back) = mirror(key, flow);
    rest(&back_key, &back, left).map_err(Refused::Back)?;
    if left == DONE { Ok(()) } else { insert(memory, key, flow).map_err(Refused::There) }
}

#[inline(always)]
fn put<A: Ip, M: Memory>(memory: &M, words: &[u64; 5], place: Place, flow: &Flow<A>) -> u64 {
    let Some(bucket) = memory.bucket(place.first) else { return BUSY };
    let Some(home) = bucket.way(place.home) else { return BUSY };
    // Also to have its line when it is written: the compare-and-swaps below wait for all that was written before.
    if holds::<A, _>(home, home.control(), place.tag, words) {
        return TAKEN;
    }
    let Some(version) = lock::<M>(bucket) else { return BUSY };
    let marks = Marks::of::<M>(bucket, place.tag);
    if marks.alike != 0 || version & SPILLED != 0 {
        return UNSURE;
    }
    if marks.free.count_ones() <= CROWDED {
        return CROWD;
    }
    let spot = take::<M>(bucket, place.first, place.home, marks.free);
    let Some(way) = way_at(memory, spot) else { return CROWD };
    settle::<A, _>(way, words, place.tag, flow);
    bucket.set_version(version);
    DONE
}

/// Writes an entry to a way that is ours.
#[inline(always)]
fn settle<A: Ip, W: Way>(way: W, words: &[u64; 5], tag: u32, flow: &Flow<A>) {
    let sequence = way.control() & SEQUENCE;
    write(words, flow, |index, word| way.set(index, word));
    way.publish(sequence | USED | LIVE | tag | flow.state & STATE);
}

/// Writes the entry at its spot, if it has one, and gives back the version that [`begin`] took.
#[inline(always)]
pub fn finish<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>, spot: u64) {
    let words = pack_key(key);
    let place = Place::of(memory, hash::<A>(&words, memory.seed()));
    let Some(bucket) = memory.bucket(place.first) else { return };
    let mut version = bucket.version();
    if let Some(way) = way_at(memory, spot) {
        if spot >> 8 != u64::from(place.first) {
            version |= SPILLED;
            // Before there is anything to be found in the other bucket.
            bucket.set_version(version);
        }
        settle::<A, _>(way, &words, place.tag, flow);
    }
    bucket.set_version(version & !LOCKED);
}

/// Takes the version of a bucket. Another CPU that has it gives it back within some hundred nanoseconds.
#[inline(always)]
fn lock<M: Memory>(bucket: M::Bucket) -> Option<u32> {
    for _ in 0..M::PATIENCE {
        let version = bucket.version();
        if version & LOCKED == 0 && bucket.swap_version(version, version | LOCKED) {
            return Some(version);
        }
    }
    None
}

/// Makes a free way of a bucket ours: the home of the key, or the first one.
#[inline(always)]
fn take<M: Memory>(bucket: M::Bucket, index: u32, home: u32, free: u32) -> u64 {
    let number = if free >> mark_of::<M>(home) & 1 != 0 { home } else { way_of::<M>(free.trailing_zeros()) };
    let Some(way) = bucket.way(number) else { return NOWHERE };
    let old = way.control();
    if old & USED == 0 && way.swap(old, old.wrapping_add(ONE) & SEQUENCE | USED) {
        return u64::from(index) << 8 | u64::from(number);
    }
    NOWHERE
}

/// Makes the way of a half-open flow ours, of the one that came first: they come round in turn.
#[inline(always)]
fn push_out<M: Memory>(bucket: M::Bucket, index: u32, half_open: u32) -> u64 {
    let version = bucket.version();
    let turn = version / TURN % M::WAYS;
    let above = half_open & u32::MAX << turn;
    let mark = if above != 0 { above.trailing_zeros() } else { half_open.trailing_zeros() };
    let number = way_of::<M>(mark);
    let Some(way) = bucket.way(number) else { return NOWHERE };
    let old = way.control();
    if old & (LIVE | state::ESTABLISHED) != LIVE || !way.swap(old, old.wrapping_add(ONE) & SEQUENCE | USED) {
        return NOWHERE;
    }
    // Where another CPU is faster, its turn is as good.
    let next = version & (TURN - 1) | ((mark + 1) * TURN);
    let _ = bucket.swap_version(version, next);
    u64::from(index) << 8 | u64::from(number)
}

/// Whether a bucket has as many established flows as it takes.
#[inline(always)]
pub(super) fn is_full<M: Memory>(bucket: M::Bucket) -> bool {
    Marks::of::<M>(bucket, 0).established.count_ones() >= M::WAYS - RESERVED
}

/// Makes a way of either bucket ours: a free one where there is one, else that of a half-open flow; in the bucket that has
/// fewer established ones, so that as many find room as can. The spot of the way, or [`NOWHERE`].
#[inline(always)]
pub fn claim<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>) -> u64 {
    let place = Place::of(memory, hash::<A>(&pack_key(key), memory.seed()));
    let (Some(first), Some(second)) = (memory.bucket(place.first), memory.bucket(place.second)) else {
        return NOWHERE;
    };
    for _ in 0..TRIES {
        let (near, far) = (Marks::of::<M>(first, 0), Marks::of::<M>(second, 0));
        let crowded = near.established.count_ones() > far.established.count_ones();
        let free = near.free | far.free != 0;
        let (near, far) = if free { (near.free, far.free) } else { (near.half_open::<M>(), far.half_open::<M>()) };
        let is_far = near == 0 || far != 0 && crowded;
        let (bucket, index, ways) = if is_far { (second, place.second, far) } else { (first, place.first, near) };
        if ways == 0 {
            break;
        }
        let spot = if free { take::<M>(bucket, index, place.home, ways) } else { push_out::<M>(bucket, index, ways) };
        if spot != NOWHERE {
            return spot;
        }
    }
    NOWHERE
}
