//! Growth of the tables of flows: what takes long is done in a thread of its own, and the loop swaps programs in between.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::Settings;
use super::datapath::Datapath;
use super::sweep::Levels;
use crate::bpf::{Capacities, Error, LargerTables, Move, Object, Pins, Programs, larger_flow_tables};
use crate::devices::Survey;

/// What is ready to be attached.
pub(super) enum Ready {
    /// Programs that see two tables as one.
    Joined(Programs),
    /// Programs that see the larger ones alone, and that these have now so many entries.
    Moved(Programs, Move, u64),
}

/// After a failure nothing is begun for so long: to load programs takes a second of a processor.
const PAUSE: Duration = Duration::from_secs(60);

/// How far tables have grown.
pub(super) struct Growth {
    pins: Pins,
    capacities: Capacities,
    log: bool,
    /// What is done in another thread.
    task: Option<JoinHandle<Result<Ready, Error>>>,
    /// When what is under way was begun.
    began: Instant,
    /// When it failed last, and why.
    failed: Option<(Instant, String)>,
}

impl Growth {
    /// Nothing has to grow, as far as is known.
    pub(super) fn new(settings: &Settings) -> Self {
        let Settings { pins, capacities, packet_log, .. } = settings;
        Self {
            pins: pins.clone(),
            capacities: *capacities,
            log: *packet_log,
            task: None,
            began: Instant::now(),
            failed: None,
        }
    }

    /// Begins with tables that are too full, or goes on where tables were turned to. To be called when programs are attached.
    pub(super) fn consider(&mut self, levels: &Levels) {
        if self.task.is_some() || self.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < PAUSE) {
            return;
        }
        let wanted = || {
            let under_way = Move::under_way(&self.pins)?;
            Ok((under_way, larger_flow_tables(&self.pins, levels, &self.capacities)?))
        };
        self.began = Instant::now();
        match wanted() {
            Ok((under_way, _)) if !under_way.is_none() => self.move_on(),
            Ok((_, Some(larger))) => self.join(larger),
            Ok(_) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// What is ready next; never, where nothing is under way.
    pub(super) async fn ready(&mut self) -> Result<Ready, Error> {
        let Some(task) = &mut self.task else { return pending().await };
        let ready = task.await.unwrap_or_else(|error| Err(Error::Load(error.to_string())));
        self.task = None;
        ready
    }

    /// Attaches what is ready, and goes on with what comes then.
    pub(super) fn go_on(&mut self, ready: Result<Ready, Error>, datapath: &mut Datapath, survey: &Survey) {
        let done = ready.and_then(|ready| match ready {
            // As long as one hook runs others, flows go on in the smaller tables.
            Ready::Joined(programs) => datapath.exchange(programs, survey).map(|()| self.move_on()),
            Ready::Moved(programs, done, entries) => {
                datapath.exchange(programs, survey)?;
                let maps = done.maps();
                done.end()?;
                let took = self.began.elapsed().as_secs_f64();
                info!("larger {maps} took the place of smaller ones in {took:.1} s; {entries} entries of flows moved");
                self.failed = None;
                Ok(())
            }
        });
        if let Err(error) = done {
            self.fail(&error);
        }
    }

    fn join(&mut self, larger: LargerTables) {
        let (pins, log) = (self.pins.clone(), self.log);
        let load = move || Ok(Ready::Joined(Object::embedded()?.load_joined(&pins, larger, log)?));
        self.task = Some(tokio::task::spawn_blocking(load));
    }

    fn move_on(&mut self) {
        let (pins, log) = (self.pins.clone(), self.log);
        let work = move || {
            let under_way = Move::begin(&pins)?;
            let entries = under_way.entries()?;
            Ok(Ready::Moved(Object::embedded()?.load_moved(&pins, log)?, under_way, entries))
        };
        self.task = Some(tokio::task::spawn_blocking(work));
    }

    fn fail(&mut self, error: &Error) {
        let error = error.to_string();
        if self.failed.as_ref().is_none_or(|(_, known)| *known != error) {
            warn!("a table of flows that fills is not replaced by a larger one, trying again: {error}");
        }
        self.failed = Some((Instant::now(), error));
    }
}
