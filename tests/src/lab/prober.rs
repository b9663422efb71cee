//! Asks from one place, as often as one likes: in one go, or in conversations that last.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::iter::Cycle;
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::place::client_program;
use super::sctp::Presence;
use super::talk::{Call, Talk};
use super::{Netns, Outcome, Outcomes, Place, Probe};

/// Questions under way at the same time, of one prober.
const IN_FLIGHT: usize = 128;

/// Refusals of one question, after which it is not asked again.
const REFUSALS: u32 = 3;

/// What a prober is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Order {
    /// Ask all at once: outcomes of each, as pairs, since keys of JSON are texts.
    Ask(Vec<Probe>),
    /// Begin as many conversations as each has tries, beside those that there are: an outcome of each.
    Begin(Vec<Probe>, Call),
    /// Ask once more in each conversation, with so many milliseconds of patience: an outcome of each, in their order.
    GoOn(u64),
    /// End all conversations but those in these places.
    Keep(Vec<usize>),
}

/// What does it, in the namespace of the calling thread.
#[derive(Debug)]
struct Session {
    runtime: Runtime,
    talks: Vec<Talk>,
    /// Ports for conversations that last.
    ports: Cycle<Range<u16>>,
}

/// Neither the kernel nor Kubernetes nor Sluice gives these to anybody, so that no other socket comes to have one of them
/// toward the same backend by the way of another node.
const PORTS: Range<u16> = 61_000..65_000;

impl Session {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, talks: Vec::new(), ports: PORTS.cycle() })
    }

    /// The answer, as JSON.
    fn obey(&mut self, order: Order) -> Result<String> {
        let Self { runtime, talks, ports } = self;
        let _inside = runtime.enter();
        Ok(match order {
            Order::Ask(probes) => {
                let all = stream::iter(&probes).map(ask).buffered(IN_FLIGHT).collect();
                serde_json::to_string::<Vec<Vec<(Outcome, u32)>>>(&runtime.block_on(all))?
            }
            Order::Begin(probes, call) => {
                let tries = probes.iter().flat_map(|probe| (0..probe.tries).map(move |_| probe));
                let begin = |(probe, from): (&Probe, u16)| {
                    Talk::begin((from, probe.to), probe.protocol, call, patience(probe.patience_ms))
                };
                let all = stream::iter(tries.zip(ports).map(begin)).buffered(IN_FLIGHT).collect();
                let begun: Vec<_> = runtime.block_on(all);
                let (new, outcomes): (Vec<_>, Vec<_>) = begun.into_iter().unzip();
                talks.extend(new);
                serde_json::to_string(&outcomes)?
            }
            Order::GoOn(patience_ms) => {
                let go_on = |talk| Talk::go_on(talk, patience(patience_ms));
                let all = stream::iter(talks.iter_mut().map(go_on)).buffered(IN_FLIGHT).collect::<Vec<_>>();
                serde_json::to_string(&runtime.block_on(all))?
            }
            Order::Keep(places) => {
                let mut at = 0..;
                talks.retain(|_| at.next().is_some_and(|at| places.contains(&at)));
                serde_json::to_string(&())?
            }
        })
    }
}

fn patience(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn ask(probe: &Probe) -> Vec<(Outcome, u32)> {
    let mut outcomes = Outcomes::new();
    for _ in 0..probe.tries {
        let (way, protocol) = ((0, probe.to), probe.protocol);
        let (_, outcome) = Talk::begin(way, protocol, Call::Connected, patience(probe.patience_ms)).await;
        let silent = outcome == Outcome::Silent;
        *outcomes.entry(outcome).or_default() += 1;
        // A refusal may take a second, too: kube-proxy's over IPv6.
        if silent || outcomes.get(&Outcome::Refused).is_some_and(|count| *count >= REFUSALS) {
            break;
        }
    }
    outcomes.into_iter().collect()
}

/// Asks from one place, as often as one likes.
#[derive(Debug)]
pub struct Prober<'a> {
    ns: &'a Netns,
    by: Mutex<By>,
    _presence: Presence,
}

#[derive(Debug)]
enum By {
    Thread(Session),
    /// In a cgroup, which holds processes only. It ends with its standard input.
    Process(Process),
}

#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl<'a> Prober<'a> {
    /// At a place.
    pub fn new(place: Place<'a>) -> Result<Self> {
        let by = match place.cgroup {
            None => By::Thread(Session::new()?),
            Some(cgroup) => {
                let mut command = Command::new(client_program()?);
                command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped());
                let mut child = place.ns.spawn(&mut command)?;
                let joined = fs::write(cgroup.join("cgroup.procs"), child.id().to_string());
                joined.with_context(|| format!("cannot move a prober into the cgroup {}", cgroup.display()))?;
                let input = child.stdin.take().context("a prober without standard input")?;
                let output = BufReader::new(child.stdout.take().context("a prober without standard output")?);
                By::Process(Process { child, input, output })
            }
        };
        let presence = place.ns.run(|| Ok(Presence::new()?))?;
        Ok(Self { ns: place.ns, by: Mutex::new(by), _presence: presence })
    }

    /// Asks all at once.
    pub fn ask(&self, probes: &[Probe]) -> Result<Vec<Outcomes>> {
        let answers: Vec<Vec<(Outcome, u32)>> = self.order(Order::Ask(probes.to_vec()))?;
        ensure!(answers.len() == probes.len(), "{} answers to {} questions", answers.len(), probes.len());
        Ok(answers.into_iter().map(|pairs| pairs.into_iter().collect()).collect())
    }

    /// Begins conversations, as many as each probe has tries, beside those that there are. What came of each.
    pub fn begin(&self, probes: &[Probe], call: Call) -> Result<Vec<Outcome>> {
        self.order(Order::Begin(probes.to_vec(), call))
    }

    /// Asks once more in all conversations. What came of each, in the order in which they began.
    pub fn go_on(&self, patience_ms: u64) -> Result<Vec<Outcome>> {
        self.order(Order::GoOn(patience_ms))
    }

    /// Ends all conversations but those in these places.
    pub fn keep(&self, places: &[usize]) -> Result<()> {
        self.order(Order::Keep(places.to_vec()))
    }

    fn order<T: DeserializeOwned>(&self, order: Order) -> Result<T> {
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        let line = match &mut *by {
            By::Thread(session) => self.ns.run(|| session.obey(order))?,
            By::Process(Process { input, output, .. }) => {
                let order = serde_json::to_string(&order)? + "\n";
                input.write_all(order.as_bytes()).context("a prober takes no orders")?;
                let mut line = String::new();
                output.read_line(&mut line).context("a prober says nothing")?;
                line
            }
        };
        serde_json::from_str(&line).context("a prober says nonsense")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The argument by which the program `sluice-lab-client` becomes a prober.
pub const SERVE: &str = "probes";

/// What a prober's process does: obeys orders, a line each, until there are no more.
pub fn serve() -> Result<()> {
    let mut session = Session::new()?;
    for line in io::stdin().lock().lines() {
        let order = serde_json::from_str(&line.context("cannot read orders")?)?;
        println!("{}", session.obey(order)?);
    }
    Ok(())
}
