//! Removes flows that are over: all of them now and then, and those of datagrams whose backend no longer serves at once.
//! Clients that stay with a backend are let go in the same way: they are few enough to be looked at each time.
//! Connected sockets of datagrams are closed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lb_common::flow::{mirror, state};
use lb_common::ip::{V4, V6};
use lb_common::tables::{Flow, FlowKey, FlowTable, FrontendKey, map};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, warn};

use super::sockets;
use crate::affinity;
use crate::bpf::{self, BpfStore, Error, Of, Pins};
use crate::flows::{Current, goes_now, over};
use crate::model::Protocol;
use crate::store::StoreError;

/// The least time between two sweeps of all flows.
const PAUSE: Duration = Duration::from_secs(5);
/// After a sweep of all flows comes a pause this many times as long, so that millions do not take a core.
const SHARE: u32 = 50;
/// Changes come in groups, and a packet that saw the frontend of before may just be opening its flow.
const HOLD: Duration = Duration::from_millis(10);
/// After a sweep of datagrams comes a pause this many times as long: half of a core while changes never cease, since the
/// second change of a pair must not wait for long.
const SHARE_OF_DATAGRAMS: u32 = 1;
/// Sweeps of datagrams in a row. A flow that has a packet between look and removal is spared, and an answer on its way
/// may make a removed half whole again: so it is looked again until nothing is found. What is left after all these is
/// the next sweep's of all.
const AGAIN: u32 = 8;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    Datagrams,
}

