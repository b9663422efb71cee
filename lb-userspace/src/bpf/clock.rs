//! The time of flow entries: [`TICK`]s of `CLOCK_MONOTONIC`, as the agent and the programs read it.

use std::time::Duration;

use lb_common::clock::Jiffies;
use lb_common::tables::TICK;

/// How this kernel counts timer interrupts, from which the programs have the time: the resolution of a coarse clock is the time
/// from one to the next.
pub(super) fn jiffies() -> Jiffies {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the structure, which lives until the call returns.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
    Jiffies::of(nanoseconds(resolution))
}

fn nanoseconds(time: libc::timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Now, in the unit of [`Flow::seen`](lb_common::tables::Flow::seen).
pub fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as in `jiffies`.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u32::try_from(nanoseconds(time) / TICK).unwrap_or(u32::MAX)
}

/// The same of a time.
pub fn in_ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() / u128::from(TICK)).unwrap_or(u32::MAX)
}

/// How long a number of ticks is.
pub fn ticks(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) * TICK)
}
