//! The Internet checksum, and how it changes when words of a packet change (RFC 1071, RFC 1624).
//!
//! Sums are taken over the words as they lie in memory: the one's complement sum does not care for byte order.

use crate::ip::Ip;

/// Folds a sum to 16 bits. A sum that is not 0 never folds to 0, so equal results are equal bits.
#[inline(always)]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field after `change` was added to what it covers. The very formula of the kernel's
/// `csum_replace_by_diff`, so that XDP and TC write the same bits where two are right.
#[inline(always)]
pub const fn update(field: u16, change: u16) -> u16 {
    !fold(!(field as u32) as u64 + change as u64)
}

/// The sum of two changes.
#[inline(always)]
pub const fn add(a: u16, b: u16) -> u16 {
    fold(a as u64 + b as u64)
}

/// Whether a change adds up to nothing: 0 has two forms in one's complement.
#[inline(always)]
pub const fn is_nothing(change: u16) -> bool {
    change == 0 || change == 0xffff
}

/// A checksum field where 0 means that there is none (`optional`, UDP): a sum of 0 is written in its other form (RFC 768).
#[inline(always)]
pub const fn mark(field: u16, optional: bool) -> u16 {
    if optional && field == 0 { 0xffff } else { field }
}

/// What replacing the addresses `old` by `new` adds to a sum.
#[inline(always)]
pub fn addresses<A: Ip>(old: [&A; 2], new: [&A; 2]) -> u16 {
    let sum = |pair: [&A; 2], invert: u32| {
        let words = pair[0].words().iter().chain(pair[1].words());
        words.fold(0u64, |sum, word| sum + u64::from(word ^ invert))
    };
    fold(sum(old, u32::MAX) + sum(new, 0))
}

/// What replacing the 16-bit words `old` by `new` adds to a sum.
#[inline(always)]
pub const fn words(old: [u16; 2], new: [u16; 2]) -> u16 {
    fold(!old[0] as u64 + !old[1] as u64 + new[0] as u64 + new[1] as u64)
}

/// What a change of addresses and one of `others` add to the sum of a whole packet where no checksum behind its IP header makes up for
/// them: that of IPv4 does so for addresses.
#[inline(always)]
pub const fn in_whole<A: Ip>(addresses: u16, others: u16) -> u16 {
    if A::CHECKSUM.is_some() { others } else { add(addresses, others) }
}

/// The sum over 32-bit words of a packet.
#[inline(always)]
pub fn sum(words: &[u32]) -> u64 {
    words.iter().fold(0, |sum, word| sum + u64::from(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_update_agrees_with_a_checksum_computed_anew(data: [u32; 5], at in 0usize..4, new: [u16; 2]) {
            let before = !fold(sum(&data));
            let halves = |word: u32| [word as u16, (word >> 16) as u16];
            let mut changed = data;
            changed[at] = u32::from(new[0]) | u32::from(new[1]) << 16;
            let after = update(before, words(halves(data[at]), new));
            // A receiver sums data and checksum and wants all ones.
            prop_assert_eq!(fold(sum(&changed) + u64::from(after)), 0xffff);
        }
    }
}
