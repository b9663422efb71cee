//! A world of three nodes on one switch, with clients outside on the same switch.
//!
//! ```text
//!  pods of node-a  10.244.0.n     node-a   192.168.50.11 ─┐
//!  pods of node-b  10.244.1.n     node-b   192.168.50.12 ─┤
//!  pods of node-c  10.244.2.n     node-c   192.168.50.13 ─┼─ switch, 192.168.50.1
//!  their routes lead by node-a    outside-a 192.168.50.2 ─┤
//!                  and by node-b  outside-b 192.168.50.3 ─┘
//! ```
//!
//! IPv6 is the same with fd00:50::n and fd00:244:0:node::n. Pods of different nodes reach each other as on a real
//! network of pods: by routes to the other nodes, or by VXLAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::{Result, ensure};

use super::node::{Character, Home};
use super::{FAMILIES, Family, MTU, NIC, NO_TX_CHECKSUM, Netns, Node, Owner, Pass, Place, Wiring};

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The nodes have routes to each other's pods.
    Routed,
    /// A VXLAN device on each node, as flannel makes it: packets to other nodes' pods travel inside UDP datagrams
    /// between the nodes.
    Vxlan,
}

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub struct WorldOptions {
    /// Between the nodes.
    pub network: Network,
    /// On each node.
    pub wiring: Wiring,
}

impl WorldOptions {
    /// Every kind of world.
    pub const ALL: [Self; 4] = [
        Self { network: Network::Routed, wiring: Wiring::PointToPoint },
        Self { network: Network::Routed, wiring: Wiring::Bridge },
        Self { network: Network::Vxlan, wiring: Wiring::PointToPoint },
        Self { network: Network::Vxlan, wiring: Wiring::Bridge },
    ];
}

/// Nodes: their names, their zones.
const NODES: [(&str, &str); 3] = [("node-a", "zone-a"), ("node-b", "zone-b"), ("node-c", "zone-b")];
/// Clients outside: their names, and the number of the node that leads them to everything.
const OUTSIDE: [(&str, u8); 2] = [("outside-a", 0), ("outside-b", 1)];

/// The last parts of addresses of the switch's network.
const GATEWAY: u8 = 1;
const FIRST_OUTSIDE: u8 = 2;
const FIRST_NODE: u8 = 11;

/// The device of [`Network::Vxlan`].
pub const VXLAN: &str = "vxlan0";
/// Bytes that VXLAN adds to each packet.
const OVERHEAD: u16 = 50;

/// The world. All of it is gone when it is dropped.
#[derive(Debug)]
pub struct World {
    /// In the order of their names.
    pub nodes: Vec<Node>,
    /// Clients that are no part of the cluster; their device is `eth0`.
    pub outside: Vec<Netns>,
    /// The switch; its ports have the names of those at their other ends.
    pub switch: Netns,
    passes: Vec<Pass>,
    // Last, since it removes what the fields above still use.
    pub(crate) owner: Owner,
}

impl World {
    /// Makes all nodes and clients. Needs root.
    pub fn new(options: WorldOptions) -> Result<Self> {
        let owner = Owner::new()?;
        let bpffs = owner.bpffs()?;
        let switch = Netns::new(&format!("{}-switch", owner.id))?;
        let [v4, v6] = on_switch(GATEWAY);
        switch.ip(&format!(
            "link add br0 type bridge mcast_snooping 0
             addr add {v4}/24 dev br0
             addr add {v6}/64 dev br0 nodad
             link set br0 up\n"
        ))?;
        let mut world = Self { nodes: Vec::new(), outside: Vec::new(), switch, passes: Vec::new(), owner };
        for (number, (name, zone)) in (0..).zip(NODES) {
            let (nics, mtu): (&[_], _) = match options.network {
                Network::Routed => (&[NIC], MTU),
                Network::Vxlan => (&[NIC, VXLAN], MTU - OVERHEAD),
            };
            let (ips, wiring) = (on_switch(FIRST_NODE + number), options.wiring);
            let home = Home::one_of(&world.owner, &bpffs, name)?;
            let node = Node::new(home, Character { name, zone, number, ips, nics, wiring, mtu })?;
            world.plug(&node, NIC, name, ips)?;
            // A refusal is an ICMP message, of which a client would else hear six, and then one a second.
            node.sysctl(&[("net/ipv4/icmp_ratelimit", "0"), ("net/ipv6/icmp/ratelimit", "0")])?;
            node.sysctl(&[("net/ipv4/icmp_msgs_per_sec", "100000"), ("net/ipv4/icmp_msgs_burst", "10000")])?;
            let [v4, v6] = on_switch(GATEWAY);
            node.ip(&format!("route add default via {v4}\nroute add default via {v6}\n"))?;
            match options.network {
                Network::Routed => route_to_pods(&node)?,
                Network::Vxlan => tunnel_to_pods(&node)?,
            }
            world.nodes.push(node);
        }
        for (number, (name, by)) in (0..).zip(OUTSIDE) {
            let ns = Netns::new(&format!("{}-{name}", world.owner.id))?;
            world.plug(&ns, "eth0", name, on_switch(FIRST_OUTSIDE + number))?;
            let [v4, v6] = on_switch(FIRST_NODE + by);
            ns.ip(&format!("route add default via {v4}\nroute add default via {v6}\n"))?;
            world.outside.push(ns);
        }
        Ok(world)
    }

