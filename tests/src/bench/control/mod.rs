//! How fast what is written in the API reaches the packets, and what it costs: Sluice beside kube-proxy, one after the
//! other on the same node, with the same real API server and the same objects.

pub(super) mod api;
pub(super) mod objects;
pub(super) mod probe;
mod report;

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use self::api::Api;
use self::objects::Objects;
use self::probe::World;
pub(super) use self::report::Report;
use self::report::{Changes, Row, Start};
use super::progress;
use super::report::{Findings as _, Machine};
pub use super::subject::Subject;
use super::subject::{self, Running, START};
use crate::lab::Lab;
use crate::plane::{Plane, PlaneOptions};

/// What to measure, and where to leave the figures.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of Services, ascending.
    pub services: Vec<u32>,
    /// Changes with a pause between, and as many back to back.
    pub changes: u32,
    /// The programs, in their order.
    pub subjects: Vec<Subject>,
    /// The folder where the JSON goes.
    pub out: PathBuf,
}

/// A change that takes longer is cut off, with all that would follow.
const CHANGE: Duration = Duration::from_secs(30);
/// Longer than kube-proxy rests between two writes of its rules (`minSyncPeriod`, 1 s): such changes wait for none.
const PAUSE: Duration = Duration::from_millis(1100);
/// After the start, what was put off is done, and memory has come to rest.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures, prints the table, and keeps the JSON.
///
/// # Errors
/// The lab or the control plane cannot run here, or a program under measurement fails.
pub fn run(options: &Options) -> Result<()> {
    let lab = Lab::new()?;
    let plane = Plane::start(&lab, PlaneOptions { api_servers: 1, controllers: false })?;
    let world = World::new(&lab)?;
    let mut api = Api::new(&plane)?;
    let machine = Machine::this().beside(subject::version()?);
    let mut report = Report { machine, changes: options.changes, rows: Vec::new() };
    for &services in &options.services {
        api.populate(services)?;
        for &subject in &options.subjects {
            let row = measure(&lab, &plane, &world, &mut api, options, services, subject);
            let row = row.with_context(|| format!("{} at {services} Services", subject.name()))?;
            eprintln!("{}", row.line());
            report.rows.push(row);
        }
    }
    report.save(&options.out)
}

/// One program on a clean node, from its start to its removal.
fn measure(
    lab: &Lab,
    plane: &Plane<'_>,
    world: &World,
    api: &mut Api<'_>,
    options: &Options,
    services: u32,
    subject: Subject,
) -> Result<Row> {
    let objects = Objects { services };
    let name = format!("{}, {services} Services", subject.name());
    let bar = progress::bar(name, u64::from(2 * options.changes), "changes")?;
    bar.set_message("start");

    let mut running = subject.start(lab, plane, &[])?;
    let sample = objects.sample();
    let reached = world.wait_for_all(&sample, running.began, START)?;
    running.expect_alive()?;
    let Some(complete) = reached else {
        running.remove()?;
        bar.finish_and_clear();
        return Ok(Row::cut_off(subject.name(), services, START));
    };
    let says_ready = running.says_ready()?.map(|time| time.as_secs_f64());
    sleep(SETTLE);
    // Only now: what a child used counts when it has ended, which is after its rules are in force.
    let settled = running.usage()?;
    let start = Start { seconds: complete.as_secs_f64(), says_ready, cpu: settled.cpu, rss: settled.rss };

    bar.set_message("with pauses");
    let paused = changes(world, api, objects, options.changes, PAUSE, &running, &bar)?;
    bar.set_message("back to back");
    let back_to_back = changes(world, api, objects, options.changes, Duration::ZERO, &running, &bar)?;
    let peak = Some(running.usage()?.peak);
    let maps = running.maps()?;
    running.remove()?;
    bar.finish_and_clear();
    let subject = subject.name().to_owned();
    Ok(Row { subject, services, start: Some(start), paused, back_to_back, peak, maps, cut_off: None })
}

/// Gives one Service after the other ten new endpoints, and takes the time until a packet arrives at one of them. Ends
/// early where one never does.
fn changes(
    world: &World,
    api: &mut Api<'_>,
    objects: Objects,
    count: u32,
    pause: Duration,
    running: &Running<'_>,
    bar: &ProgressBar,
) -> Result<Option<Changes>> {
    let before = running.usage()?;
    let mut changes = Changes::default();
    for _ in 0..count {
        let change = api.next_change();
        let service = objects.changed(change);
        let probe = world.probe(objects::cluster_ip(service))?;
        let (written, took) = api.write(service, change)?;
        let seen = loop {
            match world.arrivals.recv_timeout(CHANGE) {
                Ok(arrival) if arrival.change == change => break arrival.at,
                // Of a change before: it was cut off, and came after all.
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the backend listens no more"),
            }
        };
        probe.stop()?;
        changes.latencies.push(milliseconds(seen.saturating_duration_since(written)));
        changes.writes.push(milliseconds(took));
        bar.inc(1);
        sleep(pause.saturating_sub(seen.elapsed()));
    }
    if pause.is_zero() {
        // What the last one left to be done belongs to the bill.
        sleep(PAUSE);
    }
    changes.cpu = running.usage()?.cpu - before.cpu;
    Ok(Some(changes))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The moment a request begins, and how long it took.
type Written = (Instant, Duration);
