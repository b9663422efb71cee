//! What backends that left have left behind: looked for once in the tables, and from then on by key.

use lb_common::ip::{V4, V6};
use lb_common::tables::{Affinity, AffinityKey, Flow, FlowKey};

use crate::bpf::{self, Error, Maps, Of};
use crate::plan::{Departed, Departures};
use crate::{affinity, flows};

/// Entries that lead to backends that left.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    v4: Side<V4>,
    v6: Side<V6>,
}

/// Those of a family.
#[derive(Debug)]
struct Side<A: Of> {
    /// Entries there of datagrams. Their ways back are the next sweep's of all.
    flows: Vec<(FlowKey<A>, Flow<A>)>,
    /// Clients that stay with a backend.
    clients: Vec<(AffinityKey<A>, Affinity)>,
}

impl<A: Of> Default for Side<A> {
    fn default() -> Self {
        Self { flows: Vec::new(), clients: Vec::new() }
    }
}

impl Suspects {
    /// All that there are.
    pub(super) fn look(maps: &Maps, departures: &Departures) -> Result<Self, Error> {
        Ok(Self { v4: Side::look(maps, &departures.v4)?, v6: Side::look(maps, &departures.v6)? })
    }

    /// Those among these that are there still, or again.
    pub(super) fn look_again(&self, maps: &Maps, departures: &Departures) -> Result<Self, Error> {
        let (v4, v6) = (self.v4.look_again(maps, &departures.v4)?, self.v6.look_again(maps, &departures.v6)?);
        Ok(Self { v4, v6 })
    }

    /// How many these are.
    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Removes them, but those that had a packet since they were seen. How many it were.
    ///
    /// # Errors
    /// A map cannot be read.
    pub(super) fn remove(&self, maps: &mut Maps) -> Result<usize, Error> {
        Ok(self.v4.remove(maps)? + self.v6.remove(maps)?)
    }
}

impl<A: Of> Side<A> {
    fn look(maps: &Maps, departed: &Departed<A>) -> Result<Self, Error> {
        let mut found = Self::default();
        let lost = departed.datagrams.iter().filter(|(_, leads)| leads.lost);
        let may_have_flows: Result<Vec<_>, _> = lost.map(|(key, _)| maps.may_have_flows(key)).collect();
        if may_have_flows?.contains(&true) {
            maps.flows::<A>(|key, flow| {
                if flows::left_behind(departed, key, flow) {
                    found.flows.push((*key, *flow));
                }
            })?;
        }
        if !departed.sticky.is_empty() {
            maps.affinity::<A>(|key, to| {
                if affinity::left_behind(departed, key, to) {
                    found.clients.push((*key, *to));
                }
            })?;
        }
        Ok(found)
    }

    fn look_again(&self, maps: &Maps, departed: &Departed<A>) -> Result<Self, Error> {
        let flows = maps.flows_of(self.flows.iter().map(|(key, _)| key))?;
        let mut found = Self { flows, ..Self::default() };
        found.flows.retain(|(key, flow)| flows::left_behind(departed, key, flow));
        for (key, _) in &self.clients {
            let to = maps.client::<A>(key)?.filter(|to| affinity::left_behind(departed, key, to));
            found.clients.extend(to.map(|to| (*key, to)));
        }
        Ok(found)
    }

    fn len(&self) -> usize {
        self.flows.len() + self.clients.len()
    }

    fn remove(&self, maps: &mut Maps) -> Result<usize, Error> {
        let flows = bpf::remove_flows(maps, &self.flows)?;
        Ok(flows + bpf::remove_affinity(maps, &self.clients))
    }
}
