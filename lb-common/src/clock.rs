//! The kernel's count of timer interrupts (jiffies) as a clock. Programs read it in place, where any clock of the kernel's is a call.

use crate::tables::TICK;

/// What programs must know of the count: what it was at boot, and nanoseconds from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jiffies {
    boot: u64,
    nanoseconds: u64,
}

impl Jiffies {
    /// With so many nanoseconds from one to the next. The count begins five minutes before the low 32 bits of it overflow
    /// (`INITIAL_JIFFIES` of the kernel), so that whoever errs there is found out early.
    pub const fn of(nanoseconds: u64) -> Self {
        let a_second = match (1_000_000_000 + nanoseconds / 2).checked_div(nanoseconds) {
            Some(a_second) => a_second,
            None => 0,
        };
        Self { boot: (1 << 32) - 300 * a_second, nanoseconds }
    }

    /// Both numbers.
    pub const fn words(self) -> [u64; 2] {
        [self.boot, self.nanoseconds]
    }

    /// The inverse of [`Jiffies::words`].
    #[inline(always)]
    pub const fn from_words([boot, nanoseconds]: [u64; 2]) -> Self {
        Self { boot, nanoseconds }
    }

    /// The time of a count, in [`TICK`]s since boot.
    #[inline(always)]
    pub const fn time(self, count: u64) -> u32 {
        (count.wrapping_sub(self.boot).wrapping_mul(self.nanoseconds) / TICK) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_counts_the_same_ticks() {
        // CONFIG_HZ, and its TICK_NSEC.
        for (hz, nanoseconds) in
            [(100, 10_000_000), (250, 4_000_000), (300, 3_333_333), (1000, 1_000_000), (1024, 976_563)]
        {
            let jiffies = Jiffies::of(nanoseconds);
            let boot = u64::from((-300 * hz) as u32);
            assert_eq!(jiffies.words(), [boot, nanoseconds]);
            assert_eq!(jiffies.time(boot), 0);
            for seconds in [1, 299, 300, 301, 86_400, 100_000_000_u64] {
                let ticks = (seconds * 1_000_000_000 / TICK) as u32;
                assert!(jiffies.time(boot + hz as u64 * seconds).abs_diff(ticks) <= 1 + (seconds / 1_000_000) as u32);
            }
        }
    }
}
