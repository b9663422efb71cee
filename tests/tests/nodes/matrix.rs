//! From every place to every kind of virtual IP, to backends in every place. What has to come of it is a
//! table of rules, which the real kube-proxy has to pass as well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sluice_tests::differential::{Api, Backend, Client, Cluster, PORTS, Side, Subject};
use sluice_tests::lab::{
    AgentOptions, FAMILIES, Family, Network, Outcome, Outcomes, Probe, Protocol, SocketPath, Wiring, World,
    WorldOptions,
};
use sluice_tests::plane::{Plane, PlaneOptions};
use sluice_tests::plane_or_skip;

use super::rules::Expected::{self, Answer, Error, Refusal, Silence};
use super::rules::{RULES, Source};

/// Where the only backend of a Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Pod(usize),
    Host(usize),
    Nowhere,
}

const PLACES: [Place; 5] = [Place::Pod(0), Place::Pod(1), Place::Host(0), Place::Host(1), Place::Nowhere];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Cluster,
    Local,
}

/// What the client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ClusterIp,
    /// Of this node.
    NodePort(usize),
    /// The same at the client's own loopback address.
    Loopback,
    LoadBalancer,
    ExternalIp,
}

const KINDS: [Kind; 5] = [Kind::ClusterIp, Kind::NodePort(0), Kind::NodePort(1), Kind::LoadBalancer, Kind::ExternalIp];

const CLIENTS: [Client; 6] =
    [Client::Backend(0), Client::Pod(0), Client::Pod(2), Client::Host(0), Client::Host(2), Client::Outside(0)];

/// One row of the matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) client: Client,
    pub(super) kind: Kind,
    pub(super) place: Place,
    pub(super) policy: Policy,
    pub(super) family: Family,
    pub(super) protocol: Protocol,
}

impl Row {
    /// The node that translates.
    pub(super) fn at(&self) -> usize {
        match self.kind {
            Kind::NodePort(node) => node,
            _ => self.client.node(),
        }
    }

    /// Whether the backend is on the node that translates.
    pub(super) fn is_here(&self) -> bool {
        matches!(self.place, Place::Pod(node) | Place::Host(node) if node == self.at())
    }

    pub(super) fn is_pod(&self) -> bool {
        matches!(self.client, Client::Backend(_) | Client::Pod(_))
    }

    /// A pod that calls the port of another node.
    pub(super) fn is_by_other_node(&self) -> bool {
        self.is_pod() && self.client.node() != self.at()
    }

    pub(super) fn is_host(&self) -> bool {
        matches!(self.client, Client::Host(_))
    }

    /// Neither a pod nor of the node that translates.
    pub(super) fn is_foreign(&self) -> bool {
        !(self.is_pod() || self.is_host() && self.client.node() == self.at())
    }

    /// A process that calls by its own node over SCTP: the kernel asks no program when such a socket connects.
    fn is_unasked(&self) -> bool {
        self.protocol == Protocol::Sctp && self.is_host() && self.client.node() == self.at()
    }

    /// Its packets meet a program at the service device.
    pub(super) fn is_by_device(&self) -> bool {
        self.is_unasked() && matches!(self.kind, Kind::ClusterIp | Kind::NodePort(_))
    }

    /// Its packets meet no program.
    fn is_unseen(&self) -> bool {
        self.is_unasked() && !self.is_by_device()
    }

    fn number(&self) -> u8 {
        number(self.place, self.policy)
    }

    pub(super) fn to(&self) -> SocketAddr {
        let (n, port) = (self.number(), port_of(self.protocol));
        let node_port = node_port(self.protocol, n);
        match self.kind {
            Kind::ClusterIp => SocketAddr::new(self.family.cluster_ip(n), port),
            Kind::NodePort(node) => SocketAddr::new(World::node_ip(self.family, node), node_port),
            Kind::Loopback => {
                let ip = self.family.pick(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
                SocketAddr::new(ip, node_port)
            }
            Kind::LoadBalancer => SocketAddr::new(load_balancer_ip(self.family, n), port),
            Kind::ExternalIp => SocketAddr::new(external_ip(self.family, n), port),
        }
    }

    fn backend<'a>(&self, cluster: &'a Cluster) -> Option<&'a Backend> {
        backend(self.place, cluster)
    }

    /// Whether this is what came of it.
    fn holds(&self, expected: Expected, cluster: &Cluster, outcomes: &Outcomes) -> bool {
        let node = |ip: &IpAddr| {
            let others = [0, 1].map(|n| self.family.pod_ip_on(self.at() as u8, n));
            *ip == World::node_ip(self.family, self.at()) || others.contains(ip)
        };
        let own = self.client.ip(cluster, self.family);
        let source = |ip: &IpAddr, expected| match expected {
            Source::Client => *ip == own || (self.is_host() && Client::Host(self.at()) == self.client && node(ip)),
            Source::Node => node(ip),
            Source::Service => *ip == self.to().ip(),
        };
        !outcomes.is_empty()
            && outcomes.keys().all(|outcome| match (expected, outcome) {
                (Answer(expected), Outcome::Answered { by, client }) => {
                    self.backend(cluster).is_some_and(|backend| backend.ip(self.family) == by.ip())
                        && source(client, expected)
                }
                (Refusal, Outcome::Refused) | (Silence, Outcome::Silent) => true,
                (Error, Outcome::Refused | Outcome::Failed(_)) => true,
                _ => false,
            })
    }
}

