//! Removes what the packet path left and nobody needs: of flows all that are over now and then, and at once what led
//! datagrams, or clients that stay with a backend, to one that left. Connected sockets of datagrams are closed.
//!
//! What a change leaves behind is looked for where it can be, and nowhere else: a change after which no backend has left
//! its frontend asks for nothing.

mod all;
mod departed;

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, warn};

use crate::bpf::{BpfStore, Pins};
use crate::plan::Departures;
use departed::{Gone, Suspects};

/// The least time between two sweeps of all flows: the shortest that a flow may be silent. One that is over for so long still leads
/// a packet that comes after all, and makes room for one that opens it anew.
const PAUSE: Duration = Duration::from_secs(10);
/// After a sweep of all flows comes a pause this many times as long, so that millions do not take a core.
const SHARE: u32 = 50;
/// After so long a sweep of all compares flows with the maps themselves, whatever changes were told: shorter than a number
/// rests, so that none that a flow names gets another meaning.
const COMPARE: Duration = Duration::from_secs(30);
/// Changes come in groups, and a packet that saw the frontend of before may just be opening its flow.
const HOLD: Duration = Duration::from_millis(10);
/// Changes are of interest for so long: a packet that saw the frontend of before cannot be on its way any more.
const SETTLED: Duration = Duration::from_secs(1);
/// After a sweep that follows changes comes a pause this many times as long: half of a core while changes never cease,
/// since the second change of a pair must not wait for long.
const SHARE_OF_DEPARTED: u32 = 1;
/// After these pauses it is looked again for what was found, by its keys. A flow that has a packet between look and removal is
/// spared, and an answer on its way makes a removed half whole again. What is left after all these is the next sweep's of all.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(10), Duration::from_millis(40), Duration::from_millis(160), Duration::from_millis(640)];

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// All flows.
    All,
    /// What backends that left have left behind.
    Departed,
    /// What the last such look has found.
    Again,
}

