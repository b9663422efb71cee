//! What the agent knows of itself, for those who ask: probes, Prometheus, and `sluice status`.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::any;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tracing::warn;

use super::Settings;
use super::datapath::Seen;
use super::sweep::Levels;
use crate::bpf::{self, Maps, Pins};
use crate::health::{self, Answer, Facts, Progress, Question};
use crate::metrics::{self, Changed, Metrics, Probes, Programming, Repairs, Snapshot};
use crate::reconcile::Status;
use crate::show::{self, TrafficRow};
use crate::watch::{Health, Problem, Reason};

/// What each part of the agent last said of itself.
#[derive(Clone)]
pub(super) struct Said {
    /// The reconcile loop.
    pub(super) status: watch::Receiver<Status>,
    /// The source.
    pub(super) source: watch::Receiver<Health>,
    /// The programs.
    pub(super) seen: watch::Receiver<Seen>,
    /// The sweep of flows.
    pub(super) levels: watch::Receiver<Levels>,
}

/// What is known, and the maps for their counters.
#[derive(Clone)]
pub(super) struct Observed {
    said: Said,
    maps: Arc<Maps>,
    /// Where what Service ports carry is read from, if it is to be told.
    traffic: Option<Pins>,
}

impl Observed {
    /// The maps must be pinned.
    pub(super) fn new(settings: &Settings, said: Said) -> Result<Self, bpf::Error> {
        let Settings { pins, service_metrics, .. } = settings;
        Ok(Self { said, maps: Arc::new(Maps::open(pins)?), traffic: service_metrics.then(|| pins.clone()) })
    }

    fn traffic(&self) -> Result<Vec<TrafficRow>, bpf::Error> {
        let Some(pins) = &self.traffic else { return Ok(Vec::new()) };
        let names = self.maps.names()?;
        Ok(show::traffic(&names, &bpf::traffic(pins, names.keys().copied())?, None))
    }

    /// The answer to a question about health, now.
    pub(super) fn health(&self, question: Question) -> Answer {
        let clock = Clock::now();
        health::answer(&self.facts(clock), question, clock.time)
    }

    fn facts(&self, clock: Clock) -> Facts {
        let (status, seen) = (self.said.status.borrow(), self.said.seen.borrow());
        Facts {
            progress: [clock.progress(&status); 2],
            attached: seen.attached,
            node_eligible: !status.node_leaving,
            error: status.error.clone(),
            faults: seen.faults.iter().map(ToString::to_string).collect(),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let clock = Clock::now();
        let (status, seen) = (self.said.status.borrow().clone(), self.said.seen.borrow().clone());
        let source = self.said.source.borrow().clone();
        let (all, done) = (status.changed, status.programmed);
        let levels = [&*status.levels, &*self.said.levels.borrow()].concat();
        Snapshot {
            progress: [clock.progress(&status); 2],
            last_news: status.news_at.map(|at| clock.at(at)),
            services: Changed { total: all.services, pending: all.services - done.services },
            endpoint_slices: Changed { total: all.slices, pending: all.slices - done.slices },
            no_local_endpoints: status.elsewhere,
            ready: status.ready && status.in_step_at.is_some() && seen.attached,
            declared: status.services,
            writes: status.writes,
            repairs: Repairs { entries: status.repairs, ..seen.repairs },
            store_errors: status.errors,
            fill: self.maps.fill_of(&levels),
            attachments: seen.attachments,
            socket_programs: seen.sockets,
            problems: by_reason(status.problems.iter().chain(&seen.faults).chain(&seen.lacks)),
            // A folder has no connection: that all of it was read says the same.
            source_well: source.fault.is_none() && (source.since.is_some() || status.ready),
            source_recoveries: source.recoveries,
            packets: or_none(bpf::counters(&self.maps)),
            traffic: or_none(self.traffic()),
        }
    }

    /// The pages for probes.
    pub(super) fn probe_pages(&self, probes: &Probes) -> Router {
        let page = |question| {
            let (observed, probes) = (self.clone(), probes.clone());
            any(async move || {
                let answer = observed.health(question);
                let code = if answer.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                probes.answered(question, code.as_u16());
                (code, [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], axum::Json(answer))
            })
        };
        Router::new().route("/healthz", page(Question::Healthz)).route("/livez", page(Question::Livez))
    }

    /// The page for Prometheus.
    pub(super) fn metrics_page(&self, programming: &Programming, probes: &Probes) -> Router {
        let observed = self.clone();
        let metrics = Arc::new(Metrics::new(programming, probes, move || observed.snapshot()));
        let page = async move || match metrics.render() {
            Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        };
        Router::new().route("/metrics", any(page))
    }
}

/// What was read. Without it the rest is still worth knowing.
fn or_none<T>(read: Result<Vec<T>, bpf::Error>) -> Vec<T> {
    read.unwrap_or_else(|error| {
        warn!("metrics: {error}");
        Vec::new()
    })
}

/// How many problems there are of each sort.
fn by_reason<'a>(problems: impl Iterator<Item = &'a Problem>) -> Vec<(&'static str, u64)> {
    let mut counts = Reason::ALL.map(|reason| (reason.label(), 0));
    for problem in problems {
        counts.iter_mut().filter(|(label, _)| *label == problem.reason.label()).for_each(|(_, n)| *n += 1);
    }
    counts.to_vec()
}

/// The same moment by both clocks.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    time: Timestamp,
}

impl Clock {
    fn now() -> Self {
        Self { instant: Instant::now(), time: Timestamp::now() }
    }

    /// The time of a moment that has been.
    fn at(self, moment: Instant) -> Timestamp {
        let ago =
            SignedDuration::try_from(self.instant.saturating_duration_since(moment)).unwrap_or(SignedDuration::MAX);
        self.time.checked_sub(ago).unwrap_or(Timestamp::MIN)
    }

    fn progress(self, status: &Status) -> Progress {
        Progress {
            // What was never told in full cannot be in the maps.
            queued: status.behind_since.filter(|_| status.ready).map(|at| self.at(at)),
            updated: status.in_step_at.map(|at| self.at(at)),
        }
    }
}
