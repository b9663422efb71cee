//! One round of the loop, without the waiting.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::pace::Pace;
use super::status::Status;
use crate::compile::{Compiler, Limits, NodeFacts};
use crate::ids::Rest;
use crate::plan::{Op, diff};
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
    /// How often the maps are read back and repaired. Nobody but the agent should write them, and reading all of
    /// ten thousand Services takes about a tenth of a second: [`Options::SWEEP`] is a good time.
    pub sweep: Duration,
}

impl Options {
    /// The usual time between two sweeps.
    pub const SWEEP: Duration = Duration::from_secs(300);

    /// The usual, for this node.
    pub fn new(node: NodeFacts) -> Self {
        Self { node, limits: Limits::default(), rest: Rest::DEFAULT, sweep: Self::SWEEP }
    }
}

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
            status: Status { behind_since: Some(now), ..Status::default() },
            options,
        }
    }

    /// How it is doing.
    pub fn status(&self) -> &Status {
        &self.status
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
        self.status.ready = self.state.ready();
        self.status.node_leaving = self.state.node(&self.options.node.name).is_some_and(|node| node.leaving);
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
        let done = self.round(began).and_then(|()| match began >= self.sweep_at {
            true => self.sweep(),
            false => Ok(()),
        });
        let ended = clock();
        match done {
            Ok(()) => {
                self.pace.succeeded(began, ended);
                if let Some(compiler) = &mut self.compiler {
                    compiler.settle(ended);
                }
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
                let error = error.to_string();
                if self.status.error.as_ref() != Some(&error) {
                    warn!("the maps are not as they shall be, trying again: {error}");
                }
                self.status.error = Some(error);
            }
        }
        if began >= self.sweep_at {
            self.sweep_at = ended + self.options.sweep;
        }
        self.status.services = self.state.services().len();
        self.publish_problems();
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
        let changes = self.state.take_changes();
        compiler.compile(&self.state, changes, &self.options.node, now);
        let ops = match actual {
            Some(actual) => diff(&actual, compiler.image()),
            None => compiler.ops(),
        };
        self.write(&ops)
    }

    /// Reads the maps back and repairs what is not as this agent left it.
    fn sweep(&mut self) -> Result<(), StoreError> {
        let Some(compiler) = &self.compiler else { return Ok(()) };
        let ops = diff(&self.store.read()?, compiler.image());
        if let Some(first) = ops.first() {
            warn!("{} entries of the maps were changed by someone else, {first} in {} first", ops.len(), first.map());
            self.status.repairs += ops.len() as u64;
        }
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
        self.count(&ops[..done]);
        self.status.generation += 1;
        debug!("{done} of {} writes made", ops.len());
        let Err(Stopped { error, .. }) = written else { return Ok(()) };
        if matches!(error, StoreError::Full { .. }) {
            // What is to go makes room for what is to come.
            self.make_room(&ops[done..]);
        }
        Err(error)
    }

    fn count(&mut self, written: &[Op]) {
        self.status.writes += written.len() as u64;
        self.status.turned += written.iter().filter(|op| op.turns_datagrams()).count() as u64;
    }

    fn make_room(&mut self, ops: &[Op]) {
        let removals: Vec<_> = ops.iter().filter(|op| op.is_removal()).cloned().collect();
        match self.store.apply(&removals) {
            Ok(()) => self.count(&removals),
            Err(Stopped { done, error }) => {
                self.count(&removals[..done]);
                warn!("{error}");
            }
        }
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
