//! What backends that left have left behind: looked for once in the tables, and from then on by key.

use lb_common::ip::{V4, V6};
use lb_common::tables::{Affinity, AffinityKey, Flow, FlowKey};

use crate::bpf::{self, Entries, Error, Maps, Of, Seeker};
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
    flows: Entries<A>,
    /// Clients that stay with a backend.
    clients: Vec<(AffinityKey<A>, Affinity)>,
    /// What finds these flows again, where there are any.
    seeker: Option<Seeker<A>>,
}

impl<A: Of> Default for Side<A> {
    fn default() -> Self {
        Self { flows: Vec::new(), clients: Vec::new(), seeker: None }
    }
}

/// How many entries were found, and how many of them removed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gone {
    pub(super) found: usize,
    pub(super) removed: usize,
}

impl Suspects {
    /// All that there are.
    pub(super) fn look(maps: &Maps, departures: &Departures) -> Result<Self, Error> {
        Ok(Self { v4: Side::look(maps, &departures.v4)?, v6: Side::look(maps, &departures.v6)? })
    }

    /// Removes all of them, but those that had a packet since they were seen.
    ///
    /// # Errors
    /// A map cannot be read.
    pub(super) fn remove(&mut self, maps: &mut Maps) -> Result<Gone, Error> {
        Ok(Gone::of([self.v4.remove(maps)?, self.v6.remove(maps)?]))
    }

    /// Removes those that are there still, or again.
    ///
    /// # Errors
    /// As above.
    pub(super) fn remove_again(&mut self, maps: &mut Maps, departures: &Departures) -> Result<Gone, Error> {
        Ok(Gone::of([self.v4.remove_again(maps, &departures.v4)?, self.v6.remove_again(maps, &departures.v6)?]))
    }
}

impl Gone {
    fn of(all: [Self; 2]) -> Self {
        let sum = |count: fn(&Self) -> usize| all.iter().map(count).sum();
        Self { found: sum(|gone| gone.found), removed: sum(|gone| gone.removed) }
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
        if !found.flows.is_empty() {
            found.seeker = Some(maps.seeker()?);
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

    fn remove(&mut self, maps: &mut Maps) -> Result<Gone, Error> {
        let Self { flows, clients, seeker } = self;
        remove(maps, seeker.as_mut(), flows, clients)
    }

    fn remove_again(&mut self, maps: &mut Maps, departed: &Departed<A>) -> Result<Gone, Error> {
        let mut there = Vec::new();
        if let Some(seeker) = &mut self.seeker {
            there = seeker.find(self.flows.iter().map(|(key, _)| key))?;
            there.retain(|(key, flow)| flows::left_behind(departed, key, flow));
        }
        let mut clients = Vec::new();
        for (key, _) in &self.clients {
            let to = maps.client::<A>(key)?.filter(|to| affinity::left_behind(departed, key, to));
            clients.extend(to.map(|to| (*key, to)));
        }
        remove(maps, self.seeker.as_mut(), &there, &clients)
    }
}

fn remove<A: Of>(
    maps: &mut Maps,
    seeker: Option<&mut Seeker<A>>,
    flows: &[(FlowKey<A>, Flow<A>)],
    clients: &[(AffinityKey<A>, Affinity)],
) -> Result<Gone, Error> {
    let removed = seeker.map_or(Ok(0), |seeker| seeker.remove(flows))?;
    Ok(Gone { found: flows.len() + clients.len(), removed: removed + bpf::remove_affinity(maps, clients) })
}
