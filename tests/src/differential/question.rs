//! What is asked of both worlds: every client, every way to every Service, also ways that it is not offered.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::model::{Policy, Port, Service};
use super::{Backend, Client, Feature};
use crate::lab::{Family, Protocol, World};

/// Which address of a Service a client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frontend {
    /// A ClusterIP.
    ClusterIp,
    /// The same, at a port that the Service does not have.
    MissingPort,
    /// The port of this node.
    NodePort(usize),
    /// An address of its load balancer.
    LoadBalancer,
    /// An address by the side.
    ExternalIp,
}

/// One question, put to both worlds.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) service: String,
    pub(super) frontend: Frontend,
    pub(super) client: Client,
    pub(super) family: Family,
    pub(super) to: SocketAddr,
    pub(super) protocol: Protocol,
    /// `externalTrafficPolicy: Local`.
    pub(super) external_local: bool,
    /// With session affinity: all its endpoints, of which the client shall find one, whichever.
    pub(super) one_of: Option<BTreeSet<SocketAddr>>,
}

impl Question {
    /// The node that translates.
    pub(super) fn at(&self) -> usize {
        match self.frontend {
            Frontend::NodePort(node) => node,
            _ => self.client.node(),
        }
    }

    /// Whether the node that translates gets it from another machine.
    fn comes_by_nic(&self) -> bool {
        matches!(self.client, Client::Outside(_)) || self.at() != self.client.node()
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let Self { service, frontend, client, to, protocol, .. } = self;
        format!("{client:?} asks {service} by its {frontend:?} {to} {}", protocol.name())
    }
}

/// All questions about these Services.
pub(super) fn questions(services: &[Service], features: &[Feature], backends: &[Backend]) -> Vec<Question> {
    let mut frontends = vec![Frontend::ClusterIp, Frontend::MissingPort];
    for (feature, more) in [
        (Feature::NodePort, &[Frontend::NodePort(0), Frontend::NodePort(1)][..]),
        (Feature::LoadBalancer, &[Frontend::LoadBalancer]),
        (Feature::ExternalIps, &[Frontend::ExternalIp]),
    ] {
        frontends.extend(more.iter().filter(|_| features.contains(&feature)));
    }
    let remote = features.contains(&Feature::RemoteBackends);
    let mut questions = Vec::new();
    for service in services {
        for (family, (at, port)) in
            service.families().flat_map(|family| service.ports.iter().enumerate().map(move |port| (family, port)))
        {
            for frontend in frontends.iter().filter(|frontend| **frontend != Frontend::MissingPort || at == 0) {
                for client in Client::ALL {
                    let question = Question {
                        service: service.name(),
                        frontend: *frontend,
                        client,
                        family,
                        to: address(service, family, port, *frontend),
                        protocol: port.protocol,
                        external_local: service.external == Policy::Local,
                        one_of: service.affinity.map(|_| endpoints(service, family, at, backends)),
                    };
                    let leaves = |node: &usize| *node != question.at();
                    if remote || !question.comes_by_nic() || !nodes(service, backends).any(|n| leaves(&n)) {
                        questions.push(question);
                    }
                }
            }
        }
    }
    questions
}

fn address(service: &Service, family: Family, port: &Port, frontend: Frontend) -> SocketAddr {
    let (ip, port) = match frontend {
        Frontend::ClusterIp => (service.cluster_ip(family), port.port),
        Frontend::MissingPort => (service.cluster_ip(family), 9),
        Frontend::NodePort(node) => (World::node_ip(family, node), port.node_port),
        Frontend::LoadBalancer => (service.load_balancer_ip(family), port.port),
        Frontend::ExternalIp => (service.external_ip(family), port.port),
    };
    SocketAddr::new(ip, port)
}

fn nodes<'a>(service: &'a Service, backends: &'a [Backend]) -> impl Iterator<Item = usize> + 'a {
    service.slices.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| backends[endpoint.backend].node)
}

fn endpoints(service: &Service, family: Family, port: usize, backends: &[Backend]) -> BTreeSet<SocketAddr> {
    let slices = service.slices.iter().filter(|slice| slice.family == family);
    let with_port = slices.filter_map(|slice| Some((slice, slice.targets[port]?)));
    with_port
        .flat_map(|(slice, target)| {
            slice.endpoints.iter().map(move |e| SocketAddr::new(backends[e.backend].ip(family), target))
        })
        .collect()
}
