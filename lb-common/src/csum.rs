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

/// The sum over bytes, an odd last one padded with 0.
#[inline(always)]
pub fn bytes(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_update_agrees_with_a_checksum_computed_anew(
            mut data in proptest::collection::vec(any::<u8>(), 20..=60),
            at in 0usize..8,
            new in any::<[u16; 2]>(),
        ) {
            data.truncate(data.len() & !1);
            let at = at * 2;
            let word = |d: &[u8], i: usize| u16::from_ne_bytes([d[i], d[i + 1]]);
            let before = !fold(bytes(&data));
            let change = words([word(&data, at), word(&data, at + 2)], new);
            data[at..at + 2].copy_from_slice(&new[0].to_ne_bytes());
            data[at + 2..at + 4].copy_from_slice(&new[1].to_ne_bytes());
            let after = fold(bytes(&data));
            // A receiver sums data and checksum and wants all ones; that is what must hold.
            let seen = fold(u64::from(after) + u64::from(update(before, change)));
            prop_assert!(seen == 0xffff || (after == 0 && seen == 0), "{:04x}", seen);
        }
    }
}
