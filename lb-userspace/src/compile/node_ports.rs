//! At which of this node's addresses NodePorts are (`--nodeport-addresses`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::model::Cidr;

/// At which of this node's addresses NodePorts are, as kube-proxy's option of the same name says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddresses(Vec<Addresses>);

/// A part of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// The node's primary address of each family.
    Primary,
    /// Loopback addresses.
    Localhost,
    /// All addresses.
    All,
    /// Those in a range.
    Range(Cidr),
}

/// A text is no such part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a range of addresses, such as 192.0.2.0/24, nor primary, localhost or all")]
pub struct NoAddresses;

impl FromStr for Addresses {
    type Err = NoAddresses;

    fn from_str(text: &str) -> Result<Self, NoAddresses> {
        Ok(match text {
            "primary" => Self::Primary,
            "localhost" => Self::Localhost,
            "all" => Self::All,
            range => Self::Range(around(range).ok_or(NoAddresses)?),
        })
    }
}

/// As kube-proxy takes it: bits beyond the prefix mean nothing.
fn around(range: &str) -> Option<Cidr> {
    let (ip, len) = range.split_once('/')?;
    Cidr::around(ip.parse().ok()?, len.parse().ok()?)
}

impl Default for NodePortAddresses {
    /// As kube-proxy's nftables mode has it.
    fn default() -> Self {
        Self(vec![Addresses::Primary])
    }
}

impl NodePortAddresses {
    /// A list of parts; the default where there are none.
    pub fn new(parts: Vec<Addresses>) -> Self {
        if parts.is_empty() { Self::default() } else { Self(parts) }
    }

    /// Those of the node's addresses at which NodePorts are.
    pub fn select(&self, own: &BTreeSet<IpAddr>, primary: &[IpAddr]) -> BTreeSet<IpAddr> {
        own.iter().copied().filter(|ip| self.has(*ip, primary)).collect()
    }

    /// Whether no part is of this family: then all its addresses count, as kube-proxy has it.
    fn forgets(&self, is_v6: bool) -> bool {
        !self.0.iter().any(|part| match part {
            Addresses::Range(range) => range.first.is_ipv6() == is_v6,
            Addresses::Primary | Addresses::Localhost | Addresses::All => true,
        })
    }

    fn has(&self, ip: IpAddr, primary: &[IpAddr]) -> bool {
        let has = |part: &Addresses| match part {
            Addresses::Primary => primary.contains(&ip),
            Addresses::Localhost => ip.is_loopback(),
            Addresses::All => true,
            Addresses::Range(range) => range.contains(ip),
        };
        self.forgets(ip.is_ipv6()) || self.0.iter().any(has)
    }
}

/// The node's primary address of each family: of those that its Node object names, internal before external, the first
/// that it really has; else the one that its devices suggest.
pub(super) fn primary(named: &[IpAddr], own: &BTreeSet<IpAddr>, found: [IpAddr; 2]) -> Vec<IpAddr> {
    let of_family = |found: IpAddr| {
        let named = named.iter().copied().find(|ip| ip.is_ipv6() == found.is_ipv6() && own.contains(ip));
        named.or_else(|| (!is_none(found)).then_some(found))
    };
    found.into_iter().filter_map(of_family).collect()
}

fn is_none(ip: IpAddr) -> bool {
    ip == Ipv4Addr::UNSPECIFIED || ip == Ipv6Addr::UNSPECIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn node_ports_are_where_the_list_says() {
        let own: BTreeSet<_> =
            ips(&["127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1"]).into_iter().collect();
        let primary = ips(&["10.0.0.1", "fd00::1"]);
        let rows: &[(&[&str], &str)] = &[
            (&[], "10.0.0.1 fd00::1"),
            (&["primary"], "10.0.0.1 fd00::1"),
            (&["localhost"], "127.0.0.1 ::1"),
            (&["primary", "localhost"], "10.0.0.1 127.0.0.1 ::1 fd00::1"),
            (&["all"], "10.0.0.1 127.0.0.1 192.0.2.1 ::1 2001:db8::1 fd00::1"),
            (&["192.0.2.9/24", "2001:db8::/32"], "192.0.2.1 2001:db8::1"),
            (&["127.0.0.0/8", "primary"], "10.0.0.1 127.0.0.1 fd00::1"),
            // kube-proxy: a family of which nothing is said has them at all addresses.
            (&["192.0.2.0/24"], "192.0.2.1 ::1 2001:db8::1 fd00::1"),
            (&["0.0.0.0/0", "fd00::/64"], "10.0.0.1 127.0.0.1 192.0.2.1 fd00::1"),
            (&["198.51.100.0/24", "primary"], "10.0.0.1 fd00::1"),
        ];
        for (parts, expected) in rows {
            let list = NodePortAddresses::new(parts.iter().map(|part| part.parse().unwrap()).collect());
            let selected: Vec<_> = list.select(&own, &primary).iter().map(ToString::to_string).collect();
            assert_eq!(selected.join(" "), *expected, "{parts:?}");
        }
        for wrong in ["", "everything", "10.0.0.1", "10.0.0.0/33", "Primary"] {
            assert_eq!(wrong.parse::<Addresses>(), Err(NoAddresses), "{wrong}");
        }
    }

    #[test]
    fn the_primary_address_is_the_one_that_the_node_object_names_if_the_node_has_it() {
        let own: BTreeSet<_> = ips(&["10.0.0.1", "192.0.2.1", "fd00::1"]).into_iter().collect();
        let found: [IpAddr; 2] = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap());
        let none: [IpAddr; 2] = ["0.0.0.0", "::"].map(|ip| ip.parse().unwrap());
        assert_eq!(primary(&ips(&["192.0.2.1"]), &own, found), ips(&["192.0.2.1", "fd00::1"]));
        assert_eq!(primary(&ips(&["203.0.113.9", "192.0.2.1"]), &own, found), ips(&["192.0.2.1", "fd00::1"]));
        assert_eq!(primary(&ips(&["203.0.113.9"]), &own, found), found);
        assert_eq!(primary(&[], &own, none), ips(&[]));
    }
}
