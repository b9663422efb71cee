//! The agent: programs, devices, reconciler and flows, wired together. Decides nothing itself.

mod datapath;
mod drain;
mod engine;
mod growth;
mod health_checks;
mod memory;
mod observed;
mod report;
mod run;
mod sockets;
mod source;
mod sweep;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use drain::drain;
pub use memory::keep_together;
pub use report::{Lock, Report, ReportError, RunDir, SourceReport, clock};
pub use run::run;

use crate::bpf::{Capacities, Pins, TcMode, XdpMode};
use crate::compile::NodePortAddresses;
use crate::devices::Globs;
use crate::model::Cidr;
use crate::watch::kubernetes::Access;

/// Where to learn what is declared.
#[derive(Clone, Debug)]
pub enum Source {
    /// From manifests in this folder.
    Manifests(PathBuf),
    /// From the API servers of a cluster.
    Kubernetes(Access),
}

/// What the agent was told, all of it checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to learn what is declared.
    pub source: Source,
    /// Where to pin.
    pub pins: Pins,
    /// Where to say how it is.
    pub run_dir: RunDir,
    /// The name of this node.
    pub node: String,
    /// One of [`lb_common::tables::socket_path`].
    pub socket_path: u32,
    /// The cgroup of the sockets to translate; none where the socket path is off.
    pub cgroup: Option<PathBuf>,
    /// At which addresses of this node NodePorts are.
    pub node_ports: NodePortAddresses,
    /// Whether external IPs are programmed.
    pub external_ips: bool,
    /// Devices beside those that are found, and the agent's own.
    pub globs: Globs,
    /// Ranges of virtual IPs beside those that the source tells.
    pub service_cidrs: BTreeSet<Cidr>,
    /// How to attach at NICs.
    pub xdp: XdpMode,
    /// How to attach at TC.
    pub tc: TcMode,
    /// How long, on a node that is new to Sluice, connections that another proxy began go on through that.
    pub takeover: Duration,
    /// Sizes of maps.
    pub capacities: Capacities,
    /// Whether the programs log packets.
    pub packet_log: bool,
    /// Where to answer probes.
    pub healthz: Option<SocketAddr>,
    /// Where to answer Prometheus.
    pub metrics: Option<SocketAddr>,
    /// Whether it hears of each Service port.
    pub service_metrics: bool,
}
