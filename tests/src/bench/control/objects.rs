//! What is declared: Services by number, with ten endpoints each, and the new ones that each change brings.
//!
//! One Service in 16 is UDP: these are changed, since a datagram needs no answer to be seen. The others are TCP.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::{Value, json};

use crate::lab::HTTP_PORT;

/// Endpoints of each Service.
pub(super) const ENDPOINTS: u32 = 10;
/// The port of each Service.
pub(super) const PORT: u16 = 80;
/// The port of each endpoint, for both protocols.
pub(super) const TARGET_PORT: u16 = HTTP_PORT;
/// Services that are asked whether they are reached.
const SAMPLE: u32 = 64;
/// One Service of so many is UDP.
const UDP_EVERY: u32 = 16;

/// Addresses of the pods' clients, endpoints and of everything else that is in the cluster, as kube-proxy is told.
pub(in crate::bench) const CLUSTER: &str = "10.128.0.0/9";
/// All endpoints, first and new.
pub(in crate::bench) const BACKENDS: &str = "10.128.0.0/11";
/// The addresses that datagrams come from.
pub(super) const CLIENTS: (&str, Ipv4Addr) = ("10.160.0.0/16", Ipv4Addr::new(10, 160, 0, 0));
/// The Services' addresses.
pub(super) const VIRTUAL: &str = "10.100.0.0/16";

const FIRST_VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 0);
const FIRST_BACKEND: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const FIRST_NEW: Ipv4Addr = Ipv4Addr::new(10, 144, 0, 0);
/// Addresses set aside for the endpoints of one Service, or of one change.
const STRIDE: u32 = 16;

/// Services 0 to `services`.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Objects {
    pub(in crate::bench) services: u32,
}

impl Objects {
    /// Frontends of TCP Services: the first, the last, and others spread without a pattern that a map could know.
    pub(in crate::bench) fn sample(self) -> Vec<SocketAddrV4> {
        let last = (0..self.services).rev().find(|n| !is_udp(*n)).unwrap_or_default();
        let spread = (0..SAMPLE).map(|n| scatter(n, self.services)).filter(|n| !is_udp(*n));
        let mut chosen: Vec<_> = spread.chain([0, last]).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().map(cluster_ip).collect()
    }

    /// The Service that a change is about.
    pub(super) fn changed(self, change: u32) -> u32 {
        let udp = (self.services + UDP_EVERY - 2) / UDP_EVERY;
        scatter(change, udp.max(1)) * UDP_EVERY + 1
    }
}

/// `n` to a number below `len`, far from that of its neighbours (Fibonacci hashing).
fn scatter(n: u32, len: u32) -> u32 {
    let hash = u64::from(n.wrapping_mul(0x9E37_79B9));
    // Below `len`, so it fits.
    ((hash * u64::from(len)) >> 32) as u32
}

fn is_udp(service: u32) -> bool {
    service % UDP_EVERY == 1
}

/// Where clients reach a Service.
pub(super) fn cluster_ip(service: u32) -> SocketAddrV4 {
    SocketAddrV4::new(plus(FIRST_VIRTUAL, service), PORT)
}

fn plus(address: Ipv4Addr, n: u32) -> Ipv4Addr {
    (u32::from(address) + n).into()
}

/// The change that brought this endpoint, if one did.
pub(super) fn change_of(endpoint: Ipv4Addr) -> Option<u32> {
    u32::from(endpoint).checked_sub(FIRST_NEW.into()).map(|n| n / STRIDE)
}

pub(super) fn name(service: u32) -> String {
    format!("service-{service}")
}

/// A Service without a selector.
pub(super) fn service(n: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name(n) },
        "spec": {
            "clusterIP": cluster_ip(n).ip(),
            "ports": [{ "port": PORT, "protocol": protocol(n), "targetPort": TARGET_PORT }],
        },
    })
}

/// Its EndpointSlice; with the endpoints of a change, where one is named.
pub(super) fn slice(service: u32, change: Option<u32>) -> Value {
    let first = change.map_or(plus(FIRST_BACKEND, service * STRIDE), |change| plus(FIRST_NEW, change * STRIDE));
    let endpoints: Vec<_> = (0..ENDPOINTS)
        .map(|n| json!({ "addresses": [plus(first, n)], "conditions": { "ready": true }, "nodeName": "node" }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": name(service), "labels": { "kubernetes.io/service-name": name(service) } },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "", "port": TARGET_PORT, "protocol": protocol(service) }],
    })
}

fn protocol(service: u32) -> &'static str {
    if is_udp(service) { "UDP" } else { "TCP" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_tcp_and_include_first_and_last() {
        for services in [100, 1_000, 10_000] {
            let sample = Objects { services }.sample();
            let number = |frontend: &SocketAddrV4| u32::from(*frontend.ip()) - u32::from(FIRST_VIRTUAL);
            let numbers: Vec<_> = sample.iter().map(number).collect();
            assert!(numbers.len() > 32 && !numbers.iter().any(|n| is_udp(*n) || *n >= services), "{numbers:?}");
            assert_eq!((numbers.first(), numbers.last()), (Some(&0), Some(&(services - 1))));
        }
    }

    #[test]
    fn a_change_is_about_a_udp_service_that_is_there() {
        for services in [2, 17, 18, 100, 10_000] {
            let changed: Vec<_> = (0..1_000).map(|change| Objects { services }.changed(change)).collect();
            assert!(changed.iter().all(|n| is_udp(*n) && *n < services), "{services}: {changed:?}");
        }
    }

    #[test]
    fn an_endpoint_tells_its_change() {
        assert_eq!(change_of(plus(FIRST_BACKEND, 10_000 * STRIDE)), None);
        for change in [0, 1, 10_000] {
            let slice = slice(1, Some(change));
            for endpoint in slice["endpoints"].as_array().unwrap() {
                let address = endpoint["addresses"][0].as_str().unwrap().parse().unwrap();
                assert_eq!(change_of(address), Some(change));
            }
        }
    }
}
