//! Which of a Service's addresses and ports are programmed: an entry must never take packets that are meant for the node
//! itself, or for nobody in particular.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::ip::Ip;

use crate::ip_of;
use crate::model::{Protocol, Service, ServicePort};

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

/// Why an address cannot be a Service's on a node that has these itself.
pub(super) fn refusal(ip: IpAddr, own: &BTreeSet<IpAddr>) -> Option<&'static str> {
    special(ip).or_else(|| own.contains(&ip).then_some("it is an address of this node itself"))
}

/// The virtual IPs of a Service in a family, without those that are refused.
pub(super) fn programmed<A: Ip>(service: &Service, own: &BTreeSet<IpAddr>) -> Vec<A> {
    let sound: Vec<_> = service.cluster_ips.iter().copied().filter(|ip| refusal(*ip, own).is_none()).collect();
    ip_of::<A>(&sound).collect()
}

/// Whether the packet path translates a port's protocol.
pub(super) fn is_translated(port: &ServicePort) -> bool {
    port.protocol != Protocol::Sctp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_node_and_those_of_a_special_kind_are_refused() {
        let own = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
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
            let why = refusal(ip.parse().unwrap(), &own);
            match expected {
                None => assert_eq!(why, None, "{ip}"),
                Some(word) => assert!(why.is_some_and(|why| why.contains(word)), "{ip}: {why:?}"),
            }
        }
    }
}
