//! A client beyond a router, which is the outside of the lab: packets of its own may be too large for the link between the
//! two, or live too short.
//!
//! ```text
//!  far                outside              node
//!  eth0 ──── veth ─── far0   eth0 ── veth ── nic0
//!  192.168.60.2       192.168.60.1
//!  fd00:60::2         fd00:60::1
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::{Family, Lab, NO_TX_CHECKSUM, Netns, Place};

/// The client's namespace; its device is `eth0`, that of the router `far0`.
#[derive(Debug)]
pub struct Far {
    /// The client.
    pub ns: Netns,
}

impl Far {
    /// The client's address.
    pub fn ip(family: Family) -> IpAddr {
        family.pick(Ipv4Addr::new(192, 168, 60, 2), Ipv6Addr::new(0xfd00, 0x60, 0, 0, 0, 0, 0, 2))
    }

    /// Where its loads run.
    pub fn place(&self) -> Place<'_> {
        Place { ns: &self.ns, cgroup: None }
    }
}

impl Lab {
    /// Makes the outside a router, with a client behind it.
    pub fn far(&self) -> Result<Far> {
        let ns = Netns::new(&format!("{}-far", self.id()))?;
        self.outside.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        self.outside.ip(&format!(
            "link add far0 type veth peer name eth0 netns {}
             addr add 192.168.60.1/24 dev far0
             addr add fd00:60::1/64 dev far0 nodad
             link set far0 up\n",
            ns.name()
        ))?;
        ns.ip("addr add 192.168.60.2/24 dev eth0
             addr add fd00:60::2/64 dev eth0 nodad
             link set eth0 up
             route add default via 192.168.60.1
             route add default via fd00:60::1\n")?;
        // What it sends comes to XDP at the node with the checksum that it left here.
        NO_TX_CHECKSUM.apply(&ns, "eth0")?;
        Ok(Far { ns })
    }
}
