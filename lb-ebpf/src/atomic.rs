//! Atomic OR and AND. `core` offers none for this target, which has the instructions since Linux 5.12.

use core::arch::asm;

/// Sets `bits` in the word, which other CPUs may change at the same moment.
///
/// # Safety
/// `word` points to an aligned word of a map.
#[inline(always)]
pub(crate) unsafe fn or32(word: *mut u32, bits: u32) {
    // SAFETY: the caller's; the instruction touches this word only.
    unsafe { asm!("lock *(u32 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(wreg) bits) };
}

/// Keeps only `bits` in the word, which other CPUs may change at the same moment.
///
/// # Safety
/// `word` points to an aligned word of a map.
#[inline(always)]
pub(crate) unsafe fn and32(word: *mut u32, bits: u32) {
    // SAFETY: the caller's; the instruction touches this word only.
    unsafe { asm!("lock *(u32 *)({word} + 0) &= {bits}", word = in(reg) word, bits = in(wreg) bits) };
}

/// Sets `bits` in the word, which other CPUs may change at the same moment.
///
/// # Safety
/// `word` points to an aligned word of a map.
#[inline(always)]
pub(crate) unsafe fn or64(word: *mut u64, bits: u64) {
    // SAFETY: the caller's; the instruction touches this word only.
    unsafe { asm!("lock *(u64 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(reg) bits) };
}
