//! What netlink says, reduced to what decisions need: plain values, so that tests write them by hand.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::Cidr;

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Whether its packets start with an Ethernet header.
    pub ethernet: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// Whether packets to other nodes travel inside others that leave by a NIC (VXLAN, Geneve).
    pub overlay: bool,
    /// Whether its other end is in another network namespace.
    pub peer_elsewhere: bool,
    /// Whether it joins others (and may have none to join).
    pub bridge: bool,
    /// Whether somebody switched it on.
    pub up: bool,
    /// The longest packet that it takes, in bytes from the IP header on.
    pub mtu: u32,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// What somebody wrote at it for people.
    pub alias: String,
    /// Whether packets of IPv4 may come in that have addresses of the node's own at both ends, also loopback addresses
    /// (`accept_local`, `route_localnet`).
    pub admits_own: bool,
    /// Of a VLAN (802.1Q): the index of the device whose tagged packets are its own.
    pub vlan_of: Option<u32>,
}

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the device.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Whether it is the node's own: of global scope, neither secondary, nor tentative, nor deprecated.
    pub own: bool,
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether of IPv6.
    pub v6: bool,
    /// Index of the device it leads to.
    pub index: u32,
    /// The smaller the better.
    pub metric: u32,
}

/// A route to Services, of an agent's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceRoute {
    /// Where it leads.
    pub to: Cidr,
    /// Index of the device that it leads by.
    pub index: u32,
    /// The address that the node speaks from there; none where it is the kernel's to choose.
    pub source: Option<IpAddr>,
    /// The longest packet that may go there; none where the device says so.
    pub mtu: Option<u32>,
}

/// Devices, addresses and routes of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Devices, by index.
    pub links: BTreeMap<u32, Link>,
    /// Their addresses.
    pub addresses: Vec<Address>,
    /// Default routes of the main table.
    pub routes: Vec<Route>,
    /// Routes to Services, sorted.
    pub service_routes: Vec<ServiceRoute>,
}