/// Number of the first Service.
const FIRST: u8 = 100;

fn number(place: Place, policy: Policy) -> u8 {
    let place = PLACES.iter().position(|p| *p == place).unwrap_or_default() as u8;
    FIRST + 2 * place + u8::from(policy == Policy::Local)
}

fn port_of(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 80,
        Protocol::Udp => 53,
        Protocol::Sctp => 5000,
    }
}

/// One of the first 86, which the API server gives nobody who names none: each Service with the policy Local has such a port.
fn node_port(protocol: Protocol, n: u8) -> u16 {
    let at = Protocol::ALL.iter().position(|p| *p == protocol).unwrap_or_default() as u16;
    30_000 + at * 20 + u16::from(n - FIRST)
}

pub(super) fn backend(place: Place, cluster: &Cluster) -> Option<&Backend> {
    let (on, host_network) = match place {
        Place::Pod(node) => (node, false),
        Place::Host(node) => (node, true),
        Place::Nowhere => return None,
    };
    cluster.backends.iter().find(|backend| backend.node == on && backend.host_network == host_network)
}

fn load_balancer_ip(family: Family, n: u8) -> IpAddr {
    family.pick([203, 0, 113, n].into(), [0xfd00, 0x203, 0, 0, 0, 0, 0, n.into()].into())
}

fn external_ip(family: Family, n: u8) -> IpAddr {
    family.pick([198, 51, 100, n].into(), [0xfd00, 0x198, 0, 0, 0, 0, 0, n.into()].into())
}

pub(super) fn objects(cluster: &Cluster) -> Vec<Value> {
    let all = PLACES.into_iter().flat_map(|place| [(place, Policy::Cluster), (place, Policy::Local)]);
    let of = |(place, policy)| {
        let (n, policy_name) = (number(place, policy), format!("{policy:?}"));
        let name = format!("matrix-{n}");
        let port = |protocol: Protocol| {
            json!({ "name": protocol.name().to_lowercase(), "protocol": protocol.name(), "port": port_of(protocol),
                    "targetPort": PORTS[0], "nodePort": node_port(protocol, n) })
        };
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": {
                "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
                "clusterIP": Family::V4.cluster_ip(n), "clusterIPs": FAMILIES.map(|family| family.cluster_ip(n)),
                "externalIPs": FAMILIES.map(|family| external_ip(family, n)),
                "internalTrafficPolicy": policy_name, "externalTrafficPolicy": policy_name,
                "ports": Protocol::ALL.map(port),
            },
            "status": { "loadBalancer": { "ingress": FAMILIES.map(|family| json!({ "ip": load_balancer_ip(family, n) })) } },
        });
        let slices = FAMILIES.map(|family| {
            let endpoints = backend(place, cluster).map(|backend| {
                json!({ "addresses": [backend.ip(family)], "nodeName": cluster.world.nodes[backend.node].name(),
                        "conditions": { "ready": true } })
            });
            let ports = Protocol::ALL.map(|protocol| {
                json!({ "name": protocol.name().to_lowercase(), "protocol": protocol.name(), "port": PORTS[0] })
            });
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": { "name": format!("{name}-{family:?}").to_lowercase(),
                              "labels": { "kubernetes.io/service-name": name } },
                "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
                "endpoints": Vec::from_iter(endpoints), "ports": ports,
            })
        });
        [service].into_iter().chain(slices)
    };
    all.flat_map(of).collect()
}

pub(super) fn rows() -> Vec<Row> {
    rows_of(&CLIENTS, &KINDS)
}

fn rows_of(clients: &[Client], kinds: &[Kind]) -> Vec<Row> {
    let mut rows = Vec::new();
    for &client in clients {
        for (kind, place) in kinds.iter().flat_map(|kind| PLACES.map(|place| (*kind, place))) {
            for policy in [Policy::Cluster, Policy::Local] {
                for (family, protocol) in FAMILIES.into_iter().flat_map(|f| Protocol::ALL.map(|p| (f, p))) {
                    rows.push(Row { client, kind, place, policy, family, protocol });
                }
            }
        }
    }
    rows
}

