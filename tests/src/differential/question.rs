//! What is asked of both worlds: every client, every way to every Service, also ways that it is not offered.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::model::{HEADLESS, Policy, Port, Service, Type};
use super::serving::{answering, serving};
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

impl Frontend {
    const ALL: [Self; 6] = [
        Self::ClusterIp,
        Self::MissingPort,
        Self::NodePort(0),
        Self::NodePort(1),
        Self::LoadBalancer,
        Self::ExternalIp,
    ];
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
    /// Which port of the Service it is, counted from 0.
    pub(super) port: usize,
    /// `internalTrafficPolicy: Local`.
    pub(super) internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub(super) external_local: bool,
    /// Session affinity: the client shall find one of those who may answer, whichever.
    pub(super) affinity: bool,
    /// The label [`HEADLESS`].
    pub(super) headless: bool,
    /// Who answers, if anybody does.
    pub(super) may: BTreeSet<SocketAddr>,
    /// Who still would, be he led to or not.
    pub(super) answering: BTreeSet<SocketAddr>,
}

impl Question {
    /// The node that translates.
    pub(super) fn at(&self) -> usize {
        match self.frontend {
            Frontend::NodePort(node) => node,
            _ => self.client.node(),
        }
    }

    /// Whether the traffic policy that counts is `Local`.
    fn is_local(&self) -> bool {
        match self.frontend {
            Frontend::ClusterIp | Frontend::MissingPort => self.internal_local,
            _ => self.external_local && self.comes_by_nic(),
        }
    }

    /// Whether another question, asked before, was the same.
    pub(super) fn is_again(&self, before: &Self) -> bool {
        let key = |question: &Self| (question.client, question.to, question.protocol, question.port);
        key(self) == key(before)
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
    let is_asked = |service: &Service, question: &Question| {
        let leaves = |node: usize| node != question.at();
        let is_near = || !question.comes_by_nic() || !nodes(service, backends).any(leaves);
        frontends.contains(&question.frontend) && (remote || is_near())
    };
    let of = |service| questions_of(service, backends).into_iter().filter(move |question| is_asked(service, question));
    services.iter().flat_map(of).collect()
}

/// All that can be asked about a Service.
pub(super) fn questions_of(service: &Service, backends: &[Backend]) -> Vec<Question> {
    let mut questions = Vec::new();
    for (family, (at, port)) in
        service.families().flat_map(|family| service.ports.iter().enumerate().map(move |port| (family, port)))
    {
        for frontend in Frontend::ALL.into_iter().filter(|frontend| *frontend != Frontend::MissingPort || at == 0) {
            for client in Client::ALL {
                let mut question = Question {
                    service: service.name(),
                    frontend,
                    client,
                    family,
                    to: address(service, family, port, frontend),
                    protocol: port.protocol,
                    port: at,
                    internal_local: service.internal == Policy::Local,
                    external_local: service.external == Policy::Local,
                    affinity: service.affinity.is_some(),
                    headless: service.label == Some(HEADLESS),
                    may: BTreeSet::new(),
                    answering: answering(service, family, at, backends),
                };
                question.may = serving(service, family, at, backends, question.at(), question.is_local());
                questions.push(question);
            }
        }
    }
    questions
}

/// Whether a Service has such an address at all.
pub(super) fn is_offered(service: &Service, frontend: Frontend) -> bool {
    service.label.is_none()
        && match frontend {
            Frontend::ClusterIp => true,
            Frontend::MissingPort => false,
            Frontend::NodePort(_) => service.kind >= Type::NodePort,
            Frontend::LoadBalancer => service.kind == Type::LoadBalancer && !service.proxy_mode,
            Frontend::ExternalIp => service.external_ips,
        }
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
