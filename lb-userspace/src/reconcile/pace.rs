//! When to work: at once after a quiet time, in batches during a storm, less and less often after failures. Pure.

use std::time::{Duration, Instant};

/// Longest that news wait for more of their kind. A person does not notice it, and a storm of thousands of events
/// becomes twenty rounds a second.
const LONGEST_HOLD: Duration = Duration::from_millis(50);
/// First wait after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest wait after failures.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Decides when the next round may begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    hold_until: Instant,
    retry: Option<(Instant, Duration)>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { hold_until: now, retry: None }
    }

    /// A round went well. The next one waits as long as this one took, so that rounds take no more than half of the
    /// time: a lone change costs next to nothing and waits for nothing.
    pub(super) fn succeeded(&mut self, began: Instant, ended: Instant) {
        self.hold_until = ended + (ended - began).min(LONGEST_HOLD);
        self.retry = None;
    }

    /// A round failed.
    pub(super) fn failed(&mut self, ended: Instant) {
        let wait = self.retry.map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(LONGEST_RETRY));
        self.retry = Some((ended + wait, wait));
    }

    /// When work that was wanted at `wanted` may begin; a round that failed is wanted all by itself.
    pub(super) fn due(&self, wanted: Option<Instant>) -> Option<Instant> {
        match self.retry {
            Some((at, _)) => Some(at),
            None => Some(wanted?.max(self.hold_until)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_lone_change_waits_for_nothing() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.due(None), None);
        assert_eq!(pace.due(Some(start)), Some(start));
        pace.succeeded(start, start + MS);
        let later = start + 10 * MS;
        assert_eq!(pace.due(Some(later)), Some(later));
    }

    #[test]
    fn changes_right_after_a_round_wait_as_long_as_it_took_but_not_over_50_ms() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.succeeded(start, start + 4 * MS);
        assert_eq!(pace.due(Some(start + 5 * MS)), Some(start + 8 * MS));
        pace.succeeded(start, start + 1000 * MS);
        assert_eq!(pace.due(Some(start)), Some(start + 1050 * MS));
    }

    #[test]
    fn failures_wait_longer_and_longer_until_one_round_goes_well() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut waits = Vec::new();
        for _ in 0..10 {
            pace.failed(start);
            waits.push((pace.due(Some(start)).unwrap() - start).as_millis());
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        pace.succeeded(start, start);
        assert_eq!(pace.due(Some(start)), Some(start));
    }
}
