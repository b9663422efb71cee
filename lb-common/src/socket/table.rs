//! Which frontend a socket meant, by the backend that it was led to: a table of buckets in an array, which programs write and
//! read in place. A call of the kernel's hash map with room for as many (LRU) takes longer than all the rest of a `connect()`.
//!
//! An entry is in the bucket of its key, the one that was called last first: a new one pushes out that which was not called for
//! longest, and a socket of datagrams that calls now and then stays, whatever comes and goes beside it. Nobody takes a lock.
//! Where two CPUs write one entry at once, or it is read while it is written, its check comes out as another number, but once in
//! 2^32 of these moments, and it is none: what a socket meant is then forgotten, as it would be had others pushed it out.

use crate::hash;
use crate::ip::{Be16, Ip};
use crate::tables::{SOCKET_PLACES, SocketBucket, SocketEntry, SocketKey, SocketPeer, map};

/// A bucket as others read and write it, too.
pub trait Bucket<A: Ip> {
    /// The cookie of an entry, by its place in the bucket.
    fn cookie(&self, place: usize) -> [u32; 2];
    /// Its check.
    fn check(&self, place: usize) -> u32;
    /// The whole of an entry: each word once.
    fn read(&self, place: usize) -> SocketEntry<A>;
    /// Replaces one.
    fn write(&mut self, place: usize, entry: &SocketEntry<A>);
}

/// A copy.
impl<A: Ip> Bucket<A> for SocketBucket<A> {
    fn cookie(&self, place: usize) -> [u32; 2] {
        self.read(place).cookie
    }
    fn check(&self, place: usize) -> u32 {
        self.read(place).check
    }
    fn read(&self, place: usize) -> SocketEntry<A> {
        self.entries.get(place).copied().unwrap_or_else(SocketEntry::none)
    }
    fn write(&mut self, place: usize, entry: &SocketEntry<A>) {
        if let Some(there) = self.entries.get_mut(place) {
            *there = *entry;
        }
    }
}

/// The bucket of a key, one of [`map::SOCKETS_BUCKETS`].
#[inline(always)]
pub fn bucket<A: Ip>(key: &SocketKey<A>) -> u32 {
    hash::socket(key.cookie, &key.addr, key.port) % map::SOCKETS_BUCKETS
}

/// The peer of a key.
#[inline(always)]
pub fn find<A: Ip>(bucket: &impl Bucket<A>, key: &SocketKey<A>) -> Option<SocketPeer<A>> {
    for place in 0..SOCKET_PLACES {
        if bucket.cookie(place) == key.cookie {
            let entry = bucket.read(place);
            if entry.is_of(key) && entry.check == entry.sum() {
                return Some(SocketPeer { addr: entry.frontend, port: entry.frontend_port });
            }
        }
    }
    None
}

/// Notes the peer of a key. Writes nothing where that stands there already, in the half that was called last.
///
/// The others move back one by one from the last on, so that who reads the other way misses none.
#[inline(always)]
pub fn put<A: Ip>(bucket: &mut impl Bucket<A>, key: &SocketKey<A>, peer: &SocketPeer<A>) {
    let entry = SocketEntry::new(key, peer);
    let mut place = SOCKET_PLACES - 1;
    for at in 0..SOCKET_PLACES {
        if bucket.cookie(at) == key.cookie {
            // The check stands for all of it.
            if at < SOCKET_PLACES / 2 && bucket.check(at) == entry.check {
                return;
            }
            if bucket.read(at).is_of(key) {
                place = at;
                break;
            }
        }
    }
    for at in (0..SOCKET_PLACES - 1).rev() {
        if at < place {
            bucket.write(at + 1, &bucket.read(at));
        }
    }
    bucket.write(0, &entry);
}

impl<A: Ip> SocketEntry<A> {
    /// Room for one.
    fn none() -> Self {
        let none = Be16::new(0);
        Self {
            cookie: [0; 2],
            backend: A::default(),
            frontend: A::default(),
            backend_port: none,
            frontend_port: none,
            check: 0,
        }
    }

    #[inline(always)]
    fn new(key: &SocketKey<A>, peer: &SocketPeer<A>) -> Self {
        let SocketKey { cookie, addr: backend, port: backend_port } = *key;
        let SocketPeer { addr: frontend, port: frontend_port } = *peer;
        let mut entry = Self { cookie, backend, frontend, backend_port, frontend_port, check: 0 };
        entry.check = entry.sum();
        entry
    }

    #[inline(always)]
    fn is_of(&self, key: &SocketKey<A>) -> bool {
        self.cookie == key.cookie && self.backend == key.addr && self.backend_port == key.port
    }

