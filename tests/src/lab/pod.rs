//! Pods, and the two ways in which CNIs wire them to their node.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::{FAMILIES, Family, Netns, Node, Place, Server};

/// How pods are wired to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// As Calico does: a point-to-point link, an address without a subnet, and a gateway that the node answers for.
    PointToPoint,
    /// As the plugin `bridge` does: all pods of a node are on one bridge, whose address is their gateway, and reach each
    /// other without the node's routing.
    Bridge,
}

/// The bridge of [`Wiring::Bridge`].
const BRIDGE: &str = "cni0";
/// Number of the gateway there.
const GATEWAY: u8 = 1;

impl Node {
    /// Makes what pods are wired to.
    pub(super) fn prepare_wiring(&self) -> Result<()> {
        if self.character.wiring == Wiring::PointToPoint {
            return Ok(());
        }
        let [v4, v6] = FAMILIES.map(|family| self.pod_ip(family, GATEWAY));
        self.ip(&format!(
            "link add {BRIDGE} mtu {} type bridge mcast_snooping 0
             addr add {v4}/24 dev {BRIDGE}
             addr add {v6}/64 dev {BRIDGE} nodad
             link set {BRIDGE} up\n",
            self.character.mtu
        ))
    }

    /// Adds pod number `n` (its addresses end in it), without servers.
    pub fn bare_pod(&self, name: &str, n: u8) -> Result<Pod> {
        self.bare_pod_with_index(name, n, None)
    }

    /// The same, but with this index for the node's end of its link, where one is given.
    pub fn bare_pod_with_index(&self, name: &str, n: u8, index: Option<u64>) -> Result<Pod> {
        let device = format!("pod-{name}");
        let index = index.map_or(String::new(), |index| format!("index {index} "));
        let ns = Netns::new(&format!("{}-{device}", self.home.id))?;
        let mtu = self.character.mtu;
        self.ip(&format!(
            "link add {device} {index}mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n",
            ns.name()
        ))?;
        let ips = FAMILIES.map(|family| self.pod_ip(family, n));
        match self.character.wiring {
            Wiring::PointToPoint => self.wire_point_to_point(&ns, &device, ips)?,
            Wiring::Bridge => self.wire_to_bridge(&ns, &device, ips)?,
        }
        Ok(Pod { name: name.to_owned(), ips, ns, device, server: None })
    }

    /// Adds pod number `n` with all servers.
    pub fn pod(&self, name: &str, n: u8) -> Result<Pod> {
        let mut pod = self.bare_pod(name, n)?;
        pod.server = Some(Server::start(&pod.ns, name)?);
        Ok(pod)
    }

    fn wire_point_to_point(&self, ns: &Netns, device: &str, [v4, v6]: [IpAddr; 2]) -> Result<()> {
        self.ip(&format!(
            "link set {device} address ee:ee:ee:ee:ee:ee addrgenmode none
             addr add fe80::1/64 dev {device} nodad\n"
        ))?;
        self.sysctl(&[
            (&format!("net/ipv4/conf/{device}/proxy_arp"), "1"),
            // An answer on behalf of another is else held back for up to 0.8 s.
            (&format!("net/ipv4/neigh/{device}/proxy_delay"), "0"),
        ])?;
        ns.ip(&format!(
            "addr add {v4}/32 dev eth0
             addr add {v6}/128 dev eth0 nodad
             link set eth0 up
             route add 169.254.1.1 dev eth0 scope link
             route add default via 169.254.1.1
             route add default via fe80::1 dev eth0\n"
        ))?;
        let [node4, node6] = self.character.ips;
        self.ip(&format!(
            "link set {device} up
             route add {v4}/32 dev {device} src {node4}
             route add {v6}/128 dev {device} src {node6}\n"
        ))
    }

    fn wire_to_bridge(&self, ns: &Netns, device: &str, [v4, v6]: [IpAddr; 2]) -> Result<()> {
        self.ip(&format!("link set {device} master {BRIDGE} addrgenmode none up\n"))?;
        let [gateway4, gateway6] = FAMILIES.map(|family| self.pod_ip(family, GATEWAY));
        ns.ip(&format!(
            "addr add {v4}/24 dev eth0
             addr add {v6}/64 dev eth0 nodad
             link set eth0 up
             route add default via {gateway4}
             route add default via {gateway6}\n"
        ))
    }
}

/// A pod. Dropping it ends its servers and removes its device and namespace at once.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// IPv4, IPv6.
    pub ips: [IpAddr; 2],
    /// Its namespace; its device there is `eth0`.
    pub ns: Netns,
    /// The host's end of its link, in the node's namespace.
    pub device: String,
    server: Option<Server>,
}

impl Pod {
    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        let [v4, v6] = self.ips;
        if family == Family::V4 { v4 } else { v6 }
    }

    /// Its address of a family, with a port.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// A client in it, outside the lab's cgroup.
    pub fn client(&self) -> Place<'_> {
        Place { ns: &self.ns, cgroup: None }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.server.take());
        // The namespace itself goes later, when the kernel finds the time; its device must not.
        let _ = self.ns.ip("link del eth0\n");
    }
}
