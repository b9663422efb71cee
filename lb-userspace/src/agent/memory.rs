//! What the allocator of glibc is told: to take little memory at a start, and to give back what only that needs.
#![allow(unsafe_code)]

/// Has all threads take memory from one place. Objects of the API are made by one thread and dropped by others: what each thread
/// keeps in a place of its own, the others cannot use. To be called before there are other threads.
pub fn keep_together() {
    // SAFETY: the call takes numbers only; that it cannot be told so changes nothing else.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what the allocator keeps for later use. Lists come in at once, from then on only changes: a fifth of all that a
/// start took is never needed again.
pub(super) fn give_back() {
    // SAFETY: the call takes no pointer and may be made at any time, by any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
