//! Packets a second that one CPU sends on to a backend on another node: Sluice, kube-proxy, and the kernel that only
//! forwards. Live frames come in at the node's NIC from outside and leave through it; they are counted where they arrive.

mod node;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use self::node::Node;
pub(super) use self::report::Report;
use self::report::Row;
use super::progress;
use super::report::{Findings as _, Machine, Runs};
use super::subject::{self, Subject};
use crate::lab::{FAMILIES, Family, Lab};
use crate::plane::{Plane, PlaneOptions};

/// How long to measure, and where to leave the figures.
#[derive(Clone, Debug)]
pub struct Options {
    /// The object with the benchmark's own programs.
    pub programs: PathBuf,
    /// Runs of each case.
    pub runs: usize,
    /// Milliseconds of a run, about.
    pub time: u64,
    /// Numbers of flows.
    pub flows: Vec<u32>,
    /// The folder where the JSON goes.
    pub out: PathBuf,
}

/// What sends the packets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// An XDP program that sends everything back: what generator, wire and counter cost.
    Wire,
    /// The kernel, for packets addressed to the backend itself, with nothing else on the node.
    Plain,
    /// A program that makes Services work, under this name; with these options, where it is the agent.
    Service(&'static str, Subject, &'static [&'static str]),
}

const WAYS: [Way; 6] = [
    Way::Wire,
    Way::Plain,
    Way::Service("Sluice XDP", Subject::Sluice, &["--xdp", "native", "--socket-path", "off"]),
    Way::Service("Sluice TC", Subject::Sluice, &["--xdp", "off", "--socket-path", "off"]),
    Way::Service("kube-proxy nftables", Subject::Nftables, &[]),
    Way::Service("kube-proxy iptables", Subject::Iptables, &[]),
];

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire alone",
            Self::Plain => "plain forwarding",
            Self::Service(name, ..) => name,
        }
    }
}

/// Where the client thinks that the Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Routed to the node from outside.
    ClusterIp,
    NodePort,
}

impl Target {
    const ALL: [Self; 2] = [Self::ClusterIp, Self::NodePort];

    const fn name(self) -> &'static str {
        match self {
            Self::NodePort => "NodePort",
            Self::ClusterIp => "ClusterIP",
        }
    }

    fn address(self, family: Family) -> SocketAddr {
        match self {
            Self::NodePort => SocketAddr::new(family.node_ip(), NODE_PORT),
            Self::ClusterIp => SocketAddr::new(family.cluster_ip(50), PORT),
        }
    }
}

const NODE_PORT: u16 = 30_080;
const PORT: u16 = 80;

/// Measures, prints the table, and keeps the JSON.
///
/// # Errors
/// The lab or the control plane cannot run here, or a program under measurement fails.
pub fn run(options: &Options) -> Result<()> {
    let labs = WAYS.iter().map(|_| Ok(Lab::new()?.without_xdp_outside())).collect::<Result<Vec<_>>>()?;
    let mut plane = Plane::start(&labs[0], PlaneOptions { api_servers: 1, controllers: false })?;
    declare(&plane)?;
    let mut nodes = Vec::new();
    for (n, (lab, way)) in labs.iter().zip(WAYS).enumerate() {
        if n > 0 {
            plane.join(&lab.node)?;
        }
        nodes.push(Node::new(lab, &plane, way, &options.programs).with_context(|| way.name())?);
    }
    let mut report = Report { machine: Machine::this().beside(subject::version()?), rows: Vec::new() };
    for target in Target::ALL {
        for family in FAMILIES {
            for &flows in &options.flows {
                report.rows.extend(measure(&mut nodes, options, target, family, flows)?);
            }
        }
    }
    for node in nodes {
        node.remove()?;
    }
    report.save(&options.out)
}

/// One Service of type NodePort in both families, with one endpoint on another node.
fn declare(plane: &Plane<'_>) -> Result<()> {
    let ips = FAMILIES.map(|family| family.cluster_ip(50));
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "packets", "namespace": "default" },
        "spec": {
            "type": "NodePort",
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "port": PORT, "protocol": "UDP", "targetPort": node::BACKEND_PORT, "nodePort": NODE_PORT }],
        },
    });
    plane.apply(&service.to_string())?;
    for family in FAMILIES {
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("packets-{}", name.to_lowercase()),
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": "packets" },
            },
            "addressType": name,
            "endpoints": [{
                "addresses": [node::backend(family)],
                "conditions": { "ready": true },
                "nodeName": "other",
            }],
            "ports": [{ "name": "", "port": node::BACKEND_PORT, "protocol": "UDP" }],
        });
        plane.apply(&slice.to_string())?;
    }
    Ok(())
}

/// All ways in turn, as often as there are runs.
fn measure(nodes: &mut [Node<'_>], options: &Options, target: Target, family: Family, flows: u32) -> Result<Vec<Row>> {
    let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
    let title = format!("{}, {name}, {flows} flows", target.name());
    let bar = progress::bar(title, (options.runs * nodes.len()) as u64, "runs")?;
    let mut rows = Vec::new();
    for node in nodes.iter_mut() {
        bar.set_message(node.way.name());
        let to = match node.way {
            Way::Wire | Way::Plain => SocketAddr::new(node::backend(family), node::BACKEND_PORT),
            Way::Service(..) => target.address(family),
        };
        let works = node.establish(to, flows).with_context(|| node.way.name())?;
        let (target, family, subject) = (target.name().to_owned(), name.to_owned(), node.way.name().to_owned());
        rows.push(Row { target, family, flows, subject, works, rates: Runs::default(), lost: Runs::default() });
    }
    for _ in 0..options.runs {
        for (node, row) in nodes.iter_mut().zip(&mut rows) {
            if row.works {
                bar.set_message(node.way.name());
                let (rate, lost) = node.rate(options.time)?;
                row.rates.push(rate);
                row.lost.push(lost);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(rows)
}

/// What a client outside is called in its packets.
fn client(family: Family) -> IpAddr {
    family.outside_ip()
}
