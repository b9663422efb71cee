//! Random clusters, and random changes of them. The same seed gives the same.

use super::model::{Endpoint, HEADLESS, NODES, PROXY_NAME, Policy, Port, Service, Slice, Type, ZONES};
use super::{Backend, PORTS};
use crate::lab::{FAMILIES, Family, Protocol};
use crate::packets::random::Seed;

/// What a cluster may make use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// `type: NodePort`, and the ports that a LoadBalancer has.
    NodePort,
    /// Addresses of load balancers, and `ipMode`.
    LoadBalancer,
    /// `loadBalancerSourceRanges`.
    SourceRanges,
    /// `externalIPs`.
    ExternalIps,
    /// `sessionAffinity`.
    Affinity,
    /// `internalTrafficPolicy`.
    InternalPolicy,
    /// `externalTrafficPolicy`.
    ExternalPolicy,
    /// Topology hints.
    Hints,
    /// Clients outside that reach backends on another node than that which leads them.
    RemoteBackends,
}

impl Feature {
    /// All that kube-proxy has.
    pub const ALL: [Self; 9] = [
        Self::NodePort,
        Self::LoadBalancer,
        Self::SourceRanges,
        Self::ExternalIps,
        Self::Affinity,
        Self::InternalPolicy,
        Self::ExternalPolicy,
        Self::Hints,
        Self::RemoteBackends,
    ];
}

/// Services of a cluster at its beginning.
const SERVICES: u64 = 6;
/// Numbers set aside for the Services of one cluster.
const NUMBERS: u64 = 16;
/// Numbers before they come again: a cluster finds no address that one shortly before it has had.
const ALL_NUMBERS: u64 = 896;

/// A cluster of a seed, and its changes.
#[derive(Clone, Debug)]
pub(super) struct Generator<'a> {
    seed: Seed,
    features: &'a [Feature],
    backends: &'a [Backend],
    next: u64,
    pub(super) services: Vec<Service>,
}

impl<'a> Generator<'a> {
    pub(super) fn new(seed: u64, features: &'a [Feature], backends: &'a [Backend]) -> Self {
        let next = seed.wrapping_mul(NUMBERS) % ALL_NUMBERS;
        let mut generator = Self { seed: Seed(seed), features, backends, next, services: Vec::new() };
        for _ in 0..3 + generator.seed.below(SERVICES - 2) {
            generator.add();
        }
        generator
    }

    /// Changes something, and says what.
    pub(super) fn change(&mut self) -> String {
        let lacks = self.services.is_empty();
        let choice = if lacks { 9 } else { self.seed.below(10) };
        if choice == 9 {
            self.add();
            return format!("{} is new", self.services.last().map(Service::name).unwrap_or_default());
        }
        let at = self.seed.below(self.services.len() as u64) as usize;
        let name = self.services[at].name();
        match choice {
            0..4 => {
                self.services[at].slices = self.slices(&self.services[at].clone());
                self.services[at].edition += 1;
                format!("{name} has other slices")
            }
            4..6 => {
                for backend in 0..self.backends.len() {
                    if self.seed.below(2) == 0 {
                        let state = conditions(&mut self.seed);
                        let slices = self.services[at].slices.iter_mut();
                        for endpoint in slices.flat_map(|slice| &mut slice.endpoints).filter(|e| e.backend == backend) {
                            (endpoint.ready, endpoint.serving, endpoint.terminating) = state;
                        }
                    }
                }
                format!("endpoints of {name} are in another state")
            }
            6..8 => {
                let old = self.services[at].clone();
                let (number, ports) = (old.number, old.ports.clone());
                let new = self.service(number, ports, old.family, old.dual);
                self.services[at] = Service { slices: old.slices, edition: old.edition, ..new };
                format!("{name} is offered in another way")
            }
            _ => {
                self.services.remove(at);
                format!("{name} is gone")
            }
        }
    }

    fn add(&mut self) {
        // Within the numbers of this cluster, where one is free.
        let first = self.next / NUMBERS * NUMBERS;
        let number = (first + self.next % NUMBERS) as u16;
        self.next = first + (self.next + 1) % NUMBERS;
        self.services.retain(|service| service.number != number);
        let family = self.seed.of(&FAMILIES);
        let (dual, ports) = (self.seed.below(2) == 0, self.ports(number));
        let mut service = self.service(number, ports, family, dual);
        service.slices = self.slices(&service);
        self.services.push(service);
    }

    fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// True once in `n` times, where the feature may be used.
    fn once_in(&mut self, n: u64, feature: Feature) -> bool {
        self.seed.below(n) == 0 && self.has(feature)
    }