/// What is in each map of the packet path: its name, and its entries.
pub(super) type Levels = Vec<(&'static str, u64)>;

/// Sweeps until it is dropped; `turned` says that datagrams of some frontend may have to go elsewhere. A sweep of all
/// has counted everything when it ends, and says so to `levels`: nobody else needs to walk a million flows.
pub(super) async fn forever(pins: Pins, turned: Arc<Notify>, levels: watch::Sender<Levels>) {
    // An agent before this one may have ended between a change and its sweep.
    let mut next = Instant::now();
    let mut rested = next;
    let mut store = None;
    let mut again = 0;
    let mut fault = None;
    loop {
        // Also where changes never cease.
        let which = match Instant::now() < next && timeout_at(next, turned.notified()).await.is_ok() {
            false => Which::All,
            true => {
                sleep_until(rested.max(Instant::now() + HOLD)).await;
                Which::Datagrams
            }
        };
        let began = Instant::now();
        let swept = run(store.take(), pins.clone(), which).await;
        let Swept { found, levels: counted, sockets, .. } = swept.1;
        store = swept.0;
        // A kernel that cannot do it will not learn it.
        if sockets != fault
            && let Some(reason) = &sockets
        {
            warn!("sockets that are connected to a backend that left stay with it: {reason}");
        }
        fault = sockets;
        let took = began.elapsed();
        debug!("a sweep of {which:?} took {took:?}");
        match which {
            Which::All => {
                // What could not be counted is as it was.
                if !counted.is_empty() {
                    levels.send_replace(counted);
                }
                (next, again) = (Instant::now() + PAUSE.max(took * SHARE), 0);
            }
            Which::Datagrams => {
                rested = Instant::now() + took * SHARE_OF_DATAGRAMS;
                again = if found > 0 { again + 1 } else { 0 };
                if (1..AGAIN).contains(&again) {
                    turned.notify_one();
                }
            }
        }
    }
}

/// Sweeps once. The maps stay open for the next time where all went well.
async fn run(store: Option<BpfStore>, pins: Pins, which: Which) -> (Option<BpfStore>, Swept) {
    // Reading large maps takes long; devices and Services must not wait for it.
    let sweep = move || {
        let mut store = store.map_or_else(|| BpfStore::open(&pins), Ok)?;
        let swept = sweep(&mut store, which)?;
        anyhow::Ok((store, swept))
    };
    match tokio::task::spawn_blocking(sweep).await {
        Ok(Ok((store, swept))) => {
            if swept.found > 0 {
                debug!(
                    "{} entries of flows and clients, and sockets, are over, {} of them removed",
                    swept.found, swept.removed
                );
            }
            return (Some(store), swept);
        }
        Ok(Err(error)) => warn!("cannot remove flows that are over: {error:#}"),
        Err(error) => warn!("cannot remove flows that are over: {error}"),
    }
    (None, Swept::default())
}

#[derive(Default)]
struct Swept {
    found: usize,
    removed: usize,
    /// Only after a sweep of all.
    levels: Levels,
    /// Why sockets cannot be closed.
    sockets: Option<String>,
}

fn sweep(store: &mut BpfStore, which: Which) -> anyhow::Result<Swept> {
    store.look()?;
    // Flows first: one that opens later may go to a backend that an image read before it does not know.
    let (v4, v6) = (Flows::<V4>::read(store, which)?, Flows::<V6>::read(store, which)?);
    let mut swept = Swept::default();
    if which == Which::All {
        swept.levels = [v4.levels(), v6.levels()].concat();
        for counted in [&map::SOCKETS[..], &map::FRAGMENTS, &[map::DEVICES]].concat() {
            swept.levels.push((counted, store.maps().entries(counted)?));
        }
    }
    v4.remove(store, which, &mut swept)?;
    v6.remove(store, which, &mut swept)?;
    let clients = [let_go::<V4>(store, &mut swept)?, let_go::<V6>(store, &mut swept)?];
    if which == Which::All {
        swept.levels.extend(clients);
    }
    match sockets::close_lost(store) {
        Ok(closed) => swept.found += closed,
        Err(error) => swept.sockets = Some(format!("{error:#}")),
    }
    Ok(swept)
}

/// Lets clients go whose backend no longer serves, or who have not come back in time. How many there were.
fn let_go<A: Of>(store: &mut BpfStore, swept: &mut Swept) -> anyhow::Result<(&'static str, u64)> {
    let mut entries = affinity::Entries::<A>::new();
    store.maps().affinity::<A>(|key, to| {
        entries.insert(*key, *to);
    })?;
    let level = (bpf::affinity_map::<A>(), entries.len() as u64);
    if !entries.is_empty() {
        let image = store.read_frontends(store.frontends_of::<A>(&affinity::services(&entries))?)?;
        let over = affinity::over(&entries, &image, bpf::now());
        swept.found += over.len();
        swept.removed += bpf::remove_affinity(store.maps_mut(), &over);
    }
    Ok(level)
}

/// The flows of a family, by table.
struct Flows<A: Of>([(FlowTable, Entries<A>); 2]);

type Entries<A> = BTreeMap<FlowKey<A>, Flow<A>>;

impl<A: Of> Flows<A> {
    fn read(store: &BpfStore, which: Which) -> Result<Self, Error> {
        let read = |table| {
            let mut entries = Entries::new();
            store.maps().flows::<A>(table, |key, flow| {
                if which == Which::All || is_datagram(key) {
                    entries.insert(*key, *flow);
                }
            })?;
            Ok((table, entries))
        };
        Ok(Self([read(FlowTable::HalfOpen)?, read(FlowTable::Established)?]))
    }

    fn levels(&self) -> Levels {
        self.0.iter().map(|(table, entries)| (bpf::flow_map::<A>(*table), entries.len() as u64)).collect()
    }

    /// The frontends of datagrams: only these ask where their Service leads now. Reading all would cost more than all
    /// the rest.
    fn frontends(&self) -> HashSet<FrontendKey<A>> {
        let datagrams = self.0.iter().flat_map(|(_, entries)| entries).filter(|(key, _)| is_datagram(key));
        let there = datagrams.map(|(key, flow)| match flow.state & state::THERE != 0 {
            true => *key,
            false => mirror(key, flow).0,
        });
        there.map(|key| FrontendKey::new(key.dst, key.dport, key.proto)).collect()
    }

    fn remove(&self, store: &mut BpfStore, which: Which, swept: &mut Swept) -> Result<(), StoreError> {
        let image = store.read_frontends(self.frontends())?;
        let mut current = Current::<A>::new(&image);
        for (table, entries) in &self.0 {
            let now = bpf::now();
            let mut over: Vec<_> = over(*table, entries, &mut current, now)
                .iter()
                .filter_map(|key| Some((*key, *entries.get(key)?)))
                .filter(|(key, flow)| goes_now(entries, key, flow, now))
                .collect();
            if which == Which::Datagrams {
                // Their way back is the next sweep's of all.
                over.retain(|(_, flow)| flow.state & state::THERE != 0);
            }
            swept.found += over.len();
            swept.removed += bpf::remove_flows(store.maps_mut(), *table, &over);
        }
        Ok(())
    }
}

fn is_datagram<A: Of>(key: &FlowKey<A>) -> bool {
    key.proto == Protocol::Udp.number()
}
