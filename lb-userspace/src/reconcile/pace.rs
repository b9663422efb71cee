//! When to work: at once after a quiet time, in batches during a storm, less and less often after failures. Pure.

use std::time::{Duration, Instant};

/// Longest that news wait for more of their kind. A person does not notice it, and a storm of thousands of events
/// becomes twenty rounds a second.
const LONGEST_HOLD: Duration = Duration::from_millis(50);
/// Rounds that take no longer than this together wait for nothing: a change of one Service takes a millisecond or two, and
/// some may follow each other as fast as they come.
const CREDIT: Duration = Duration::from_millis(10);
/// First wait after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest wait after failures.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Decides when the next round may begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// From here on, all rounds up to now have taken no more than half of the time.
    paid: Instant,
    retry: Option<(Instant, Duration)>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid: now, retry: None }
    }

    /// A round went well. In the long run rounds take no more than half of the time, so that a storm comes in batches; a
    /// lone change costs next to nothing and waits for nothing.
    pub(super) fn succeeded(&mut self, began: Instant, ended: Instant) {
        let paid = self.paid.max(began) + 2 * (ended - began);
        self.paid = paid.min(ended + CREDIT + LONGEST_HOLD);
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
            None => Some(wanted?.max(self.paid.checked_sub(CREDIT).unwrap_or(self.paid))),
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
    fn some_changes_may_follow_each_other_but_a_storm_leaves_half_of_the_time() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..6 {
            let due = pace.due(Some(now)).unwrap();
            waits.push((due - now).as_millis());
            now = due + 4 * MS;
            pace.succeeded(due, now);
        }
        assert_eq!(waits, [0, 0, 0, 2, 4, 4]);
        pace.succeeded(now, now + 4 * MS);
        let later = now + 100 * MS;
        assert_eq!(pace.due(Some(later)), Some(later));
    }

    #[test]
    fn no_change_waits_for_more_than_50_ms() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for round in 1..4 {
            let end = start + round * 1000 * MS;
            pace.succeeded(end - 1000 * MS, end);
            assert_eq!(pace.due(Some(end)), Some(end + 50 * MS));
        }
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
