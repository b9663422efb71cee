//! At which addresses and ports a Service is programmed: an entry must never take packets that are meant for the node
//! itself, or for nobody in particular.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::ip::{Be16, Ip};
use lb_common::tables::{FrontendKey, Kind};

use crate::model::Service;

/// A frontend that a Service would like to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wish<A: Ip> {
    pub(super) key: FrontendKey<A>,
    pub(super) kind: Kind,
    /// Which of its ports it is for, counted from 0; 0 for an address as a whole.
    pub(super) port: u32,
    /// Whether the address is the node's own.
    pub(super) own: bool,
}

/// What of this node matters to addresses of Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// All addresses that it has.
    pub(super) own: BTreeSet<IpAddr>,
    /// Those among them at which NodePorts are.
    pub(super) node_ports: BTreeSet<IpAddr>,
    /// Whether external IPs are programmed at all.
    pub(super) external_ips: bool,
}

/// Why an address cannot be a Service's, on whichever node.
fn special(ip: IpAddr) -> Option<&'static str> {
    let (link_local, broadcast, mapped) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.is_broadcast(), false),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), false, ip.to_ipv4_mapped().is_some()),
    };
    let kinds = [
        (ip.is_unspecified(), "it stands for no address"),
        (ip.is_loopback(), "it is a loopback address"),
        (ip.is_multicast(), "it is a multicast address"),
        (link_local, "it is a link-local address"),
        (broadcast, "it is the broadcast address"),
        (mapped, "it is an IPv4 address mapped to IPv6"),
    ];
    kinds.into_iter().find_map(|(is, why)| is.then_some(why))
}

/// Why a virtual IP is not programmed on this node. One of the cluster's must not be the node's: all that comes to it is
/// the Service's. Of others only the Service's ports are, so that they may be.
pub(super) fn refusal(kind: Kind, ip: IpAddr, place: &Place) -> Option<&'static str> {
    let clash = kind == Kind::ClusterIp && place.own.contains(&ip);
    special(ip).or_else(|| clash.then_some("it is an address of this node itself"))
}

/// The frontends that a Service would like to have in a family, sorted, each once. A family of which it has no virtual IP
/// is none of its.
pub(super) fn wishes<A: Ip>(service: &Service, place: &Place) -> Vec<Wish<A>> {
    let mut wishes = Vec::new();
    if !service.cluster_ips.iter().any(|ip| A::from_ip(*ip).is_some()) {
        return wishes;
    }
    for (i, port) in (0..).zip(&service.ports) {
        let mut add = |kind, ip: IpAddr, number| {
            let Some(addr) = A::from_ip(ip) else { return };
            let key = FrontendKey::new(addr, Be16::new(number), port.protocol.number());
            wishes.push(Wish { key, kind, port: i, own: place.own.contains(&ip) });
        };
        for (kind, ip) in virtual_ips(service, place).filter(|(kind, ip)| refusal(*kind, *ip, place).is_none()) {
            add(kind, ip, port.port);
        }
        if let Some(number) = port.node_port {
            place.node_ports.iter().for_each(|ip| add(Kind::NodePort, *ip, number));
        }
    }
    // Packets to a virtual IP of which no port is ours are none of our business. Of others than the cluster's own only the
    // ports are.
    let mut whole: Vec<_> = wishes
        .iter()
        .filter(|wish| wish.kind == Kind::ClusterIp)
        .map(|wish| Wish { key: FrontendKey::whole(wish.key.addr), port: 0, ..*wish })
        .collect();
    wishes.append(&mut whole);
    wishes.sort_unstable();
    wishes.dedup_by_key(|wish| wish.key);
    wishes
}

/// Its addresses, but those of nodes.
pub(super) fn virtual_ips(service: &Service, place: &Place) -> impl Iterator<Item = (Kind, IpAddr)> {
    let of = |kind, ips: &[IpAddr]| ips.iter().map(move |ip| (kind, *ip)).collect::<Vec<_>>();
    let external = if place.external_ips { &service.external_ips[..] } else { &[] };
    of(Kind::ClusterIp, &service.cluster_ips)
        .into_iter()
        .chain(of(Kind::LoadBalancer, &service.load_balancer_ips))
        .chain(of(Kind::ExternalIp, external))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_node_and_those_of_a_special_kind_are_refused() {
        let place =
            Place { own: ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into(), ..Place::default() };
        let rows = [
            ("10.96.0.10", None),
            ("fd00:96::a", None),
            ("2001:db8::2", None),
            ("0.0.0.0", Some("no address")),
            ("::", Some("no address")),
            ("127.0.0.1", Some("loopback")),
            ("127.9.9.9", Some("loopback")),
            ("::1", Some("loopback")),
            ("224.0.0.1", Some("multicast")),
            ("239.255.255.255", Some("multicast")),
            ("ff02::1", Some("multicast")),
            ("169.254.20.10", Some("link-local")),
            ("fe80::1", Some("link-local")),
            ("febf::1", Some("link-local")),
            ("255.255.255.255", Some("broadcast")),
            ("::ffff:10.96.0.10", Some("mapped")),
            ("192.0.2.1", Some("this node")),
            ("2001:db8::1", Some("this node")),
        ];
        for (ip, expected) in rows {
            let why = refusal(Kind::ClusterIp, ip.parse().unwrap(), &place);
            match expected {
                None => assert_eq!(why, None, "{ip}"),
                Some(word) => assert!(why.is_some_and(|why| why.contains(word)), "{ip}: {why:?}"),
            }
        }
    }
}
