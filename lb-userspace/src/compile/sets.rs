//! The backends that a port of a Service leads to, for each traffic policy, and what its frontends say of them.

use lb_common::ip::Ip;
use lb_common::tables::{Frontend, Kind, Origin, TICK, Table, frontend};

use super::address::Wish;
use super::bind::Bound;
use super::{Compiled, Compiler};
use crate::endpoints::Serving;
use crate::model::{Service, TrafficPolicy};

/// The sets of backends of a port, those that some frontend of it needs.
#[derive(Debug, Default)]
pub(super) struct Sets {
    /// Under the policy `Cluster`.
    pub(super) cluster: Option<Bound>,
    /// Under the policy `Local`.
    pub(super) local: Option<Bound>,
}

/// Which policy clients of each [`Origin`] meet at an address. Those inside the cluster who call an address for those
/// outside are treated as if they had gone out and come back in through any node: the short circuit.
pub(super) const fn policies(service: &Service, kind: Kind) -> [TrafficPolicy; 2] {
    match kind {
        Kind::ClusterIp => [service.internal_policy; 2],
        Kind::NodePort | Kind::LoadBalancer | Kind::ExternalIp => [TrafficPolicy::Cluster, service.external_policy],
    }
}

/// Which sets the frontends of a port need: those of the policies `Cluster` and `Local`.
pub(super) fn needed<A: Ip>(service: &Service, wishes: &[Wish<A>]) -> [bool; 2] {
    let needs = |policy| wishes.iter().any(|wish| policies(service, wish.kind).contains(&policy));
    [TrafficPolicy::Cluster, TrafficPolicy::Local].map(needs)
}

impl Sets {
    fn table(&self, policy: TrafficPolicy) -> Table {
        let bound = match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        };
        bound.as_ref().map_or(Table::EMPTY, |bound| bound.table)
    }

    /// What a frontend of the kind says. `served` tells whether anybody serves anywhere.
    pub(super) fn frontend(&self, id: u32, service: &Service, kind: Kind, served: bool) -> Frontend {
        let [inside, outside] = policies(service, kind);
        let mut made = Frontend {
            inside: self.table(inside),
            outside: self.table(outside),
            affinity: service.affinity.map_or(0, ticks),
            flags: kind.flags(),
            ..Frontend::refusing(id)
        };
        if outside == TrafficPolicy::Local {
            made.flags |= frontend::LOCAL;
        }
        for (origin, policy) in Origin::ALL.into_iter().zip([inside, outside]) {
            if policy == TrafficPolicy::Local && served && made.table(origin).len == 0 {
                made.flags |= frontend::elsewhere(origin);
            }
        }
        made
    }
}

/// Seconds in [`TICK`]s, and no shorter.
fn ticks(seconds: u32) -> u32 {
    let ticks = (u64::from(seconds) * 1_000_000_000).div_ceil(TICK);
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

impl Compiler {
    /// The sets that are needed. What has no room is as it was `before`, which is better than none; why it has none, comes
    /// back, too. Without a set that is needed and has never been there are none.
    pub(super) fn acquire_sets<A: Compiled>(
        &mut self,
        needed: [bool; 2],
        serving: &Serving<A>,
        before: &Sets,
    ) -> (Option<Sets>, Vec<String>) {
        let mut full = Vec::new();
        let mut acquire = |this: &mut Self, backends, before: &Option<Bound>| match this.acquire::<A>(backends) {
            Ok(bound) => Some(bound),
            Err(no_room) => {
                full.push(no_room.to_string());
                this.acquire_again::<A>(before.as_ref()?).ok()
            }
        };
        let [cluster, local] = needed;
        let sets = Sets {
            cluster: if cluster { acquire(self, &serving.cluster, &before.cluster) } else { None },
            local: if local { acquire(self, &serving.local, &before.local) } else { None },
        };
        if [sets.cluster.is_some(), sets.local.is_some()] == needed {
            return (Some(sets), full);
        }
        self.release_sets::<A>(&sets);
        (None, full)
    }

    /// One user less.
    pub(super) fn release_sets<A: Compiled>(&mut self, sets: &Sets) {
        [&sets.cluster, &sets.local].into_iter().flatten().for_each(|bound| self.release::<A>(bound));
    }
}
