//! Direct access to the bytes of a packet, between the two pointers that the kernel gives; and their CRC.

use core::arch::asm;

use lb_common::crc;

/// The same offset, made unknown to the verifier by a number that is unknown to it, and bounded.
#[inline(always)]
pub(crate) fn opaque(offset: usize, unknown: usize) -> usize {
    let mut opaque = offset;
    // SAFETY: these instructions touch the one register only.
    unsafe {
        asm!(
            "{offset} ^= {unknown}",
            "{offset} ^= {unknown}",
            "{offset} &= 0x3fff",
            offset = inout(reg) opaque,
            unknown = in(reg) unknown,
            options(pure, nomem, nostack),
        );
    }
    opaque
}

/// Where `T` stands at `offset` from `start`, if that is before `end`. The verifier follows this very comparison.
#[inline(always)]
fn at<T>(start: usize, end: usize, offset: usize) -> Option<*mut T> {
    let start = start + offset;
    (start + size_of::<T>() <= end).then_some(start as *mut T)
}

/// Reads.
#[inline(always)]
pub(crate) fn load<T: bytemuck::Pod>(start: usize, end: usize, offset: usize) -> Option<T> {
    // SAFETY: `at` has checked the bounds, and the verifier checks `at`. BPF loads a word at any address.
    at::<T>(start, end, offset).map(|p| unsafe { *p })
}

/// Writes.
#[inline(always)]
pub(crate) fn store<T: bytemuck::Pod>(start: usize, end: usize, offset: usize, value: &T) -> Option<()> {
    // SAFETY: as in `load`.
    at::<T>(start, end, offset).map(|p| unsafe { *p = *value })
}

/// What other ports do to the checksum of a packet of SCTP. A global function to the kernel (Linux 5.6): its verifier walks
/// through it once, for whatever numbers, not again on each way that leads here.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn crc_change(bits: u32, len: u32) -> u32 {
    crc::change(bits, len)
}
