//! CRC-32C (RFC 9260, appendix A), and how it changes when the first bytes of a packet change.
//!
//! A CRC is linear: its change is that of the changed bytes alone, as if all behind them were zeros. So four bytes are worked
//! in, whatever the length, and a program need not see the rest.

/// What a change of the first 32 bits of `len` bytes does to their CRC; `len` is below 64 KiB.
#[inline(always)]
pub fn change(bits: u32, len: u32) -> u32 {
    let [low, high, ..] = len.to_le_bytes().map(usize::from);
    multiply(multiply(LOW[low], HIGH[high]), bits)
}

/// The polynomial of CRC-32C. Of all polynomials here the highest bit is the coefficient of 1.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// 1.
const ONE: u32 = 1 << 31;

/// x to the power of 8 n, and of 8 × 256 n: what n bytes of zeros behind it do to a CRC.
static LOW: [u32; 256] = powers(advance(ONE, 8));
static HIGH: [u32; 256] = powers(advance(ONE, 8 * 256));

const fn powers(base: u32) -> [u32; 256] {
    let (mut all, mut n) = ([ONE; 256], 1);
    while n < 256 {
        all[n] = multiply(all[n - 1], base);
        n += 1;
    }
    all
}

/// Multiplies by x, so often.
#[inline(always)]
const fn advance(mut value: u32, times: u32) -> u32 {
    let mut n = 0;
    while n < times {
        // Without a branch, which would be two ways for the kernel's verifier at each bit.
        value = value >> 1 ^ POLYNOMIAL & (value & 1).wrapping_neg();
        n += 1;
    }
    value
}

/// The product of two polynomials, modulo that of CRC-32C.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut power, mut bit) = (0, a, 32);
    while bit > 0 {
        bit -= 1;
        product ^= power & (b >> bit & 1).wrapping_neg();
        power = advance(power, 1);
    }
    product
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn agree(before: &[u8], ports: [u8; 4]) {
        let mut after = before.to_vec();
        after[..4].copy_from_slice(&ports);
        let bits = |data: &[u8]| u32::from_le_bytes([data[0], data[1], data[2], data[3]]);
        let change = change(bits(before) ^ bits(&after), before.len() as u32);
        assert_eq!(crc32c::crc32c(before) ^ change, crc32c::crc32c(&after), "{} bytes", before.len());
    }

    #[test]
    fn a_change_is_what_a_crc_computed_anew_shows_at_any_length() {
        let data: Vec<u8> = (0..65_536).map(|n: u32| (n * 7 + 3) as u8).collect();
        // Every row of the lower table, many of the upper, and the ends of what a packet can be.
        for len in (4..=512).chain((512..65_536).step_by(1021)).chain(65_530..65_536) {
            agree(&data[..len], [0x13, 0x88, 0x00, 0x50]);
        }
    }

    proptest! {
        #[test]
        fn a_change_agrees_with_a_crc_computed_anew(
            data in proptest::collection::vec(any::<u8>(), 4..2_000),
            ports: [u8; 4],
        ) {
            agree(&data, ports);
        }
    }
}