/// What is in each map of the packet path: its name, and its entries.
pub(super) type Levels = Vec<(&'static str, u64)>;

/// Sweeps in a thread of its own, since to read large maps takes long, until nothing more can change. A sweep of all has counted
/// flows when it ends, and everything else where it compares, and says so to `levels`: nobody else needs to walk a million flows.
///
/// # Errors
/// There is no room for a thread.
pub(super) fn start(pins: Pins, changes: mpsc::Receiver<Departures>, levels: watch::Sender<Levels>) -> io::Result<()> {
    let sweeps = move || forever(&pins, &changes, &levels);
    thread::Builder::new().name("sluice-sweep".into()).spawn(sweeps).map(drop)
}

fn forever(pins: &Pins, changes: &mpsc::Receiver<Departures>, levels: &watch::Sender<Levels>) {
    let mut sweeper = Sweeper::new(pins.clone());
    let (mut next, mut rested, mut again) = (Instant::now(), Instant::now(), AGAIN.iter());
    let mut again_at = None;
    loop {
        let wake = again_at.map_or(next, |at| next.min(rested.max(at)));
        let heard = changes.recv_timeout(wake.saturating_duration_since(Instant::now()));
        let (is_time, any_lost) = match heard {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => (true, false),
            Ok(change) => {
                let any_lost = change.any_lost();
                sweeper.hear(change);
                (false, any_lost)
            }
        };
        // Also where changes never cease.
        let which = if Instant::now() >= next {
            Which::All
        } else if any_lost {
            thread::sleep(rested.saturating_duration_since(Instant::now()).max(HOLD));
            if sweeper.departures.everywhere { Which::All } else { Which::Departed }
        } else if is_time {
            Which::Again
        } else {
            continue;
        };
        changes.try_iter().for_each(|change| sweeper.hear(change));
        let began = Instant::now();
        let found = sweeper.sweep(which).unwrap_or_else(|error| {
            warn!("cannot remove flows that are over: {error:#}");
            sweeper = Sweeper::new(pins.clone());
            0
        });
        let took = began.elapsed();
        debug!("a sweep of {which:?} took {took:?}");
        if which == Which::All {
            // What could not be counted is as it was.
            if !sweeper.levels.is_empty() {
                levels.send_replace(sweeper.levels.clone());
            }
            next = Instant::now() + PAUSE.max(took * SHARE);
        } else {
            rested = Instant::now() + took * SHARE_OF_DEPARTED;
            if which == Which::Departed {
                again = if found > 0 { AGAIN.iter() } else { [].iter() };
            }
            again_at = again.next().map(|pause| Instant::now() + *pause);
        }
    }
}

/// Tells what led to backends that left, and says how much that was.
fn tell(Gone { found, removed }: Gone) -> usize {
    if found > 0 {
        debug!("{found} entries led to backends that left, {removed} of them removed");
    }
    found
}

/// What sweeps know of each other.
struct Sweeper {
    pins: Pins,
    /// The maps stay open for the next time where all went well.
    store: Option<BpfStore>,
    /// Backends that left lately.
    departures: Departures,
    /// When the last of them was told.
    heard: Instant,
    suspects: Suspects,
    /// When flows were last compared with the maps themselves.
    compared: Instant,
    /// As they were last counted.
    levels: Levels,
    /// Why sockets cannot be closed.
    fault: Option<String>,
}

impl Sweeper {
    /// One that knows nothing: an agent before this one may have ended between a change and its sweep.
    fn new(pins: Pins) -> Self {
        Self {
            pins,
            store: None,
            departures: Departures { everywhere: true, ..Departures::default() },
            heard: Instant::now(),
            suspects: Suspects::default(),
            compared: Instant::now(),
            levels: Levels::new(),
            fault: None,
        }
    }

    fn hear(&mut self, change: Departures) {
        self.departures.add(change);
        self.departures.keep_lost();
        self.heard = Instant::now();
    }

    fn sweep(&mut self, which: Which) -> anyhow::Result<usize> {
        let mut store = self.store.take().map_or_else(|| BpfStore::open(&self.pins), Ok)?;
        let found = match which {
            Which::All => self.sweep_all(&mut store)?,
            Which::Departed => {
                self.suspects = Suspects::look(store.maps(), &self.departures)?;
                tell(self.suspects.remove(store.maps_mut())?) + self.close_sockets(&mut store, false)
            }
            Which::Again => tell(self.suspects.remove_again(store.maps_mut(), &self.departures)?),
        };
        self.store = Some(store);
        Ok(found)
    }

    fn sweep_all(&mut self, store: &mut BpfStore) -> anyhow::Result<usize> {
        let began = Instant::now();
        let compare = self.departures.everywhere || self.compared.elapsed() >= COMPARE;
        let swept = all::sweep(store, if compare { None } else { Some(&self.departures) })?;
        let found = swept.found + self.close_sockets(store, compare);
        self.levels.retain(|(map, _)| swept.levels.iter().all(|(counted, _)| counted != map));
        self.levels.extend(swept.levels);
        if compare {
            self.compared = began;
            self.departures.everywhere = false;
        }
        if self.heard + SETTLED <= began {
            self.departures = Departures::default();
        }
        Ok(found)
    }

    /// Closes sockets, and says how many it were.
    fn close_sockets(&mut self, store: &mut BpfStore, compare: bool) -> usize {
        let departures = if compare { None } else { Some(&self.departures) };
        let (closed, fault) = match super::sockets::close_lost(store, departures) {
            Ok(closed) => (closed, None),
            Err(error) => (0, Some(format!("{error:#}"))),
        };
        // A kernel that cannot do it will not learn it.
        if fault != self.fault
            && let Some(reason) = &fault
        {
            warn!("sockets that are connected to a backend that left stay with it: {reason}");
        }
        self.fault = fault;
        closed
    }
}
