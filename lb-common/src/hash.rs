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

/// Of an address and a port.
#[inline(always)]
pub fn address<A: Ip>(addr: &A, port: Be16) -> u32 {
    let state = addr.words().iter().fold(0x9e37_79b9, |state, word| mix(state, *word));
    finish(mix(state, port.wire() as u32))
}

/// Of a client's five-tuple: what chooses the slot of a Maglev table.
#[inline(always)]
pub fn tuple<A: Ip>(src: &A, sport: Be16, dst: &A, dport: Be16, proto: u8) -> u32 {
    let words = src.words().iter().chain(dst.words());
    let state = words.fold(0x51ed_270b ^ proto as u32, |state, word| mix(state, *word));
    finish(mix(state, (sport.wire() as u32) << 16 | dport.wire() as u32))
}

/// Of a socket that talks to a frontend.
#[inline(always)]
pub fn socket<A: Ip>(cookie: [u32; 2], dst: &A, dport: Be16) -> u32 {
    let state = dst.words().iter().fold(mix(cookie[0], cookie[1]), |state, word| mix(state, *word));
    finish(mix(state, dport.wire() as u32))
}

/// Of a number under a seed: the two independent hashes that Maglev wants are this with two seeds.
pub const fn seeded(seed: u32, value: u32) -> u32 {
    finish(mix(seed, value))
}
