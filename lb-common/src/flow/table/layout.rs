//! Where the words of a bucket are, and what stands in those of an entry.

use crate::ip::{Be16, Ip};
use crate::tables::{Flow, FlowKey};

/// Ways of a bucket in the kernel: with the version, as many control words as a cache line holds.
pub const WAYS: u32 = 14;

/// Words of the control line of a bucket: version, seed or whether it has turned (in the first and the second bucket), control words.
const HEAD: usize = 8;

/// Words of a cache line.
pub(super) const LINE: usize = 8;

/// Ways of a bucket that established flows leave to others.
pub(super) const RESERVED: u32 = 2;

/// 64-bit words of a bucket in the kernel.
pub const fn bucket_words<A: Ip>() -> usize {
    HEAD + WAYS as usize * line_words::<A>()
}

/// 64-bit words from one entry to the next: whole cache lines.
pub(super) const fn line_words<A: Ip>() -> usize {
    (next_hop_at::<A>() + 2).next_multiple_of(LINE)
}

/// Where the entry of a way begins in its bucket, in 64-bit words.
pub const fn line_at<A: Ip>(way: usize) -> usize {
    HEAD + way * line_words::<A>()
}

/// Where the control word of a way is in its bucket, in 32-bit words.
pub const fn control_at(way: usize) -> usize {
    2 + way
}

/// Where the control words of two ways are in their bucket, in 64-bit words.
pub const fn pair_at(index: usize) -> usize {
    1 + index
}

/// Where the version of a bucket is, in 32-bit words.
pub const VERSION_AT: usize = 0;

/// Where the seed of the table is in its first bucket, in 32-bit words.
pub const SEED_AT: usize = 1;

/// Where a table that takes the place of another says whether entries are inserted into it already (anything but 0), in its
/// second bucket, in 32-bit words.
pub const TURNED_AT: usize = 1;

/// Entries of established flows that a bucket is made for: as many as it takes. In a table that is filled to this, four
/// entries of a hundred stay half-open, those whose buckets are both full; at nine tenths it is one.
const FILL: u32 = WAYS - RESERVED;

/// Buckets of a table in the kernel for so many flows, of two entries each.
pub const fn buckets_for(flows: u32) -> u32 {
    let buckets = (2 * flows as u64).div_ceil(FILL as u64);
    if buckets > u32::MAX as u64 { u32::MAX } else { buckets as u32 }
}

/// The flows that a table of so many buckets is made for.
pub const fn flows_in(buckets: u32) -> u32 {
    buckets * (FILL / 2)
}

/// Words of a key.
pub(super) const fn key_words<A: Ip>() -> usize {
    size_of::<FlowKey<A>>() / 8
}

/// Where the word with ports and changes is behind the addresses; the next ones hold the time, and the ids.
const fn ports_at<A: Ip>() -> usize {
    key_words::<A>() + size_of::<A>() / 4
}

/// Where the word with the time is.
pub(super) const fn seen_at<A: Ip>() -> usize {
    ports_at::<A>() + 1
}

/// The word with the time, and of a next hop that is kept the device and the MTU; 0 where there is none.
pub(super) const fn pack_seen(now: u32, device: u16, mtu: u16) -> u64 {
    now as u64 | (device as u64) << 32 | (mtu as u64) << 48
}

/// Where the two words with the MACs of a next hop are: eight bytes of a packet, and four more with a check beside them.
pub(super) const fn next_hop_at<A: Ip>() -> usize {
    seen_at::<A>() + 2
}

#[inline(always)]
pub(super) const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// A key as words, those that a family does not have left 0.
#[inline(always)]
pub(super) fn pack_key<A: Ip>(key: &FlowKey<A>) -> [u64; 5] {
    let rest = u64::from(key.sport.wire())
        | u64::from(key.dport.wire()) << 16
        | u64::from(key.proto) << 32
        | u64::from(key.side) << 40;
    match (key.src.words(), key.dst.words()) {
        ([a, b, c, d], [e, f, g, h]) => [pair(*a, *b), pair(*c, *d), pair(*e, *f), pair(*g, *h), rest],
        ([a], [b]) => [pair(*a, *b), rest, 0, 0, 0],
        _ => [0; 5],
    }
}

/// The inverse of [`pack_key`].
#[inline(always)]
pub(super) fn unpack_key<A: Ip>(word: impl Fn(usize) -> u64) -> FlowKey<A> {
    let half = |index: usize| (word(index / 2) >> (index % 2 * 32)) as u32;
    let words = size_of::<A>() / 4;
    let rest = word(words);
    FlowKey {
        src: A::from_words(half),
        dst: A::from_words(|index| half(words + index)),
        sport: Be16::from_wire(rest as u16),
        dport: Be16::from_wire((rest >> 16) as u16),
        proto: (rest >> 32) as u8,
        side: (rest >> 40) as u8,
        zero: 0,
    }
}

/// The flow of an entry, without its state.
#[inline(always)]
pub(super) fn unpack_flow<A: Ip>(word: impl Fn(usize) -> u64) -> Flow<A> {
    let words = size_of::<A>() / 4;
    let half = |index: usize| (word(key_words::<A>() + index / 2) >> (index % 2 * 32)) as u32;
    let (ports, seen, ids) = (word(ports_at::<A>()), word(seen_at::<A>()), word(seen_at::<A>() + 1));
    Flow {
        src: A::from_words(half),
        dst: A::from_words(|index| half(words + index)),
        sport: Be16::from_wire(ports as u16),
        dport: Be16::from_wire((ports >> 16) as u16),
        addrs: (ports >> 32) as u16,
        ports: (ports >> 48) as u16,
        state: 0,
        seen: seen as u32,
        backend: ids as u32,
        service: (ids >> 32) as u32,
    }
}

/// Writes an entry, all but its state.
#[inline(always)]
pub(super) fn write<A: Ip>(key: &[u64; 5], flow: &Flow<A>, set: impl Fn(usize, u64)) {
    for (index, word) in key.iter().take(key_words::<A>()).enumerate() {
        set(index, *word);
    }
    let at = key_words::<A>();
    match (flow.src.words(), flow.dst.words()) {
        ([a, b, c, d], [e, f, g, h]) => {
            set(at, pair(*a, *b));
            set(at + 1, pair(*c, *d));
            set(at + 2, pair(*e, *f));
            set(at + 3, pair(*g, *h));
        }
        ([a], [b]) => set(at, pair(*a, *b)),
        _ => {}
    }
    let ports = u64::from(flow.sport.wire())
        | u64::from(flow.dport.wire()) << 16
        | u64::from(flow.addrs) << 32
        | u64::from(flow.ports) << 48;
    set(ports_at::<A>(), ports);
    set(seen_at::<A>(), pack_seen(flow.seen, 0, 0));
    set(seen_at::<A>() + 1, pair(flow.backend, flow.service));
}
