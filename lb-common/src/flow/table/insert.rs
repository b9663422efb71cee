//! Adding entries: who makes room for whom.

use super::control::{LIVE, ONE, SEQUENCE, STATE, USED};
use super::layout::{LINE, RESERVED, line_words, pack_key, write};
use super::marks::{Marks, Room, mark_of, way_of};
use super::{Bucket, Memory, NOWHERE, Place, SPILLED, TRIES, Way, hash, search, transfer, way_at};
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
    rest(memory, key, flow, NOTHING)
}

#[inline(always)]
fn rest<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>, left: u64) -> Result<(), InsertError> {
    let (begin, search, claim) = (|| begin(memory, key, flow), || search(memory, key), || claim(memory, key));
    finish_by(left, begin, search, claim, |spot| finish(memory, key, flow, spot))
}

/// What is left to do of an insertion, where `begin` stands for [`begin`], `search` for [`search`], `claim` for [`claim`] and
/// `finish` for [`finish`]: one after the other they need less of a small stack than one inside of the other.
///
/// # Errors
/// As for [`insert`].
#[inline(always)]
pub fn finish_by(
    left: u64,
    begin: impl FnOnce() -> u64,
    search: impl FnOnce() -> u64,
    claim: impl FnOnce() -> u64,
    finish: impl FnOnce(u64) -> u64,
) -> Result<(), InsertError> {
    let left = if left == NOTHING { begin() } else { left };
    if left != UNSURE {
        return if left == DONE { Ok(()) } else { Err(InsertError::Full) };
    }
    let is_new = search() == NOWHERE;
    let spot = if is_new { claim() } else { NOWHERE };
    match finish(spot) {
        _ if !is_new => Err(InsertError::Exists),
        DONE => Ok(()),
        _ => Err(InsertError::Full),
    }
}

/// Of an insertion: nothing is done yet.
pub const NOTHING: u64 = 0;
/// The entry is in its bucket.
pub const DONE: u64 = 1;
/// There is no room, or another CPU has the bucket.
pub const FULL: u64 = 2;
/// The version is taken; the key may be there, or the bucket is crowded.
const UNSURE: u64 = 3;

/// Adds an entry where its first bucket has room and nothing else can have its key, as its tag says. Of others it tells
/// [`finish_by`] that they are unsure.
#[inline(always)]
pub fn begin<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>) -> u64 {
    if memory.old() > 0 {
        return begin_joined(memory, key);
    }
    let place = place_of(memory, key);
    let Some(bucket) = memory.bucket(place.first) else { return FULL };
    let Some(held) = Held::of(memory, bucket, place.tag) else { return FULL };
    match held.near::<M>(bucket, &place) {
        NOWHERE => UNSURE,
        spot => settle(memory, bucket, &place, key, flow, spot),
    }
}

/// [`begin`] of both entries of a flow, seen from the one there: of the way back, then, where that is done, of the way there, with
/// a result above [`THERE`]. [`NOTHING`] where both keys have one bucket.
///
/// Memory is waited for once, or twice where buckets are crowded: all lines that both keys mostly need are asked for together. The
/// entries are written behind the last compare-and-swap, which would wait for that.
#[inline(always)]
pub fn begin_both<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>) -> u64 {
    if memory.old() > 0 {
        return begin_joined(memory, &mirror(key, flow).0);
    }
    let (place, back_place) = (place_of(memory, key), place_of(memory, &mirror(key, flow).0));
    let (Some(bucket), Some(back_bucket)) = (memory.bucket(place.first), memory.bucket(back_place.first)) else {
        return FULL;
    };
    if place.first == back_place.first {
        return NOTHING;
    }
    ask::<A, M>(bucket, place.home);
    ask::<A, M>(back_bucket, back_place.home);
    let Some(back_held) = Held::of(memory, back_bucket, back_place.tag) else { return FULL };
    let held = Held::of(memory, bucket, place.tag);
    back_held.ask(memory, &back_place);
    if let Some(held) = &held {
        held.ask(memory, &place);
    }
    let back_spot = back_held.spot(memory, back_bucket, &back_place);
    if back_spot == PERHAPS || back_spot == NOWHERE {
        if held.is_some() {
            release::<M>(bucket);
        }
        if back_spot == PERHAPS {
            return UNSURE;
        }
        release::<M>(back_bucket);
        return FULL;
    }
    let spot = held.map_or(NOWHERE, |held| held.spot(memory, bucket, &place));
    // Made anew: what is kept so long takes room on the stack.
    let (back_key, back) = mirror(key, flow);
    settle(memory, back_bucket, &back_place, &back_key, &back, back_spot);
    match spot {
        // Perhaps another CPU waits for what we had, and has what we wait for.
        _ if held.is_none() => THERE + NOTHING,
        PERHAPS => THERE + UNSURE,
        spot => match settle(memory, bucket, &place, key, flow, spot) {
            DONE => DONE,
            left => THERE + left,
        },
    }
}

