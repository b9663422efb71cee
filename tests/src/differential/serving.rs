//! Who serves, written down a second time, from the documentation of Kubernetes: it judges both worlds where they may
//! part, as with session affinity, and after changes.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Backend;
use super::model::{Endpoint, HEADLESS, NODES, Service, Slice, ZONES};
use crate::lab::Family;

/// An endpoint of a port, and where it is.
type Found<'a> = (SocketAddr, &'a Endpoint, &'a Backend);

/// Who serves a port of a Service to clients that a node translates for; `local` is the traffic policy.
pub(super) fn serving(
    service: &Service,
    family: Family,
    port: usize,
    backends: &[Backend],
    node: usize,
    local: bool,
) -> BTreeSet<SocketAddr> {
    let mut all = endpoints(service, family, port, backends);
    if local {
        all.retain(|(_, _, backend)| backend.node == node);
    }
    let is_ready = |(_, endpoint, _): &Found<'_>| endpoint.ready.unwrap_or(true);
    if all.iter().any(is_ready) {
        all.retain(is_ready);
        if !local {
            near(&mut all, node);
        }
    } else {
        all.retain(|(_, endpoint, _)| is_serving(endpoint) && endpoint.terminating.unwrap_or(false));
    }
    all.into_iter().map(|(at, ..)| at).collect()
}

/// Who still answers, be he led to or not.
pub(super) fn answering(service: &Service, family: Family, port: usize, backends: &[Backend]) -> BTreeSet<SocketAddr> {
    let all = endpoints(service, family, port, backends).into_iter();
    all.filter(|(_, endpoint, _)| is_serving(endpoint)).map(|(at, ..)| at).collect()
}

fn is_serving(endpoint: &Endpoint) -> bool {
    endpoint.serving.unwrap_or(true)
}

fn endpoints<'a>(service: &'a Service, family: Family, port: usize, backends: &'a [Backend]) -> Vec<Found<'a>> {
    let slices = service.slices.iter().filter(|slice| slice.family == family && slice.label != Some(HEADLESS));
    let of = |slice: &'a Slice| {
        let target = slice.targets[port];
        slice.endpoints.iter().filter_map(move |endpoint| {
            let backend = &backends[endpoint.backend];
            Some((SocketAddr::new(backend.ip(family), target?), endpoint, backend))
        })
    };
    slices.flat_map(of).collect()
}

/// Only those that hints name, where all have hints and one names the node; else in the same way the zone.
fn near(all: &mut Vec<Found<'_>>, node: usize) {
    let here: [fn(&Endpoint) -> Option<&'static str>; 2] = [|e| e.node_hint, |e| e.zone_hint];
    for (hint, name) in here.into_iter().zip([NODES[node], ZONES[node]]) {
        let all_have = all.iter().all(|(_, endpoint, _)| hint(endpoint).is_some());
        let is_near = |(_, endpoint, _): &Found<'_>| hint(endpoint) == Some(name);
        if all_have && all.iter().any(is_near) {
            return all.retain(is_near);
        }
    }
}