    /// A client outside.
    pub fn outside(&self, number: usize) -> Place<'_> {
        Place { ns: &self.outside[number], cgroup: None }
    }

    /// The address of a client outside.
    pub fn outside_ip(family: Family, number: u8) -> IpAddr {
        let [v4, v6] = on_switch(FIRST_OUTSIDE + number);
        if family == Family::V4 { v4 } else { v6 }
    }

    /// The address of a node.
    pub fn node_ip(family: Family, number: usize) -> IpAddr {
        let [v4, v6] = on_switch(FIRST_NODE + number as u8);
        if family == Family::V4 { v4 } else { v6 }
    }

    /// Links `device` of a namespace to the switch.
    fn plug(&mut self, ns: &Netns, device: &str, port: &str, [v4, v6]: [IpAddr; 2]) -> Result<()> {
        // A node would tell neighbours of shorter ways, past the node that translates.
        ns.sysctl(&[("net/ipv4/conf/all/send_redirects", "0"), ("net/ipv4/conf/default/send_redirects", "0")])?;
        ns.sysctl(&[("net/ipv4/conf/all/accept_redirects", "0"), ("net/ipv6/conf/all/accept_redirects", "0")])?;
        ns.ip(&format!("link add {device} type veth peer name {port} netns {}\n", self.switch.name()))?;
        ns.sysctl(&[(&format!("net/ipv6/conf/{device}/accept_redirects"), "0")])?;
        self.switch.ip(&format!("link set {port} master br0 up\n"))?;
        ns.ip(&format!(
            "addr add {v4}/24 dev {device}
             addr add {v6}/64 dev {device} nodad
             link set {device} up\n"
        ))?;
        // As a wire has it, see `Lab`.
        NO_TX_CHECKSUM.apply(&self.switch, port)?;
        self.passes.push(Pass::xdp(&self.switch, port)?);
        Ok(())
    }
}

/// Addresses on the switch's network.
fn on_switch(last: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, last.into());
    [Ipv4Addr::new(192, 168, 50, last).into(), v6.into()]
}

/// Numbers and addresses of the other nodes.
fn others(node: &Node) -> impl Iterator<Item = (u8, [IpAddr; 2])> {
    let own = node.character.number;
    (0..NODES.len() as u8).filter(move |other| *other != own).map(|other| (other, on_switch(FIRST_NODE + other)))
}

fn route_to_pods(node: &Node) -> Result<()> {
    for (other, via) in others(node) {
        for (family, via) in FAMILIES.into_iter().zip(via) {
            node.ip(&format!("route add {} via {via}\n", pod_cidr(family, other)))?;
        }
    }
    Ok(())
}

/// As flannel does: the first address of a node's pods is that of its VXLAN device, and every node knows the device's
/// hardware address and behind which node it is.
fn tunnel_to_pods(node: &Node) -> Result<()> {
    let own = node.character.number;
    let [v4, v6] = FAMILIES.map(|family| family.pod_ip_on(own, 0));
    // A packet of a pod to another node itself goes without VXLAN, and the answer with it.
    node.sysctl(&[("net/ipv4/conf/all/rp_filter", "2")])?;
    node.ip(&format!(
        "link add {VXLAN} address {mac} mtu {mtu} type vxlan id 1 dstport 8472 local {local} dev {NIC} nolearning
         addr add {v4}/32 dev {VXLAN}
         addr add {v6}/128 dev {VXLAN} nodad
         link set {VXLAN} up\n",
        mac = mac(own),
        mtu = MTU - OVERHEAD,
        local = node.address(Family::V4),
    ))?;
    for (other, [behind, _]) in others(node) {
        for family in FAMILIES {
            let (via, cidr) = (family.pod_ip_on(other, 0), pod_cidr(family, other));
            node.ip(&format!(
                "neigh add {via} lladdr {} dev {VXLAN} nud permanent
                 route add {cidr} via {via} dev {VXLAN} onlink\n",
                mac(other)
            ))?;
        }
        let (mac, behind) = (mac(other), behind.to_string());
        let mut command = Command::new("bridge");
        command.args(["fdb", "append", &mac, "dev", VXLAN, "dst", &behind]);
        let status = node.spawn(&mut command)?.wait()?;
        ensure!(status.success(), "`bridge fdb append` ended with {status}");
    }
    Ok(())
}

fn pod_cidr(family: Family, node: u8) -> String {
    let prefix = if family == Family::V4 { 24 } else { 64 };
    format!("{}/{prefix}", family.pod_ip_on(node, 0))
}

fn mac(node: u8) -> String {
    format!("02:00:00:00:00:{node:02x}")
}
