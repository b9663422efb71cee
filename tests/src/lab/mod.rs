//! The lab: a node with a NIC, pods, a client outside, each in a network namespace of its own.
//!
//! ```text
//!  outside                       node                          pod-<name>
//!  eth0 ───────── veth ───────── nic0        pod-<name> ─ veth ─ eth0
//!  192.168.50.2                  192.168.50.1                  10.244.0.n/32
//!  fd00:50::2                    fd00:50::1                    fd00:244::n/128
//! ```
//!
//! Addresses are the same in every lab; the namespaces keep them apart. Pods are wired point to point. A [`World`] has
//! several nodes.

mod agent;
mod attached;
mod bpf;
mod client;
mod far;
mod firewall;
mod frame;
mod http;
mod manifest;
mod netns;
mod node;
mod offload;
mod overruns;
mod owner;
mod pass;
mod place;
mod pod;
mod probe;
mod prober;
mod sctp;
mod server;
mod spare;
mod sums;
mod talk;
mod way;
mod wire;
mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::Result;

pub use agent::{Agent, AgentOptions, SocketPath, Source, Tc, Xdp, cli, program, start_cli};
pub use attached::Attached;
pub use client::{Answer, Exchange, Load, Report, Seen};
pub use far::Far;
pub use firewall::Firewall;
pub use frame::Frames;
pub use http::Page;
pub use manifest::{
    Manifests, ServedPort, endpoint_slice, pod as pod_manifest, pod_in_state, service as service_manifest, service_at,
};
pub use netns::Netns;
pub use node::Node;
pub use offload::{DEFAULT, NO_TX_CHECKSUM, Offload, TABLE as OFFLOADS};
pub use overruns::Overruns;
pub(crate) use owner::ip_batch;
pub use owner::{found, remove_leftovers};
pub use pass::Pass;
pub use place::{Place, Running};
pub use pod::{Pod, Wiring};
pub use probe::{Outcome, Outcomes, Probe, Protocol, Responder};
pub use prober::{Prober, SERVE as SERVE_PROBES, serve as serve_probes};
pub use server::Server;
pub use spare::WithSpare;
pub use sums::{Summed, Sums};
pub use talk::Call;
pub use way::{WORLDS, Way};
pub use wire::{BULK_PORT, ECHO_PORT, Greeting, HTTP_PORT, UDP_PORT, is_pattern, pattern};
pub use world::{Network, VXLAN, World, WorldOptions};

pub(crate) use bpf::run_summed;
pub(crate) use owner::{Owner, remove_cgroup};
pub(crate) use place::beside;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both, for tables of tests.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// The one of the two addresses that is of this family.
    pub fn pick(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }

    /// ClusterIP number `n`: 10.96.0.n or fd00:96::n.
    pub fn cluster_ip(self, n: u8) -> IpAddr {
        self.pick(Ipv4Addr::new(10, 96, 0, n), Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, n.into()))
    }

    /// Address of pod number `n` of a lab's only node: 10.244.0.n or fd00:244::n.
    pub fn pod_ip(self, n: u8) -> IpAddr {
        self.pod_ip_on(0, n)
    }

    /// Address of pod number `n` of node number `node`: 10.244.node.n or fd00:244:0:node::n.
    pub fn pod_ip_on(self, node: u8, n: u8) -> IpAddr {
        let v6 = Ipv6Addr::new(0xfd00, 0x244, 0, node.into(), 0, 0, 0, n.into());
        self.pick(Ipv4Addr::new(10, 244, node, n), v6)
    }

    /// The node's address.
    pub fn node_ip(self) -> IpAddr {
        self.pick(Ipv4Addr::new(192, 168, 50, 1), Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 1))
    }

    /// The address of the client outside.
    pub fn outside_ip(self) -> IpAddr {
        self.pick(Ipv4Addr::new(192, 168, 50, 2), Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 2))
    }
}

/// Both ClusterIPs number `n`.
pub fn cluster_ips(n: u8) -> [IpAddr; 2] {
    FAMILIES.map(|family| family.cluster_ip(n))
}

/// The node's device toward the outside.
pub const NIC: &str = "nic0";

/// One small world. All of it is gone when it is dropped.
#[derive(Debug)]
pub struct Lab {
    /// The node.
    pub node: Node,
    /// The client outside; its device is `eth0`.
    pub outside: Netns,
    /// The manifests that the agent reads.
    pub manifests: Manifests,
    pass: Option<Pass>,
    // Last, since it removes what the fields above still use.
    pub(crate) owner: Owner,
}

/// The MTU of Ethernet.
const MTU: u16 = 1500;

