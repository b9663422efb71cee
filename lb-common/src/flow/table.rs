//! The table of flows: buckets of entries in memory that all CPUs and the agent share, and the protocol by which they do.
//!
//! A bucket is one cache line of control words and [`Memory::WAYS`] entries of one cache line each (two for IPv6). A key
//! has two buckets. It is mostly in the first, at the way that its hash names, so that a look-up touches two lines whose
//! addresses it knows from the start. Only where the first was crowded is the key in the second, and the first one's
//! version says for ever that this has happened: so a miss mostly touches one line.
//!
//! - **Reading**: the control word, the entry, the control word again. Where another flow moved in meanwhile, the word has
//!   another sequence number, and there is no such entry.
//! - **Inserting**: who inserts a key holds the version of its first bucket (odd while it is held), so that no key comes to
//!   be there twice; for both entries of a flow those of two buckets, and nobody waits for long. The way is claimed by
//!   compare-and-swap of its control word, written, and published.
//! - **State** of a flow is in the control word: it changes by compare-and-swap, so never that of a flow which moved in.
//!   Nothing else is needed to establish or to remove one: the agent takes no lock that it could leave behind.
//! - **Victims**: a half-open entry makes room for another where both buckets are full, one that is over before one that is
//!   not, and the oldest of its bucket; an established one never. The last two ways of a bucket are never given to
//!   established flows, so that new ones have a place whatever comes.
//! - **Growth**: a table keeps its size. A larger one takes its place while both are there ([`transfer`]), for as long as it
//!   takes to move the entries.
//!
//! Otherwise entries stay where they are for as long as they live, and a reader never misses one that is there. On machines
//! that keep loads in order and stores in order (x86) a reader never sees half an entry; on others a packet that comes in the
//! very moment in which its way is given to another flow may be led by the wrong one, as with the kernel's own hash maps.

mod insert;
mod layout;
mod list;
mod marks;
mod next_hop;
mod place;
mod transfer;

pub use insert::{DONE, FULL, NOTHING, THERE, begin, begin_both, claim, finish, finish_by, insert, insert_both};
pub use layout::{SEED_AT, TURNED_AT, VERSION_AT, control_at, pair_at};
pub use layout::{WAYS, bucket_words, buckets_for, flows_in, line_at};
pub use list::{in_turn, live};
pub use transfer::{Transfer, follow, transfer};

use marks::Marks;
use place::{Place, hash};

use super::state;
use crate::ip::Ip;
use crate::tables::{Flow, FlowKey};

/// Control word and entry of one flow.
pub trait Way: Copy {
    /// Reads the control word, before all that is read later.
    fn control(&self) -> u32;
    /// Replaces the control word if it is `old`; ordered with all before and after.
    fn swap(&self, old: u32, new: u32) -> bool;
    /// Writes the control word, after all that was written before.
    fn publish(&self, control: u32);
    /// Reads a word of the entry, before the control word is read again.
    fn word(&self, index: usize) -> u64;
    /// Writes a word of the entry.
    fn set(&self, index: usize, word: u64);
}

/// A version, and ways.
pub trait Bucket: Copy {
    /// Its ways.
    type Way: Way;
    /// The version.
    fn version(&self) -> u32;
    /// Replaces the version if it is `old`; ordered with all before and after.
    fn swap_version(&self, old: u32, new: u32) -> bool;
    /// Writes the version, after all that was written before. Only who holds it may.
    fn set_version(&self, version: u32);
    /// The control words of two ways, the even one in the low half, before all that is read later.
    fn pair(&self, index: u32) -> u64;
    /// A way below [`Memory::WAYS`].
    fn way(&self, index: u32) -> Option<Self::Way>;
}

/// The buckets: of one table, or of two, where a larger one takes the place of another.
pub trait Memory {
    /// Ways of a bucket, an even number up to 14.
    const WAYS: u32;
    /// How often a version is asked for while another CPU inserts.
    const PATIENCE: u32 = 16;
    /// Its buckets.
    type Bucket: Bucket;
    /// How many there are.
    fn buckets(&self) -> u32;
    /// How many buckets the table has that entries are moved from; these come behind the others. 0 where there is but one table.
    fn old(&self) -> u32 {
        0
    }
    /// Whether entries are inserted into the table that others are moved to, no longer into the one that these are moved from.
    fn turned(&self) -> bool {
        true
    }
    /// What makes hashes unpredictable, in both tables.
    fn seed(&self) -> u32;
    /// A bucket, of those of both tables.
    fn bucket(&self, index: u32) -> Option<Self::Bucket>;
    /// Lets some hundred nanoseconds go by before a version is asked for again. Without, this CPU's own cache has answered all
    /// questions before another can have inserted, and many questions cost the kernel's verifier much.
    #[inline(always)]
    fn pause(&self) {}
    /// Stands for [`follow`], for entries of its family.
    fn follow(&self, _spot: u64, _change: Change) -> bool {
        false
    }
}

