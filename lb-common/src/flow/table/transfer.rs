//! A larger table that takes the place of another while packets go on: both are one [`Memory`] then.
//!
//! Entries are inserted into the old table first, since programs that know no other do the same, and from one moment on
//! ([`Memory::turned`]) into the new one, to which the others are then moved one by one. Who inserts holds the version of the key's
//! first bucket in either table, so that a key never comes to be in both: those that know but one table hold the one or the
//! other. All take them in the same order, the old one's first.
//!
//! An entry that moves is published in the new table before it is marked as moved in the old one, where it can still be read then,
//! but not searched. So a reader that searches the old table first misses none: what it found there it can read, and what it
//! found no longer is in the new table. Who changes the state of one that has moved meanwhile follows it. Whoever moves entries
//! holds the version in the new table from the copy to the end: nobody else moves the same one, or inserts its key. What
//! others change of the old entry meanwhile, the copy is changed in, too; where they remove it, the copy goes with it.

use core::array;

use super::control::{FOUND, SEQUENCE, STATE, USED};
use super::insert::{claim_at, lock, reach, release};
use super::layout::{key_words, next_hop_at, pack_seen, seen_at};
use super::{Bucket, Change, Memory, NOWHERE, Place, Snapshot, TRIES, Way, WayOf, control, hash, holds, look, way_at};
use crate::ip::Ip;
use crate::tables::Flow;

/// How often a changed state is brought over before an entry waits for another time: more often than the bits of a state change
/// in the time that this takes.
const CHANGES: u32 = 4;

/// What became of an entry that was to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// There was none, or it was removed meanwhile.
    None,
    /// It is in the new table, and no longer in the old one.
    Moved,
    /// It stays for now: another CPU inserts in its bucket or changes it, or there is no room.
    Waits,
}

/// Where a key is in the table of a spot, and in the other one if there are two.
#[inline(always)]
pub(super) fn places<M: Memory>(memory: &M, hash: u64, spot: u64) -> (Place, Option<Place>) {
    let new = Place::of(memory, hash);
    if memory.old() == 0 {
        return (new, None);
    }
    let old = Place::old(memory, hash);
    let is_old = spot >> 8 >= u64::from(memory.buckets()) && spot != NOWHERE;
    if is_old { (old, Some(new)) } else { (new, Some(old)) }
}

/// Takes the versions of a key's first buckets in both tables, or neither.
#[inline(always)]
pub(super) fn hold<A: Ip, M: Memory>(memory: &M, words: &[u64; 5]) -> bool {
    let hash = hash::<A>(words, memory.seed());
    let first = |place: Place| memory.bucket(place.first);
    let (Some(old), Some(new)) = (first(Place::old(memory, hash)), first(Place::of(memory, hash))) else {
        return false;
    };
    if lock(memory, old).is_none() {
        return false;
    }
    let both = lock(memory, new).is_some();
    if !both {
        release::<M>(old);
    }
    both
}

/// The key of an entry.
#[inline(always)]
fn key_of<A: Ip, W: Way>(way: W) -> [u64; 5] {
    array::from_fn(|index| if index < key_words::<A>() { way.word(index) } else { 0 })
}

/// Changes the control word of an entry that has moved from a spot of the old table, and says whether it is still there. Nobody has
/// moved in where it was, so that its key still stands there.
#[inline(always)]
pub fn follow<A: Ip, M: Memory>(memory: &M, spot: u64, change: Change) -> bool {
    if memory.old() == 0 {
        return false;
    }
    let Some(way) = way_at(memory, spot) else { return false };
    let words = key_of::<A, _>(way);
    let place = Place::of(memory, hash::<A>(&words, memory.seed()));
    let Some(way) = way_at(memory, look::<A, M>(memory, &place, &words)) else { return false };
    for _ in 0..TRIES {
        let control = way.control();
        if !control::is(control, place.tag) {
            return false;
        }
        if way.swap(control, change.of(control)) {
            return true;
        }
    }
    false
}

/// Moves the entry in a way of the old table, whose buckets are counted from 0 here. One that is established may take a way that
/// these leave to others.
#[inline(always)]
pub fn transfer<A: Ip, M: Memory>(memory: &M, bucket: u32, number: u32) -> Transfer {
    if bucket >= memory.old() {
        return Transfer::None;
    }
    let bucket = memory.bucket(memory.buckets() + bucket);
    let Some(way) = bucket.and_then(|bucket| bucket.way(number)) else { return Transfer::None };
    if way.control() & FOUND != FOUND {
        return Transfer::None;
    }
    let words = key_of::<A, _>(way);
    let place = Place::of(memory, hash::<A>(&words, memory.seed()));
    let Some(first) = memory.bucket(place.first) else { return Transfer::Waits };
    if lock(memory, first).is_none() {
        return Transfer::Waits;
    }
    let done = carry::<A, M>(memory, way, first, &place, &words);
    release::<M>(first);
    done
}

/// The same, with the key's first bucket in the new table, whose version is ours.
#[inline(always)]
fn carry<A: Ip, M: Memory>(memory: &M, way: WayOf<M>, first: M::Bucket, place: &Place, words: &[u64; 5]) -> Transfer {
    let mut control = way.control();
    // Else it is not there any more.
    if !control::is(control, place.tag) || !holds::<A, _>(way, control, place.tag, words) {
        return Transfer::None;
    }
    let found = look::<A, M>(memory, place, words);
    let is_new = found == NOWHERE;
    let spot = if is_new { claim_at(memory, place) } else { found };
    let Some(to) = way_at(memory, spot) else { return Transfer::Waits };
    let mut copy = Snapshot::<A> { flow: Flow::zeroed(), control: to.control(), zero: 0, spot };
    if is_new {
        let sequence = copy.control & SEQUENCE;
        duplicate::<A, _>(way, to);
        if !control::same(way.control(), control) {
            to.publish(sequence);
            return Transfer::None;
        }
        reach::<M>(first, place, spot);
        copy.control = sequence | control & !SEQUENCE;
        to.publish(copy.control);
    } else if holds::<A, _>(to, copy.control, place.tag, words) {
        // Left here when an entry waited.
        copy.mark(memory, control & STATE);
    } else {
        return Transfer::Waits;
    }
    for _ in 0..CHANGES {
        if way.swap(control, control & !USED) {
            let seen = way.word(seen_at::<A>()) as u32;
            if seen > to.word(seen_at::<A>()) as u32 {
                copy.touch(memory, seen);
            }
            return Transfer::Moved;
        }
        let now = way.control();
        if !control::same(now, control) {
            if is_new {
                copy.remove(memory);
            }
            return Transfer::None;
        }
        copy.change(memory, Change { keeps: !(control & !now & STATE), adds: now & !control & STATE });
        control = now;
    }
    Transfer::Waits
}

/// Writes a copy of an entry to a way that is ours, but for its next hop.
#[inline(always)]
fn duplicate<A: Ip, W: Way>(from: W, to: W) {
    for index in 0..next_hop_at::<A>() {
        let word = from.word(index);
        to.set(index, if index == seen_at::<A>() { pack_seen(word as u32, 0, 0) } else { word });
    }
}
