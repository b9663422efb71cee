//! Which endpoints serve a port of a Service. All rules about that are here and nowhere else. Pure.
//!
//! As kube-proxy does it (`pkg/proxy/topology.go`), for one port and one family at a time.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::ip::{Be16, Family, Ip};
use lb_common::tables::{Backend, backend};

use crate::model::{Endpoint, EndpointPort, EndpointSlice, ServicePort};

/// What of this node matters to its choice of endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// The name of this node.
    pub node: &'a str,
    /// Its zone, where it has one.
    pub zone: Option<&'a str>,
    /// All addresses of its devices.
    pub own: &'a BTreeSet<IpAddr>,
}

/// How willing an endpoint is, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Ready,
    /// Going away, but still answering: better than nothing.
    LastResort,
    Useless,
}

fn rank(endpoint: &Endpoint) -> Rank {
    match endpoint {
        Endpoint { ready: true, .. } => Rank::Ready,
        Endpoint { serving: true, terminating: true, .. } => Rank::LastResort,
        _ => Rank::Useless,
    }
}

/// An endpoint, and what it would be in the tables.
type Candidate<'a, A> = (Backend<A>, &'a Endpoint);

/// The backends that serve a port to clients on one node, each once, by address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving<A: Ip> {
    /// Under the traffic policy `Cluster`. None of them: nobody serves anywhere.
    pub cluster: Vec<Backend<A>>,
    /// Under the traffic policy `Local`: those on the node. Hints do not matter to it.
    pub local: Vec<Backend<A>>,
}

/// The backends that serve `port` to clients on the node `here`.
pub fn serving<'a, A: Ip>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    here: Here<'_>,
) -> Serving<A> {
    let mut all = candidates::<A>(port, slices, here);
    // The same endpoint may stand in two slices: its best face counts.
    all.sort_by_key(|(backend, endpoint)| (backend.addr, backend.port, rank(endpoint)));
    all.dedup_by_key(|(backend, _)| (backend.addr, backend.port));
    let here_only = all.iter().filter(|(backend, _)| backend.flags & backend::LOCAL != 0);
    let local = best(here_only).into_iter().map(|(backend, _)| *backend).collect();
    let mut cluster = best(all.iter());
    if cluster.iter().all(|(_, endpoint)| rank(endpoint) == Rank::Ready) {
        let near = nearness(&cluster, here);
        cluster.retain(|(_, endpoint)| near.admits(endpoint, here));
    }
    Serving { cluster: cluster.into_iter().map(|(backend, _)| *backend).collect(), local }
}

/// How many endpoints of a family are ready on the node `here`, whatever their ports: what load balancers want to know.
pub fn ready_here<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, family: Family, here: Here<'_>) -> usize {
    // A slice without ports has nothing that anybody could call.
    let slices = slices.filter(|slice| slice.family == family && !slice.ports.is_empty());
    let ready = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| rank(endpoint) == Rank::Ready);
    let local = ready.filter(|endpoint| endpoint.node.as_deref() == Some(here.node));
    local.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
}

/// Those that are ready; where there are none, those that are the last resort.
fn best<'c, 'e: 'c, A: Ip>(candidates: impl Iterator<Item = &'c Candidate<'e, A>>) -> Vec<&'c Candidate<'e, A>> {
    let willing = candidates.filter(|(_, endpoint)| rank(endpoint) != Rank::Useless);
    let (ready, rest): (Vec<_>, Vec<_>) = willing.partition(|(_, endpoint)| rank(endpoint) == Rank::Ready);
    if ready.is_empty() { rest } else { ready }
}

fn candidates<'a, A: Ip>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    here: Here<'_>,
) -> Vec<Candidate<'a, A>> {
    let mut all = Vec::new();
    for slice in slices.filter(|slice| slice.family == A::FAMILY) {
        // Ports are matched by name, so a named target port may differ from slice to slice.
        let ours = |p: &&EndpointPort| p.name == port.name && p.protocol == port.protocol;
        for target in slice.ports.iter().filter(ours) {
            all.extend(slice.endpoints.iter().filter_map(|endpoint| {
                let addr = A::from_ip(endpoint.address)?;
                let local = if endpoint.node.as_deref() == Some(here.node) { backend::LOCAL } else { 0 };
                let own = if here.own.contains(&endpoint.address) { backend::OWN } else { 0 };
                Some((Backend { addr, port: Be16::new(target.port), flags: local | own }, endpoint))
            }));
        }
    }
    all
}

/// Which hints are heeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nearness {
    Node,
    Zone,
    Anywhere,
}

/// Hints count only when every ready endpoint has them and one of them names this place; otherwise some clients
/// would be left without.
fn nearness<A: Ip>(ready: &[&Candidate<'_, A>], here: Here<'_>) -> Nearness {
    let all = |level: Nearness| ready.iter().all(|(_, endpoint)| level.hinted(endpoint));
    let any = |level: Nearness| ready.iter().any(|(_, endpoint)| level.admits(endpoint, here));
    let levels = [Nearness::Node, Nearness::Zone].into_iter();
    levels.filter(|level| all(*level)).find(|level| any(*level)).unwrap_or(Nearness::Anywhere)
}

impl Nearness {
    fn hinted(self, endpoint: &Endpoint) -> bool {
        match (self, &endpoint.hints) {
            (Self::Node, Some(hints)) => !hints.nodes.is_empty(),
            (Self::Zone, Some(hints)) => !hints.zones.is_empty(),
            _ => false,
        }
    }

    fn admits(self, endpoint: &Endpoint, here: Here<'_>) -> bool {
        match (self, &endpoint.hints) {
            (Self::Anywhere, _) => true,
            (Self::Node, Some(hints)) => hints.nodes.iter().any(|node| **node == *here.node),
            (Self::Zone, Some(hints)) => hints.zones.iter().any(|zone| Some(&**zone) == here.zone),
            (_, None) => false,
        }
    }
}

#[cfg(test)]
mod tests;