/// What is still wrong, for people.
fn wrong(subject: Subject, side: &Side<'_>, rows: &[Row], patience_ms: u64) -> Result<Vec<(Row, String)>> {
    let probe = |row: &Row| Probe { to: row.to(), protocol: row.protocol, tries: 2, patience_ms };
    let questions: Vec<_> = rows.iter().map(|row| (row.client, probe(row))).collect();
    let mut wrong = Vec::new();
    for (row, outcomes) in rows.iter().zip(side.ask(&questions)?) {
        let Some(rule) = RULES.iter().find(|rule| (rule.when)(row)) else { bail!("no rule for {row:?}") };
        let expected = if subject == Subject::Sluice { rule.sluice } else { rule.kube_proxy };
        if !row.holds(expected, side.cluster(), &outcomes) {
            let found: Vec<_> = outcomes.keys().map(ToString::to_string).collect();
            wrong.push((*row, format!("{row:?}: \"{}\" wants {expected:?}, found {found:?}", rule.name)));
        }
    }
    Ok(wrong)
}

/// Milliseconds in which an answer comes; a busy machine has a second chance.
const HASTE: u64 = 300;
/// The same for an ICMPv6 refusal of kube-proxy: over a veth the first comes while the kernel still connects, and is not
/// heard; the next follows the next SYN, after a second.
const PATIENCE: u64 = 1_600;

/// Asks all rows until they hold, as long as rules may take to be in force.
pub(super) fn expect(subject: Subject, side: &Side<'_>, mut rows: Vec<Row>) -> Result<()> {
    rows.retain(|row| subject == Subject::KubeProxy || !row.is_unseen());
    let (start, all, mut left, mut patience) = (Instant::now(), rows.len(), rows, HASTE);
    loop {
        let wrong = wrong(subject, side, &left, patience)?;
        patience = PATIENCE;
        if wrong.is_empty() {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(20) {
            let text: Vec<_> = wrong.iter().map(|(_, text)| text.as_str()).collect();
            bail!("{} of {all} rows:\n{}", wrong.len(), text.join("\n"));
        }
        left = wrong.into_iter().map(|(row, _)| row).collect();
    }
}

fn matrix(subject: Subject, network: Network, options: AgentOptions, rows: Vec<Row>) -> Result<()> {
    let cluster = Cluster::new(WorldOptions { network, wiring: Wiring::PointToPoint })?;
    let plane = Plane::start_in(&cluster.world, PlaneOptions { api_servers: 1, controllers: false })?;
    Api::new(&plane)?.apply(&objects(&cluster))?;
    expect(subject, &Side::start_with(&cluster, subject, &plane.kubeconfig(), options)?, rows)
}

#[test]
fn kube_proxy_treats_every_row_so() -> Result<()> {
    plane_or_skip!();
    for network in [Network::Routed, Network::Vxlan] {
        matrix(Subject::KubeProxy, network, AgentOptions::USUAL, rows())?;
    }
    Ok(())
}

#[test]
fn sluice_treats_every_row_so() -> Result<()> {
    plane_or_skip!();
    for network in [Network::Routed, Network::Vxlan] {
        matrix(Subject::Sluice, network, AgentOptions::USUAL, rows())?;
    }
    Ok(())
}

#[test]
fn processes_of_a_node_reach_node_ports_at_loopback_addresses() -> Result<()> {
    plane_or_skip!();
    let options = AgentOptions { nodeport_addresses: Some("primary,localhost"), ..AgentOptions::USUAL };
    for subject in [Subject::KubeProxy, Subject::Sluice] {
        // Of SCTP they would need sockets of the kernel's own.
        let mut rows = rows_of(&[Client::Host(0)], &[Kind::Loopback, Kind::NodePort(0)]);
        rows.retain(|row| row.protocol != Protocol::Sctp);
        matrix(subject, Network::Routed, options, rows).with_context(|| format!("{subject:?}"))?;
    }
    Ok(())
}

/// What processes of a node send to ClusterIPs, and to NodePorts of their own node, meets the service device; to load-balancer
/// and external IPs it meets no program. Nobody tells them of what is dropped at a ClusterIP, and a backend among them sees it as
/// its client.
#[test]
fn every_row_holds_without_the_socket_path() -> Result<()> {
    plane_or_skip!();
    let by_packets = |row: &Row| {
        let is_dropped = row.policy == Policy::Local && !row.is_here() && row.place != Place::Nowhere;
        let is_own = row.place == Place::Host(row.at());
        let by_device = match row.kind {
            Kind::ClusterIp => !is_dropped && !is_own,
            Kind::NodePort(_) => true,
            _ => false,
        };
        !row.is_host() || row.client.node() != row.at() || by_device
    };
    let rows = rows().into_iter().filter(by_packets).collect();
    let options = AgentOptions { socket_path: SocketPath::Off, ..AgentOptions::USUAL };
    matrix(Subject::Sluice, Network::Routed, options, rows)
}

/// A socket that a pod's process connects to itself has the pod's own address.
#[test]
fn every_row_holds_with_the_socket_path_for_pods() -> Result<()> {
    plane_or_skip!();
    let to_itself = |row: &Row| row.client == Client::Backend(0) && row.place == Place::Pod(0);
    let rows = rows().into_iter().filter(|row| !to_itself(row)).collect();
    let options = AgentOptions { socket_path: SocketPath::All, ..AgentOptions::USUAL };
    matrix(Subject::Sluice, Network::Routed, options, rows)
}
