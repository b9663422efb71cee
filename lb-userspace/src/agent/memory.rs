//! Memory that only a start needs.
#![allow(unsafe_code)]

/// Gives back what the allocator keeps for later use. Lists come in at once, from then on only changes: a fifth of all that a
/// start took is never needed again.
pub(super) fn give_back() {
    // SAFETY: the call takes no pointer and may be made at any time, by any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
