//! One hash for everything that must come out the same in the kernel, in the agent and on every node.

use crate::ip::{Be16, Ip};

/// Mixes a word in: multiply and fold, two good primes (the finaliser of MurmurHash3).
#[inline(always)]
const fn mix(state: u32, word: u32) -> u32 {
    let mut x = (state ^ word).wrapping_mul(0x85eb_ca6b);
    x ^= x >> 15;
    x.wrapping_mul(0xc2b2_ae35)
}

/// Ends a hash: every input bit reaches every output bit.
#[inline(always)]
const fn finish(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Of an address and a port, for the bitmaps that every packet asks: one multiplication for each 8 bytes, and only the
/// high bits are good. In host byte order neighbours differ in low bits, which a multiplication by the golden ratio
/// spreads best (Knuth, TAOCP 3, 6.4).
#[inline(always)]
pub fn quick<A: Ip>(addr: &A, port: Be16) -> u64 {
    let mut state = u64::from(port.get()) << 32;
    for words in addr.words().chunks(2) {
        state ^= words.iter().fold(0, |word, next| word << 32 | u64::from(u32::from_be(*next)));
        state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    state
}

/// Of an address and a port, every bit good.
#[inline(always)]
pub fn address<A: Ip>(addr: &A, port: Be16) -> u32 {
    let state = addr.words().iter().fold(0x9e37_79b9, |state, word| mix(state, *word));
    finish(mix(state, u32::from(port.wire())))
}

/// Of a client's five-tuple: what chooses the slot of a Maglev table.
#[inline(always)]
pub fn tuple<A: Ip>(src: &A, sport: Be16, dst: &A, dport: Be16, proto: u8) -> u32 {
    let words = src.words().iter().chain(dst.words());
    let state = words.fold(0x51ed_270b ^ u32::from(proto), |state, word| mix(state, *word));
    finish(mix(state, u32::from(sport.wire()) << 16 | u32::from(dport.wire())))
}

/// Of a socket, by its cookie, and an address and port that it calls; every bit good. The programs have [`quick`] of the
/// address already.
#[inline(always)]
pub fn socket<A: Ip>([low, high]: [u32; 2], addr: &A, port: Be16) -> u32 {
    let state = quick(addr, port) ^ (u64::from(high) << 32 | u64::from(low));
    finish((state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32)
}

/// Of a number under a seed: the two independent hashes that Maglev wants are this with two seeds.
pub const fn seeded(seed: u32, value: u32) -> u32 {
    finish(mix(seed, value))
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};
    use std::collections::BTreeSet;

    use super::*;
    use crate::ip::{V4, V6};
    use crate::tables::Filter;

    /// Bits that 100,000 addresses in a row set, of 2^22: a random hash sets about 98,800.
    #[test]
    fn the_filter_spreads_addresses_that_follow_each_other() {
        fn bits<A: Ip>(addresses: impl Iterator<Item = A>) -> usize {
            addresses.map(|addr| Filter::Frontend.bit(&addr, Be16::new(0))).collect::<BTreeSet<_>>().len()
        }
        let v4 = (0..100_000).map(|n| V4::from(Ipv4Addr::from(0x0a60_0000 + n)));
        let v6 = (0..100_000).map(|n| V6::from(Ipv6Addr::from((0xfd00 << 112) + n)));
        for set in [bits(v4), bits(v6)] {
            assert!(set > 97_000, "only {set} bits");
        }
    }
}
