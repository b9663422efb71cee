//! One round of the loop, without the waiting.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lb_common::ip::Family;
use tracing::{debug, info, warn};

use super::pace::Pace;
use super::status::Status;
use crate::compile::{Compiler, Elsewhere, Limits, NodeFacts};
use crate::ids::Rest;
use crate::metrics::Programming;
use crate::plan::{Departures, Op, diff};
use crate::state::State;
use crate::store::{Stopped, Store, StoreError};
use crate::watch::{Message, Problem};

/// What the loop is told once.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node, as it is known at the start.
    pub node: NodeFacts,
    /// Room in the maps.
    pub limits: Limits,
    /// How long numbers rest before reuse.
    pub rest: Rest,
    /// The least time between two sweeps, which read the maps back and repair them. Nobody but the agent should write
    /// them, and reading all of ten thousand Services takes about a tenth of a second.
    pub sweep: Duration,
    /// Where it is told how long programming takes.
    pub programming: Programming,
}

impl Options {
    /// The usual least time between two sweeps.
    pub const SWEEP: Duration = Duration::from_secs(10);

    /// The usual, for this node.
    pub fn new(node: NodeFacts) -> Self {
        Self {
            node,
            limits: Limits::default(),
            rest: Rest::DEFAULT,
            sweep: Self::SWEEP,
            programming: Programming::default(),
        }
    }
}

/// After a sweep comes a pause this many times as long, so that few changes ever wait for one.
const SWEEP_SHARE: u32 = 1000;

/// The loop without its waiting: all it needs to know of time is told to it.
#[derive(Debug)]
pub struct Engine<S> {
    store: S,
    options: Options,
    state: State,
    /// None until the maps were first read.
    compiler: Option<Compiler>,
    /// What the maps have is not known, since a write failed or they were never read.
    lost: bool,
    pace: Pace,
    sweep_at: Instant,
    source_problems: Vec<Problem>,
    /// Changes that wait to get into the maps: when they came in, and of how many objects. Those of the first lists are
    /// not among them, since nobody knows when these changed.
    waiting: Vec<(Instant, u64)>,
    /// What made others write the EndpointSlices among them.
    triggers: Vec<(Family, SystemTime)>,
    /// Whether the object of this node was ever seen.
    node_known: bool,
    departures: Departures,
    status: Status,
}

impl<S: Store> Engine<S> {
    /// Knows nothing yet, and is therefore behind: the maps may hold what is long gone.
    pub fn new(store: S, options: Options, now: Instant) -> Self {
        Self {
            store,
            state: State::default(),
            compiler: None,
            lost: true,
            pace: Pace::new(now),
            sweep_at: now + options.sweep,
            source_problems: Vec::new(),
            waiting: Vec::new(),
            triggers: Vec::new(),
            node_known: false,
            departures: Departures::default(),
            status: Status { behind_since: Some(now), ..Status::default() },
            options,
        }
    }

    /// How it is doing.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What changed in where frontends lead, as it stands in the maps, since this was last asked.
    pub fn take_departures(&mut self) -> Departures {
        std::mem::take(&mut self.departures)
    }

    /// The maps.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// The maps as this agent would leave them to the next.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Takes in what is known of this node now.
    pub fn move_to(&mut self, node: NodeFacts, now: Instant) {
        if self.options.node != node {
            self.options.node = node;
            self.status.behind_since.get_or_insert(now);
        }
    }

    /// Takes in what a source sent, and when that came in.
    pub fn receive(&mut self, message: Message, now: Instant) {
        match message {
            Message::Events(events) => events.into_iter().for_each(|event| self.state.apply(event)),
            Message::Problems(problems) => {
                self.source_problems = problems;
                self.publish_problems();
            }
        }
        // A node that was known and is no more has left.
        let node = self.state.node(&self.options.node.name);
        self.node_known |= node.is_some();
        self.status.node_leaving = node.map_or(self.node_known, |node| node.leaving);
        self.note_news(now);
    }

    fn note_news(&mut self, now: Instant) {
        let cidrs = self.state.service_cidrs();
        if self.status.service_cidrs.as_deref() != cidrs.as_ref() {
            self.status.service_cidrs = cidrs.map(Arc::new);
        }
        let changed = self.state.changed();
        let count = changed.services + changed.slices - self.status.changed.services - self.status.changed.slices;
        self.status.changed = changed;
        if count > 0 {
            self.status.news_at = Some(now);
        }
        if count > 0 && self.status.ready {
            self.waiting.push((now, count));
        }
        if self.state.ready() && !self.status.ready {
            self.status.ready = true;
            // Until now there was nothing that could be in the maps.
            self.status.behind_since = Some(now);
        }
        if self.state.has_changes() {
            self.status.behind_since.get_or_insert(now);
        }
    }

    /// When there is work next.
    pub fn due(&self) -> Option<Instant> {
        if !self.state.ready() {
            return None;
        }
        let rests = self.compiler.as_ref().and_then(Compiler::deadline);
        let wanted = [self.status.behind_since, rests, Some(self.sweep_at)].into_iter().flatten().min();
        self.pace.due(wanted)
    }