impl Lab {
    /// Makes the node and the outside. Needs root.
    pub fn new() -> Result<Self> {
        let owner = Owner::new()?;
        let manifests = Manifests::new(&owner.dir)?;
        let character = node::Character {
            name: "node",
            zone: "zone-a",
            number: 0,
            ips: FAMILIES.map(Family::node_ip),
            nics: &[NIC],
            wiring: Wiring::PointToPoint,
            mtu: MTU,
        };
        let node = Node::new(node::Home::only(&owner)?, character)?;
        let outside = Netns::new(&format!("{}-outside", owner.id))?;
        node.ip(&format!(
            "link add {NIC} type veth peer name eth0 netns {}
             addr add 192.168.50.1/24 dev {NIC}
             addr add fd00:50::1/64 dev {NIC} nodad
             link set {NIC} up\n",
            outside.name()
        ))?;
        outside.ip("addr add 192.168.50.2/24 dev eth0
             addr add fd00:50::2/64 dev eth0 nodad
             link set eth0 up
             route add default via 192.168.50.1
             route add default via fd00:50::1\n")?;
        node.ip("route add default via 192.168.50.2\nroute add default via fd00:50::2\n")?;
        // XDP at the NIC cannot see partial checksums, so a veth's peer must send whole ones, as a wire does.
        NO_TX_CHECKSUM.apply(&outside, "eth0")?;
        let pass = Some(Pass::xdp(&outside, "eth0")?);
        Ok(Self { node, outside, manifests, pass, owner })
    }

    /// Takes the XDP program away that is needed for `XDP_TX` to reach the outside: with it, the kernel fixes TSO of
    /// the node's NIC to off.
    pub fn without_xdp_outside(mut self) -> Self {
        drop(self.pass.take());
        self
    }

    /// [`Node::bare_pod`].
    pub fn bare_pod(&self, name: &str, n: u8) -> Result<Pod> {
        self.node.bare_pod(name, n)
    }

    /// [`Node::bare_pod_with_index`].
    pub fn bare_pod_with_index(&self, name: &str, n: u8, index: Option<u64>) -> Result<Pod> {
        self.node.bare_pod_with_index(name, n, index)
    }

    /// [`Node::pod`].
    pub fn pod(&self, name: &str, n: u8) -> Result<Pod> {
        self.node.pod(name, n)
    }

    /// Adds the pods `<app>-<n>` for each number, with servers and manifests.
    pub fn pods(&self, app: &str, numbers: impl IntoIterator<Item = u8>) -> Result<Vec<Pod>> {
        let pods = numbers.into_iter().map(|n| {
            let pod = self.pod(&format!("{app}-{n}"), n)?;
            self.declare(&pod, app)?;
            Ok(pod)
        });
        pods.collect()
    }

    /// Writes the manifest of a pod, as one of `app`.
    pub fn declare(&self, pod: &Pod, app: &str) -> Result<()> {
        self.manifests.write(&format!("{}.yaml", pod.name), &pod_manifest(&pod.name, app, &pod.ips))
    }

    /// The client outside.
    pub fn outside(&self) -> Place<'_> {
        Place { ns: &self.outside, cgroup: None }
    }

    /// [`Node::host`].
    pub fn host(&self) -> Place<'_> {
        self.node.host()
    }

    /// [`Node::process_in`].
    pub fn process_in<'a>(&'a self, pod: &'a Pod) -> Place<'a> {
        self.node.process_in(pod)
    }

    /// The lab's own folder.
    pub fn dir(&self) -> &Path {
        &self.owner.dir
    }

    /// The lab's own bpffs.
    pub fn bpffs(&self) -> PathBuf {
        self.node.pins().to_owned()
    }

    /// [`Node::run_dir`].
    pub fn run_dir(&self) -> PathBuf {
        self.node.run_dir()
    }

    /// The lab's own cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.owner.cgroup
    }

    /// The name that all parts of this lab begin with.
    pub fn id(&self) -> &str {
        &self.owner.id
    }
}

/// Leaves the calling test, saying why, unless kernel tests are asked for and possible.
#[macro_export]
macro_rules! kernel_or_skip {
    () => {
        if let Some(reason) = $crate::lab::reason_to_skip() {
            let thread = std::thread::current();
            eprintln!("SKIP {}: {reason}", thread.name().unwrap_or("test"));
            return Ok(());
        }
    };
}

/// Why kernel tests cannot run here, if so.
pub fn reason_to_skip() -> Option<&'static str> {
    if std::env::var_os("SLUICE_KERNEL_TESTS").is_none_or(|value| value != "1") {
        return Some("needs SLUICE_KERNEL_TESTS=1");
    }
    (!nix::unistd::geteuid().is_root()).then_some("needs root")
}
