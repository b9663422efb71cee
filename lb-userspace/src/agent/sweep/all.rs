//! A sweep of all that the packet path has written.

use std::collections::{BTreeMap, HashSet};

use lb_common::flow::{mirror, state};
use lb_common::ip::{V4, V6};
use lb_common::tables::{Flow, FlowKey, FrontendKey, map};
use tracing::debug;

use super::Levels;
use crate::bpf::{self, BpfStore, Error, Of};
use crate::flows::{Current, goes_now, left_behind, over};
use crate::model::Protocol;
use crate::plan::{Departed, Departures};
use crate::{affinity, plan};

/// What a sweep found.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) found: usize,
    removed: usize,
    pub(super) levels: Levels,
}

/// Sweeps. Which backends left is known, or else is found by comparing with the maps; then everything is counted.
pub(super) fn sweep(store: &mut BpfStore, departures: Option<&Departures>) -> anyhow::Result<Swept> {
    store.look()?;
    // Flows first: one that opens later may go to a backend that an image read before it does not know.
    let (v4, v6) = (Flows::<V4>::read(store)?, Flows::<V6>::read(store)?);
    let mut swept = Swept { levels: vec![v4.level(), v6.level()], ..Swept::default() };
    if departures.is_none() {
        for counted in [&map::FRAGMENTS[..], &[map::DEVICES]].concat() {
            swept.levels.push((counted, store.maps().entries(counted)?));
        }
    }
    v4.remove(store, departures.map(|all| &all.v4), &mut swept)?;
    v6.remove(store, departures.map(|all| &all.v6), &mut swept)?;
    let_go::<V4>(store, departures.map(|all| &all.v4), &mut swept)?;
    let_go::<V6>(store, departures.map(|all| &all.v6), &mut swept)?;
    if swept.found > 0 {
        debug!("{} entries of flows and clients are over, {} of them removed", swept.found, swept.removed);
    }
    Ok(swept)
}

/// Lets clients go whose backend no longer serves, and, where it is compared with the maps, those who have not come back in
/// time: nobody is led by what is too old. So there is nothing to be read where nothing has changed.
fn let_go<A: Of>(store: &mut BpfStore, departed: Option<&plan::Departed<A>>, swept: &mut Swept) -> anyhow::Result<()> {
    if departed.is_some_and(|departed| departed.sticky.is_empty()) {
        return Ok(());
    }
    let mut entries = affinity::Entries::<A>::new();
    store.maps().affinity::<A>(|key, to| {
        entries.insert(*key, *to);
    })?;
    swept.levels.push((bpf::affinity_map::<A>(), entries.len() as u64));
    let over = match departed {
        _ if entries.is_empty() => return Ok(()),
        Some(departed) => {
            let left = entries.iter().filter(|(key, to)| affinity::left_behind(departed, key, to));
            left.map(|(key, to)| (*key, *to)).collect()
        }
        None => {
            let image = store.read_frontends(store.frontends_of::<A>(&affinity::services(&entries))?)?;
            affinity::over(&entries, &image, bpf::now())
        }
    };
    swept.found += over.len();
    swept.removed += bpf::remove_affinity(store.maps_mut(), &over);
    Ok(())
}

/// The flows of a family.
struct Flows<A: Of>(BTreeMap<FlowKey<A>, Flow<A>>);

impl<A: Of> Flows<A> {
    fn read(store: &BpfStore) -> Result<Self, Error> {
        let mut entries = BTreeMap::new();
        store.maps().flows::<A>(|key, flow| {
            entries.insert(*key, *flow);
        })?;
        Ok(Self(entries))
    }

    /// Half-open ones make room for each other, and take none from those that are established.
    fn level(&self) -> (&'static str, u64) {
        (bpf::flow_map::<A>(), self.0.values().filter(|flow| flow.is_established()).count() as u64)
    }

    /// The frontends of datagrams: only these ask where their Service leads now. Reading all would cost more than all
    /// the rest.
    fn frontends(&self) -> HashSet<FrontendKey<A>> {
        let is_datagram = |key: &FlowKey<A>| key.proto == Protocol::Udp.number();
        let datagrams = self.0.iter().filter(|(key, _)| is_datagram(key));
        let there = datagrams.map(|(key, flow)| match flow.state & state::THERE != 0 {
            true => *key,
            false => mirror(key, flow).0,
        });
        there.map(|key| FrontendKey::new(key.dst, key.dport, key.proto)).collect()
    }

    fn remove(&self, store: &mut BpfStore, departed: Option<&Departed<A>>, swept: &mut Swept) -> anyhow::Result<()> {
        let image = match departed {
            Some(_) => Default::default(),
            None => store.read_frontends(self.frontends())?,
        };
        let mut current = Current::<A>::new(&image);
        let mut leads = |key: &FlowKey<A>, flow: &Flow<A>| match departed {
            Some(departed) => !left_behind(departed, key, flow),
            None => current.leads(key, flow),
        };
        let (entries, now) = (&self.0, bpf::now());
        let over: Vec<_> = over(entries, &mut leads, now)
            .iter()
            .filter_map(|key| Some((*key, *entries.get(key)?)))
            .filter(|(key, flow)| goes_now(entries, key, flow, now))
            .collect();
        swept.found += over.len();
        if !over.is_empty() {
            swept.removed += store.maps().seeker()?.remove(&over)?;
        }
        Ok(())
    }
}
