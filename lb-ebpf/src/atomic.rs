//! Atomic changes of words. `core` offers none for this target, which has the instructions since Linux 5.12.

use core::arch::asm;

/// Sets `bits` in the word, which other CPUs may change at the same moment.
///
/// # Safety
/// `word` points to an aligned word of a map, or of the program's own.
#[inline(always)]
pub(crate) unsafe fn or64(word: *mut u64, bits: u64) {
    // SAFETY: the caller's; the instruction touches this word only.
    unsafe { asm!("lock *(u64 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(reg) bits) };
}

/// Replaces the word by `new` if it is `old`, and says what it was; ordered with all that stands before and behind.
///
/// # Safety
/// `word` points to an aligned word of a map.
#[inline(always)]
pub(crate) unsafe fn swap32(word: *mut u32, old: u32, new: u32) -> u32 {
    let was;
    // SAFETY: the caller's; the instruction touches this word only.
    unsafe {
        asm!("w0 = cmpxchg32_32({word} + 0, w0, {new})", word = in(reg) word, new = in(wreg) new, inout("w0") old => was);
    }
    was
}

/// Writes the word after all that was written before.
///
/// # Safety
/// `word` points to an aligned word of a map.
#[inline(always)]
pub(crate) unsafe fn publish32(word: *mut u32, value: u32) {
    // SAFETY: the caller's. Machines that keep stores in order need no more; the volatile writes before it and this one
    // are not reordered by the compiler.
    unsafe { word.write_volatile(value) };
}