/// The way of a memory.
pub type WayOf<M> = <<M as Memory>::Bucket as Bucket>::Way;

/// Bits of a control word: those of [`state`], life, a sequence number, and the tag, which is a part of the key's hash.
mod control {
    /// Those of [`state`](crate::flow::state).
    pub(super) const STATE: u32 = crate::flow::state::KEPT;
    /// Somebody's, if only while it is written.
    pub(super) const USED: u32 = 1 << 10;
    /// To be found. Without [`USED`] the entry has moved to another table, and is read by those who have found it before.
    pub(super) const LIVE: u32 = 1 << 11;
    /// Of an entry to be found that has not moved.
    pub(super) const FOUND: u32 = USED | LIVE;
    pub(super) const SEQUENCE: u32 = 0x3ff << 12;
    pub(super) const ONE: u32 = 1 << 12;
    pub(super) const TAG: u32 = 0x3ff << 22;

    /// Whether an entry with a tag can be found, and has not moved.
    #[inline(always)]
    pub(super) const fn is(control: u32, tag: u32) -> bool {
        (control ^ tag) & TAG | !control & FOUND == 0
    }

    /// Whether two control words of a way are of one flow, which may have moved.
    #[inline(always)]
    pub(super) const fn same(a: u32, b: u32) -> bool {
        (a ^ b) & !(STATE | USED) == 0
    }
}

/// In the version of a bucket: a key that has it as its first is, or was, in its second.
const SPILLED: u32 = 2;

/// How often a compare-and-swap is tried again.
const TRIES: u32 = 2;

/// Whether a way holds a key. The entry is read in any case, so that its line is on its way while the control word's is.
#[inline(always)]
fn holds<A: Ip, W: Way>(way: W, control: u32, tag: u32, key: &[u64; 5]) -> bool {
    let mut difference = u64::from((control ^ tag) & (control::TAG | control::LIVE) ^ control::LIVE);
    for (index, word) in key.iter().take(layout::key_words::<A>()).enumerate() {
        difference |= way.word(index) ^ word;
    }
    difference == 0
}

/// No spot.
pub const NOWHERE: u64 = u64::MAX;

/// A copy of an entry, and where it stands.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Snapshot<A: Ip> {
    /// The entry.
    pub flow: Flow<A>,
    /// Its control word.
    control: u32,
    /// Always 0.
    zero: u32,
    /// 8 bits of way below the bucket.
    spot: u64,
}

impl<A: Ip> Snapshot<A> {
    /// Room for one.
    #[inline(always)]
    pub fn room() -> Self {
        Self { flow: Flow::zeroed(), control: 0, zero: 0, spot: NOWHERE }
    }
}

/// The way of a spot, if it is one.
#[inline(always)]
fn way_at<M: Memory>(memory: &M, spot: u64) -> Option<WayOf<M>> {
    if spot == NOWHERE {
        return None;
    }
    memory.bucket((spot >> 8) as u32)?.way(spot as u32 & 0xff)
}

/// Finds the entry of a key.
#[inline(always)]
pub fn find<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>) -> Option<Snapshot<A>> {
    find_by(|spot| read(memory, key, spot), || search(memory, key))
}

/// The same in its steps, where `read` stands for [`read`] and `search` for [`search`]: a key that is not at home is searched.
#[inline(always)]
pub fn find_by<T>(mut read: impl FnMut(u64) -> Option<T>, search: impl FnOnce() -> u64) -> Option<T> {
    match read(HOME) {
        Some(found) => Some(found),
        None => match search() {
            NOWHERE => None,
            spot => read(spot),
        },
    }
}

/// The spot where most keys are.
pub const HOME: u64 = NOWHERE - 4;

/// Reads the entry at a spot, if it is this key's.
#[inline(always)]
pub fn read<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>, spot: u64) -> Option<Snapshot<A>> {
    let words = layout::pack_key(key);
    let Place { first, home, tag, .. } = Place::of(memory, hash::<A>(&words, memory.seed()));
    let spot = if spot == HOME { u64::from(first) << 8 | u64::from(home) } else { spot };
    let way = way_at(memory, spot)?;
    let control = way.control();
    if !holds::<A, _>(way, control, tag, &words) {
        return None;
    }
    let mut flow = layout::unpack_flow(|index| way.word(index));
    // Was it this flow's all the time?
    let after = way.control();
    if !control::same(control, after) {
        return None;
    }
    flow.state = after & control::STATE;
    // One that has moved is not to be changed here.
    Some(Snapshot { flow, control: after | control::USED, zero: 0, spot })
}