/// [`begin`] where entries move from one table to another: that the key may be in either is always looked for.
#[inline(always)]
fn begin_joined<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>) -> u64 {
    if transfer::hold::<A, M>(memory, &pack_key(key)) { UNSURE } else { FULL }
}

/// Asks for the lines of a bucket's control words and of an entry.
#[inline(always)]
fn ask<A: Ip, M: Memory>(bucket: M::Bucket, way: u32) {
    if let Some(way) = bucket.way(way) {
        way.control();
        for word in (0..line_words::<A>()).step_by(LINE) {
            way.word(word);
        }
    }
}

/// What is added to a result of [`begin_both`] that is of the way there.
pub const THERE: u64 = 8;

/// Adds both entries of a flow, seen from the one there, the way back first.
///
/// # Errors
/// Which of the two was refused, and why. The way back may be there already where the way there was.
pub fn insert_both<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), Refused> {
    let left = begin_both(memory, key, flow);
    if left >= THERE {
        return rest(memory, key, flow, left - THERE).map_err(Refused::There);
    }
    let (back_key, back) = mirror(key, flow);
    rest(memory, &back_key, &back, left).map_err(Refused::Back)?;
    if left == DONE { Ok(()) } else { insert(memory, key, flow).map_err(Refused::There) }
}

/// Makes a way ours for a key that [`begin`] was unsure of. Its spot, or [`NOWHERE`].
#[inline(always)]
pub fn claim<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>) -> u64 {
    claim_at(memory, &Place::to_fill(memory, hash::<A>(&pack_key(key), memory.seed())))
}

/// [`claim`] in the table of a place.
#[inline(always)]
pub(super) fn claim_at<M: Memory>(memory: &M, place: &Place) -> u64 {
    let Some(bucket) = memory.bucket(place.first) else { return NOWHERE };
    make_room(memory, bucket, place, Marks::of::<M>(bucket, 0))
}

/// Ends an insertion of which [`begin`] was unsure: adds the entry at its spot, if it has one, and gives back what was taken.
#[inline(always)]
pub fn finish<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, flow: &Flow<A>, spot: u64) -> u64 {
    let (place, other) = transfer::places(memory, hash::<A>(&pack_key(key), memory.seed()), spot);
    if let Some(other) = other.and_then(|place| memory.bucket(place.first)) {
        release::<M>(other);
    }
    let Some(bucket) = memory.bucket(place.first) else { return FULL };
    settle(memory, bucket, &place, key, flow, spot)
}

#[inline(always)]
fn place_of<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>) -> Place {
    Place::of(memory, hash::<A>(&pack_key(key), memory.seed()))
}

/// Perhaps the key is there already.
const PERHAPS: u64 = NOWHERE - 1;

/// What who has taken the version of a key's first bucket sees there.
#[derive(Clone, Copy)]
struct Held {
    spilled: bool,
    marks: Marks,
}

impl Held {
    #[inline(always)]
    fn of<M: Memory>(memory: &M, bucket: M::Bucket, tag: u32) -> Option<Self> {
        let version = lock(memory, bucket)?;
        Some(Self { spilled: version & SPILLED != 0, marks: Marks::of::<M>(bucket, tag) })
    }

    /// Whether nothing need be known of the second bucket.
    #[inline(always)]
    const fn is_enough(&self) -> bool {
        !self.spilled && self.marks.free.count_ones() > CROWDED
    }

    /// Asks for what else will be read.
    #[inline(always)]
    fn ask<M: Memory>(&self, memory: &M, place: &Place) {
        if !self.is_enough()
            && let Some(second) = memory.bucket(place.second)
        {
            second.version();
        }
    }

    /// Makes a way of the bucket ours where nothing need be known of the second one. Its spot, or [`NOWHERE`].
    #[inline(always)]
    fn near<M: Memory>(&self, bucket: M::Bucket, place: &Place) -> u64 {
        if self.marks.alike != 0 || !self.is_enough() {
            return NOWHERE;
        }
        take::<M>(bucket, place.first, place.home, self.marks.free)
    }

    /// Makes a way ours: its spot, [`NOWHERE`], or [`PERHAPS`].
    #[inline(always)]
    fn spot<M: Memory>(&self, memory: &M, bucket: M::Bucket, place: &Place) -> u64 {
        if self.marks.alike != 0 {
            return PERHAPS;
        }
        if self.is_enough() {
            let spot = take::<M>(bucket, place.first, place.home, self.marks.free);
            if spot != NOWHERE {
                return spot;
            }
        } else if self.spilled
            && let Some(second) = memory.bucket(place.second)
            && Marks::of::<M>(second, place.tag).alike != 0
        {
            return PERHAPS;
        }
        make_room(memory, bucket, place, self.marks)
    }
}

