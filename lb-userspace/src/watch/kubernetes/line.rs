//! What one kind's requests tell of the way to the API servers, and how often they may be made.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Heard;

/// The first pause after an error; each further one is [`FACTOR`] times as long. So a server that restarts is found
/// within a second or two.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const FACTOR: f32 = 1.5;
/// The longest pause, to which chance adds as much again at most: a node must not serve by what has long changed, and a
/// server that comes back is not overrun when thousands of nodes ask over that long a time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The least time from one watch to the next, where a server ends each at once.
const BETWEEN_WATCHES: Duration = Duration::from_millis(200);

/// One kind's way to the servers.
#[derive(Debug)]
pub(super) struct Line {
    kind: &'static str,
    out: mpsc::Sender<Heard>,
    /// A server answered since the last pause.
    answered: AtomicBool,
    /// What came made no sense: an answer alone makes nothing well.
    doubtful: AtomicBool,
    pauses: Mutex<Option<ExponentialBackoff>>,
    next_watch: Mutex<Option<Instant>>,
}

impl Line {
    pub(super) fn new(kind: &'static str, out: mpsc::Sender<Heard>) -> Self {
        Self {
            kind,
            out,
            answered: false.into(),
            doubtful: false.into(),
            pauses: Mutex::default(),
            next_watch: Mutex::default(),
        }
    }

    /// A server did what it was asked for.
    pub(super) async fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
        if !self.doubtful.load(Ordering::Relaxed) {
            self.tell(Heard::Well(self.kind)).await;
        }
    }

    /// What came makes sense.
    pub(super) async fn makes_sense(&self) {
        if self.doubtful.swap(false, Ordering::Relaxed) {
            self.tell(Heard::Well(self.kind)).await;
        }
    }

    /// What came makes no sense.
    pub(super) async fn makes_no_sense(&self, why: String) {
        self.doubtful.store(true, Ordering::Relaxed);
        self.failed(format!("an answer makes no sense, {why}")).await;
    }

    /// No server did what it was asked for.
    pub(super) async fn failed(&self, why: String) {
        self.tell(Heard::Failed(self.kind, why)).await;
    }

    async fn tell(&self, heard: Heard) {
        // Where nobody listens any more, all ends soon.
        let _ = self.out.send(heard).await;
    }

    /// Waits after an error, longer each time until a server answers.
    pub(super) async fn pause(&self) {
        let pause = {
            let mut pauses = self.pauses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let sense = !self.doubtful.load(Ordering::Relaxed);
            if self.answered.swap(false, Ordering::Relaxed) && sense {
                *pauses = None;
            }
            pauses.get_or_insert_with(backoff).next()
        };
        sleep(pause.unwrap_or(LONGEST_PAUSE)).await;
    }

    /// Waits before a watch, so that those that end at once do not follow each other without end.
    pub(super) async fn before_watch(&self) {
        let at = {
            let mut next = self.next_watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let at = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
            *next = Some(at + BETWEEN_WATCHES);
            at
        };
        sleep_until(at).await;
    }
}

fn backoff() -> ExponentialBackoff {
    let pauses = ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE);
    pauses.with_factor(FACTOR).with_jitter().without_max_times().build()
}