/// Bucket and way of a key wherever it may be: 8 bits of way below the bucket, or [`NOWHERE`].
#[inline(always)]
pub fn search<A: Ip, M: Memory>(memory: &M, key: &FlowKey<A>) -> u64 {
    let words = layout::pack_key(key);
    let hash = hash::<A>(&words, memory.seed());
    if memory.old() > 0 {
        // Before the other table: what moves meanwhile is there by then.
        let spot = look::<A, M>(memory, &Place::old(memory, hash), &words);
        if spot != NOWHERE {
            return spot;
        }
    }
    look::<A, M>(memory, &Place::of(memory, hash), &words)
}

/// [`search`] in one table.
#[inline(always)]
fn look<A: Ip, M: Memory>(memory: &M, place: &Place, words: &[u64; 5]) -> u64 {
    let mut index = place.first;
    for _ in 0..2 {
        let Some(bucket) = memory.bucket(index) else { return NOWHERE };
        let spilled = bucket.version() & SPILLED != 0;
        let way = Marks::of::<M>(bucket, place.tag).holder::<A, M>(bucket, place.tag, words);
        if way < M::WAYS {
            return u64::from(index) << 8 | u64::from(way);
        }
        if !spilled || index == place.second {
            break;
        }
        index = place.second;
    }
    NOWHERE
}

impl<A: Ip> Snapshot<A> {
    /// Writes the time of the newest packet.
    #[inline(always)]
    pub fn touch<M: Memory>(&mut self, memory: &M, now: u32) {
        self.flow.seen = now;
        if let Some(way) = way_at(memory, self.spot) {
            // Another flow that moved in just now is of now, too.
            way.set(layout::seen_at::<A>(), layout::pack_seen(now, 0, 0));
        }
    }

    /// Changes the control word, and says whether the entry was still there.
    #[inline(always)]
    fn change<M: Memory>(&mut self, memory: &M, change: Change) -> bool {
        let Some(way) = way_at(memory, self.spot) else { return false };
        for _ in 0..TRIES {
            let wanted = change.of(self.control);
            if way.swap(self.control, wanted) {
                self.control = wanted;
                self.flow.state = wanted & control::STATE;
                return true;
            }
            let now = way.control();
            if !control::same(now, self.control) {
                return false;
            }
            if memory.old() > 0 && now & control::USED == 0 {
                self.flow.state = wanted & control::STATE;
                return memory.follow(self.spot, change);
            }
            self.control = now;
        }
        false
    }

    /// Adds bits to the state.
    #[inline(always)]
    pub fn mark<M: Memory>(&mut self, memory: &M, bits: u32) {
        self.change(memory, Change { keeps: u32::MAX, adds: bits & control::STATE });
    }

    /// Takes bits from the state.
    #[inline(always)]
    pub fn unmark<M: Memory>(&mut self, memory: &M, bits: u32) {
        self.change(memory, Change { keeps: !(bits & control::STATE), adds: 0 });
    }

    /// Makes the entry one that nothing pushes out, unless its bucket has as many of these as it may.
    #[inline(always)]
    pub fn establish<M: Memory>(&mut self, memory: &M) -> bool {
        let Some(bucket) = memory.bucket((self.spot >> 8) as u32) else { return false };
        if !self.flow.is_established() && insert::is_full::<M>(bucket) {
            return false;
        }
        self.change(memory, Change { keeps: u32::MAX, adds: state::ESTABLISHED })
    }

    /// Removes the entry, and says whether it was still there.
    #[inline(always)]
    pub fn remove<M: Memory>(&mut self, memory: &M) -> bool {
        self.change(memory, Change { keeps: control::SEQUENCE, adds: 0 })
    }
}

/// What becomes of a control word.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Bits that stay as they are; the others are cleared.
    pub keeps: u32,
    /// Bits that are set then.
    pub adds: u32,
}

impl Change {
    #[inline(always)]
    const fn of(self, control: u32) -> u32 {
        control & self.keeps | self.adds
    }
}

/// The entry in a way, if there is one and it holds still.
#[inline(always)]
pub fn entry<A: Ip, W: Way>(way: W) -> Option<(FlowKey<A>, Flow<A>)> {
    for _ in 0..TRIES {
        let control = way.control();
        if control & control::LIVE == 0 {
            return None;
        }
        let key = layout::unpack_key(|index| way.word(index));
        let mut flow = layout::unpack_flow(|index| way.word(index));
        let after = way.control();
        if control::same(control, after) {
            flow.state = after & control::STATE;
            return Some((key, flow));
        }
    }
    None
}