    fn ports(&mut self, number: u16) -> Vec<Port> {
        let node_port = |at: u16| 30_000 + number * 3 + at;
        let port = |protocol, port, at| Port { protocol, port, node_port: node_port(at) };
        match self.seed.below(6) {
            0 => vec![port(Protocol::Tcp, 80, 0)],
            1 => vec![port(Protocol::Udp, 53, 0)],
            // Several protocols on one port.
            2 => vec![port(Protocol::Tcp, 53, 0), port(Protocol::Udp, 53, 0)],
            3 => vec![port(Protocol::Sctp, 5000, 0)],
            4 => vec![port(Protocol::Sctp, 80, 0), port(Protocol::Tcp, 80, 0)],
            _ => vec![port(Protocol::Tcp, 80, 0), port(Protocol::Udp, 53, 1), port(Protocol::Tcp, 443, 2)],
        }
    }

    fn service(&mut self, number: u16, ports: Vec<Port>, family: Family, dual: bool) -> Service {
        let mut kinds = vec![Type::ClusterIp];
        kinds.extend(self.has(Feature::NodePort).then_some(Type::NodePort));
        kinds.extend(self.has(Feature::LoadBalancer).then_some(Type::LoadBalancer));
        let policy = |yes| if yes { Policy::Local } else { Policy::Cluster };
        // Over SCTP kube-proxy was seen to lead a client with affinity to several backends.
        let sctp = ports.iter().any(|port| port.protocol == Protocol::Sctp);
        Service {
            number,
            family,
            dual,
            kind: self.seed.of(&kinds),
            ports,
            internal: policy(self.once_in(4, Feature::InternalPolicy)),
            external: policy(self.once_in(2, Feature::ExternalPolicy)),
            affinity: (self.once_in(5, Feature::Affinity) && !sctp).then_some(10_800),
            external_ips: self.once_in(3, Feature::ExternalIps),
            proxy_mode: self.seed.below(6) == 0,
            source_ranges: if self.once_in(3, Feature::SourceRanges) { self.source_ranges() } else { Vec::new() },
            label: self.label(8),
            slices: Vec::new(),
            edition: 0,
        }
    }

    /// Once in `n` times.
    fn label(&mut self, n: u64) -> Option<&'static str> {
        (self.seed.below(n) == 0).then(|| self.seed.of(&[PROXY_NAME, HEADLESS]))
    }

    fn source_ranges(&mut self) -> Vec<&'static str> {
        const RANGES: [&str; 10] = [
            // One client outside, and not the other.
            "192.168.50.2/32",
            " 192.168.50.0/30 ",
            "fd00:50::2/128",
            "fd00:50::/126",
            // The nodes themselves.
            "192.168.50.8/29 ",
            "fd00:50::8/125",
            // Pods.
            "10.244.0.0/24",
            "fd00:244:0:1::/64",
            // Everyone.
            "0.0.0.0/0",
            "::/0",
        ];
        let count = 1 + self.seed.below(3);
        (0..count).map(|_| self.seed.of(&RANGES)).collect()
    }

    fn slices(&mut self, service: &Service) -> Vec<Slice> {
        let hints = if self.has(Feature::Hints) { self.seed.below(4) } else { 0 };
        // An endpoint may stand in two slices, but as one: kube-proxy takes whichever it comes upon.
        let all: Vec<_> = (0..self.backends.len()).map(|backend| self.endpoint(backend, hints)).collect();
        let mut slices = Vec::new();
        for family in service.families() {
            for _ in 0..self.seed.of(&[0, 1, 1, 1, 2, 2]) {
                let target = |seed: &mut Seed| (seed.below(8) != 0).then(|| seed.of(&PORTS));
                let targets = service.ports.iter().map(|_| target(&mut self.seed)).collect();
                let mut left = all.clone();
                let count = self.seed.of(&[0, 1, 1, 2, 2, 3, 3, 4]);
                let choose = |_| left.swap_remove(self.seed.below(left.len() as u64) as usize);
                let endpoints = (0..count).map(choose).collect();
                slices.push(Slice { family, targets, endpoints, label: self.label(12) });
            }
        }
        slices
    }

    /// With hints for zones (1), nodes (2), both (3) or none.
    fn endpoint(&mut self, backend: usize, hints: u64) -> Endpoint {
        let (ready, serving, terminating) = conditions(&mut self.seed);
        // Sometimes one has none, and then none counts.
        let hinted = self.seed.below(12) != 0;
        let zone_hint = (hinted && hints & 1 != 0).then(|| self.seed.of(&ZONES));
        let node_hint = (hinted && hints & 2 != 0).then(|| self.seed.of(&NODES));
        Endpoint { backend, ready, serving, terminating, zone_hint, node_hint }
    }
}

/// Ready, serving, terminating: mostly ready, and as the API says them, which may be not at all.
fn conditions(seed: &mut Seed) -> (Option<bool>, Option<bool>, Option<bool>) {
    match seed.below(10) {
        0..5 => (Some(true), Some(true), Some(false)),
        5 => (None, None, None),
        6 => (Some(true), None, None),
        7 => (Some(false), Some(false), Some(false)),
        8 => (Some(false), Some(true), Some(true)),
        _ => (Some(false), Some(false), Some(true)),
    }
}