    /// Brings the maps in step with what was declared.
    pub fn work(&mut self, clock: impl Fn() -> Instant) {
        if !self.state.ready() {
            return;
        }
        let began = clock();
        let mut written = began;
        // A round that reads the maps back is as good as a sweep.
        let reads_back = self.lost;
        let sweeps = began >= self.sweep_at;
        let done = self.round(began).and_then(|()| {
            written = clock();
            if sweeps && !reads_back { self.sweep() } else { Ok(()) }
        });
        let ended = clock();
        match done {
            Ok(()) => {
                self.pace.succeeded(began, written);
                if let Some(compiler) = &mut self.compiler {
                    compiler.settle(ended);
                }
                self.measure(began, ended);
                self.lost = false;
                self.status.behind_since = None;
                self.status.in_step_at = Some(ended);
                if self.status.error.take().is_some() {
                    info!("the maps are in step again");
                }
            }
            Err(error) => {
                self.pace.failed(ended);
                self.lost = true;
                self.status.behind_since.get_or_insert(began);
                self.status.errors.count(&error);
                let error = error.to_string();
                if self.status.error.as_ref() != Some(&error) {
                    warn!("the maps are not as they shall be, trying again: {error}");
                }
                self.status.error = Some(error);
            }
        }
        if reads_back {
            // What such a round costs is mostly not the reading.
            self.sweep_at = ended + self.options.sweep;
        } else if sweeps {
            self.sweep_at = ended + self.options.sweep.max((ended - began) * SWEEP_SHARE);
        }
        self.status.services = self.state.services().len();
        self.publish_problems();
    }

    /// Tells how long it took until the news were in the maps.
    fn measure(&mut self, began: Instant, ended: Instant) {
        let programming = &self.options.programming;
        programming.round(ended - began);
        for (came, count) in self.waiting.drain(..) {
            programming.changes(count, ended - came);
        }
        for (family, at) in self.triggers.drain(..) {
            programming.network(family, at);
        }
        self.status.programmed = self.status.changed;
        self.status.elsewhere = self.compiler.as_ref().map_or_else(Elsewhere::default, Compiler::elsewhere);
        self.status.checks = self.compiler.as_ref().map_or_else(Arc::default, Compiler::health_checks);
        self.status.levels = self.compiler.as_ref().map_or_else(Vec::new, Compiler::levels);
    }

    fn round(&mut self, now: Instant) -> Result<(), StoreError> {
        let actual = match self.lost {
            true => Some(self.store.read()?),
            false => None,
        };
        let Options { limits, rest, .. } = self.options;
        let compiler = self.compiler.get_or_insert_with(|| match &actual {
            Some(actual) => Compiler::recover(limits, rest, actual),
            None => Compiler::new(limits, rest),
        });
        let mut changes = self.state.take_changes();
        let triggers = std::mem::take(&mut changes.triggers);
        // What happened before this agent knew anything says nothing of how fast it is.
        if self.status.in_step_at.is_some() {
            self.triggers.extend(triggers);
        }
        compiler.compile(&self.state, changes, &self.options.node, now);
        let (ops, departures) = match actual {
            Some(actual) => {
                let ops = diff(&actual, compiler.image());
                let departures = unknown(&ops);
                (ops, departures)
            }
            None => (compiler.ops(), compiler.departures()),
        };
        let written = self.write(&ops);
        self.departures.add(if written.is_ok() { departures } else { unknown(&ops) });
        written
    }

    /// Reads the maps back and repairs what is not as this agent left it.
    fn sweep(&mut self) -> Result<(), StoreError> {
        let Some(compiler) = &self.compiler else { return Ok(()) };
        if self.store.holds(compiler.image())? {
            return Ok(());
        }
        let ops = diff(&self.store.read()?, compiler.image());
        if let Some(first) = ops.first() {
            warn!("{} entries of the maps were changed by someone else, {first} in {} first", ops.len(), first.map());
            self.status.repairs += ops.len() as u64;
        }
        self.departures.add(unknown(&ops));
        self.write(&ops)
    }

    fn write(&mut self, ops: &[Op]) -> Result<(), StoreError> {
        if ops.is_empty() {
            return Ok(());
        }
        let written = self.store.apply(ops);
        let done = match &written {
            Ok(()) => ops.len(),
            Err(Stopped { done, .. }) => *done,
        };
        self.status.writes += done as u64;
        self.status.generation += 1;
        debug!("{done} of {} writes made", ops.len());
        let Err(Stopped { error, .. }) = written else { return Ok(()) };
        if matches!(error, StoreError::Full { .. }) {
            // What is to go makes room for what is to come.
            self.make_room(&ops[done..]);
        }
        Err(error)
    }

    fn make_room(&mut self, ops: &[Op]) {
        let removals: Vec<_> = ops.iter().filter(|op| op.is_removal()).cloned().collect();
        let done = match self.store.apply(&removals) {
            Ok(()) => removals.len(),
            Err(Stopped { done, error }) => {
                warn!("{error}");
                done
            }
        };
        self.status.writes += done as u64;
    }

    /// Says what is newly wrong, once.
    fn publish_problems(&mut self) {
        let mut problems = self.source_problems.clone();
        problems.extend(self.compiler.iter().flat_map(Compiler::problems));
        let known: HashSet<_> = self.status.problems.iter().collect();
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            warn!("{problem}");
        }
        self.status.problems = problems;
    }
}

/// Of writes of which it is not known what they replace, or whether they were made.
fn unknown(ops: &[Op]) -> Departures {
    Departures { everywhere: ops.iter().any(Op::turns_clients), ..Departures::default() }
}