    /// What its check shall be: a sum of products by odd numbers, the upper half of it. Wherever bits differ, it nearly always does.
    #[inline(always)]
    fn sum(&self) -> u32 {
        const FACTORS: [u64; 4] =
            [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53, 0xd6e8_feb8_6659_fd93, 0xbf58_476d_1ce4_e5b9];
        let ports = pair(u32::from(self.backend_port.wire()) << 16 | u32::from(self.frontend_port.wire()), 1);
        let [low, high] = self.cookie;
        let known = pair(low, high).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let known = known.wrapping_add(ports.wrapping_mul(0x94d0_49bb_1331_11eb));
        let addrs = self.backend.words().iter().zip(self.frontend.words()).zip(FACTORS);
        let sum = addrs.fold(known, |sum, ((a, b), factor)| sum.wrapping_add(pair(*a, *b).wrapping_mul(factor)));
        (sum >> 32) as u32
    }
}

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::ip::{V4, V6};

    fn key<A: Ip>(cookie: u32, backend: A) -> SocketKey<A> {
        SocketKey { cookie: [cookie, 0], addr: backend, port: Be16::new(8080) }
    }

    fn peer<A: Ip>(frontend: A) -> SocketPeer<A> {
        SocketPeer { addr: frontend, port: Be16::new(80) }
    }

    fn empty<A: Ip>() -> SocketBucket<A> {
        SocketBucket { entries: [SocketEntry::none(); SOCKET_PLACES] }
    }

    fn rules<A: Ip>(backend: A, frontend: A, other: A) {
        let mut bucket = empty();
        assert_eq!(find(&bucket, &key(0, A::default())), None, "an empty place is no entry");
        for cookie in 1..=4 {
            put(&mut bucket, &key(cookie, backend), &peer(frontend));
        }
        let full = bucket;
        put(&mut bucket, &key(4, backend), &peer(frontend));
        put(&mut bucket, &key(3, backend), &peer(frontend));
        assert_eq!(bucket, full, "what is there already is not written again");
        put(&mut bucket, &key(3, backend), &peer(other));
        assert_eq!(find(&bucket, &key(3, backend)), Some(peer(other)), "the last call counts");
        assert_eq!(find(&bucket, &key(3, other)), None, "the socket was not led there");
        let there = |bucket: &_, cookies: [u32; 5]| cookies.map(|cookie| find(bucket, &key(cookie, backend)).is_some());
        put(&mut bucket, &key(9, backend), &peer(frontend));
        assert_eq!(there(&bucket, [1, 2, 3, 4, 9]), [false, true, true, true, true], "the first one makes room");
        put(&mut bucket, &key(2, backend), &peer(frontend));
        for cookie in 10..13 {
            assert!(find(&bucket, &key(2, backend)).is_some(), "a socket that calls again stays");
            put(&mut bucket, &key(cookie, backend), &peer(frontend));
        }
        assert_eq!(there(&bucket, [2, 9, 10, 11, 12]), [true, false, true, true, true]);
        put(&mut bucket, &key(13, backend), &peer(frontend));
        assert_eq!(there(&bucket, [2, 10, 11, 12, 13]), [false, true, true, true, true]);
    }

    #[test]
    fn an_entry_is_found_until_later_calls_need_its_place() {
        let v4 = [1, 2, 3].map(|last| V4::from(Ipv4Addr::new(10, 0, 0, last)));
        let v6 = [1, 2, 3].map(|last| V6::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)));
        rules(v4[0], v4[1], v4[2]);
        rules(v6[0], v6[1], v6[2]);
    }

    #[test]
    fn an_entry_that_two_have_written_is_none() {
        let addr = |last| V6::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last));
        let (one, two) = (key(1, addr(1)), key(1, addr(1)));
        let entries = [SocketEntry::new(&one, &peer(addr(5))), SocketEntry::new(&two, &peer(addr(6)))];
        let mut bucket = empty();
        bucket.entries[0] = SocketEntry { frontend: entries[1].frontend, ..entries[0] };
        assert_eq!(find(&bucket, &one), None);
        bucket.entries[0] = entries[0];
        assert_eq!(find(&bucket, &one), Some(peer(addr(5))));
    }

    /// 20,000 sockets that call one backend, one after the other, among 32,768 buckets of four: a random hash leaves about 15
    /// of them without room.
    #[test]
    fn sockets_spread_over_the_buckets() {
        let mut buckets = BTreeMap::<u32, usize>::new();
        for cookie in 1..=20_000 {
            *buckets.entry(bucket(&key(cookie, V4::from(Ipv4Addr::new(10, 0, 0, 1))))).or_default() += 1;
        }
        assert!(buckets.keys().all(|bucket| *bucket < map::SOCKETS_BUCKETS));
        let crowded: usize = buckets.values().map(|entries| entries.saturating_sub(SOCKET_PLACES)).sum();
        assert!(crowded < 40, "{crowded} have no room");
    }
}