/// Takes the version of a bucket. Another CPU that has it gives it back within some hundred nanoseconds, or microseconds where it
/// waits for memory, or for a second one.
#[inline(always)]
pub(super) fn lock<M: Memory>(memory: &M, bucket: M::Bucket) -> Option<u32> {
    for _ in 0..M::PATIENCE {
        let version = bucket.version();
        if version & LOCKED == 0 && bucket.swap_version(version, version | LOCKED) {
            return Some(version);
        }
        memory.pause();
    }
    None
}

/// Writes an entry at a spot that is ours, if there is one, and gives back the version of its first bucket.
#[inline(always)]
fn settle<A: Ip, M: Memory>(
    memory: &M,
    bucket: M::Bucket,
    place: &Place,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    spot: u64,
) -> u64 {
    let Some(way) = way_at(memory, spot) else {
        release::<M>(bucket);
        return FULL;
    };
    reach::<M>(bucket, place, spot);
    let sequence = way.control() & SEQUENCE;
    write(&pack_key(key), flow, |index, word| way.set(index, word));
    way.publish(sequence | USED | LIVE | place.tag | flow.state & STATE);
    release::<M>(bucket);
    DONE
}

/// Has the key's first bucket, whose version is ours, tell of an entry at a spot, before there is anything to be found.
#[inline(always)]
pub(super) fn reach<M: Memory>(first: M::Bucket, place: &Place, spot: u64) {
    if spot >> 8 != u64::from(place.first) {
        first.set_version(first.version() | SPILLED);
    }
}

/// Gives back the version of a bucket.
#[inline(always)]
pub(super) fn release<M: Memory>(bucket: M::Bucket) {
    bucket.set_version(bucket.version() & !LOCKED);
}

/// Makes a free way of a bucket ours: the home of the key, or the one behind it, whose line the CPU mostly fetches with the
/// home's, or the first one.
#[inline(always)]
fn take<M: Memory>(bucket: M::Bucket, index: u32, home: u32, free: u32) -> u64 {
    let is_free = |way: &u32| *way < M::WAYS && free >> mark_of::<M>(*way) & 1 != 0;
    let number = [home, home + 1].into_iter().find(is_free).unwrap_or(way_of::<M>(free.trailing_zeros()));
    let Some(way) = bucket.way(number) else { return NOWHERE };
    let old = way.control();
    if old & USED == 0 && way.swap(old, old.wrapping_add(ONE) & SEQUENCE | USED) {
        return u64::from(index) << 8 | u64::from(number);
    }
    NOWHERE
}

/// Makes one of these ways of half-open flows ours, that of the flow which came first: they come round in turn.
#[inline(always)]
fn push_out<M: Memory>(bucket: M::Bucket, index: u32, ways: u32) -> u64 {
    let version = bucket.version();
    let turn = version / TURN % M::WAYS;
    let above = ways & u32::MAX << turn;
    let mark = if above != 0 { above.trailing_zeros() } else { ways.trailing_zeros() };
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

/// Makes a way of either bucket ours: a free one where there is one, else that of a half-open flow which is over, else of any
/// half-open one; in the bucket that has fewer established ones, so that as many find room as can. The spot of the way, or
/// [`NOWHERE`].
///
/// Where the table is full, connections stay half-open while they last. One whose way back goes to a newer one is broken by the
/// next packet of its backend, which comes to the client as it is: so none is pushed out while there are some that are over.
#[inline(always)]
fn make_room<M: Memory>(memory: &M, first: M::Bucket, place: &Place, mut marks: Marks) -> u64 {
    let Some(second) = memory.bucket(place.second) else { return NOWHERE };
    for _ in 0..TRIES {
        let (near, far) = (marks, Marks::of::<M>(second, 0));
        let crowded = near.established.count_ones() > far.established.count_ones();
        let (near, far) = (near.room::<M>(first), far.room::<M>(second));
        let is_far = far.kind < near.kind || far.kind == near.kind && crowded;
        let (bucket, index, room) = if is_far { (second, place.second, far) } else { (first, place.first, near) };
        if room.ways == 0 {
            break;
        }
        let spot = match room.kind {
            Room::FREE => take::<M>(bucket, index, place.home, room.ways),
            _ => push_out::<M>(bucket, index, room.ways),
        };
        if spot != NOWHERE {
            return spot;
        }
        marks = Marks::of::<M>(first, 0);
    }
    NOWHERE
}

/// Whether a bucket has as many established flows as it takes.
#[inline(always)]
pub(super) fn is_full<M: Memory>(bucket: M::Bucket) -> bool {
    Marks::of::<M>(bucket, 0).established.count_ones() >= M::WAYS - RESERVED
}
