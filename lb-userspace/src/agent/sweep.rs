//! Removes flows that are over, now and then.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_common::ip::{V4, V6};
use lb_common::mem::Image;
use lb_common::tables::{FlowKey, FlowTable};
use tracing::{debug, warn};

use crate::bpf::{self, BpfStore, Error, Of, Pins};
use crate::flows::{Current, over};
use crate::model::Protocol;
use crate::store::Store;

/// The least time between two sweeps.
const PAUSE: Duration = Duration::from_secs(5);
/// After a sweep comes a pause this many times as long, so that millions of flows do not take a core.
const SHARE: u32 = 50;

/// Sweeps until it is dropped.
pub(super) async fn forever(pins: Pins) {
    let mut pause = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        let pins = pins.clone();
        // Reading large maps takes long; devices and Services must not wait for it.
        match tokio::task::spawn_blocking(move || sweep(&pins)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(removed)) => debug!("removed {removed} entries of flows that are over"),
            Ok(Err(error)) => warn!("cannot remove flows that are over: {error:#}"),
            Err(error) => warn!("cannot remove flows that are over: {error}"),
        }
        pause = PAUSE.max(began.elapsed() * SHARE);
    }
}

fn sweep(pins: &Pins) -> anyhow::Result<usize> {
    let mut store = BpfStore::open(pins)?;
    // Only datagrams ask where their Service leads now, and reading it costs more than all the rest.
    let mut image = None;
    let mut removed = 0;
    for table in [FlowTable::HalfOpen, FlowTable::Established] {
        removed += family::<V4>(&mut store, table, &mut image)?;
        removed += family::<V6>(&mut store, table, &mut image)?;
    }
    Ok(removed)
}

fn family<A: Of>(store: &mut BpfStore, table: FlowTable, image: &mut Option<Image>) -> anyhow::Result<usize> {
    let entries = entries::<A>(store, table)?;
    let datagrams = entries.keys().any(|key: &FlowKey<A>| key.proto == Protocol::Udp.number());
    if datagrams && image.is_none() {
        *image = Some(store.read()?);
    }
    let none = Image::default();
    let mut current = Current::<A>::new(image.as_ref().unwrap_or(&none));
    let keys = over(table, &entries, &mut current, bpf::now());
    let over: Vec<_> = keys.iter().filter_map(|key| Some((*key, *entries.get(key)?))).collect();
    Ok(bpf::remove_flows(store.maps_mut(), table, &over))
}

type Entries<A> = BTreeMap<FlowKey<A>, lb_common::tables::Flow<A>>;

fn entries<A: Of>(store: &BpfStore, table: FlowTable) -> Result<Entries<A>, Error> {
    let mut entries = Entries::new();
    store.maps().flows::<A>(table, |key, flow| {
        entries.insert(*key, *flow);
    })?;
    Ok(entries)
}
