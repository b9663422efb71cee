//! What a device is to us: pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::route::LOOPBACK;

use super::service::ServiceLink;
use super::world::{Link, World};

/// What a device is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It leads to the world outside.
    Nic,
    /// It leads to a pod.
    Pod,
    /// It leads to other nodes, its packets inside those of a NIC.
    Overlay,
    /// It is the agent's own, and leads to Services: for those whose packets no other device shows.
    Service,
    /// It leads to the world outside, by a NIC whose packets with the tag of this VLAN are its own.
    Vlan,
    /// It leads to the node itself, and those of its packets that are to a Service there by the service device.
    Loopback,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Nic, Self::Pod, Self::Overlay, Self::Service, Self::Vlan, Self::Loopback];

    /// Its name in pins and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Nic => "nic",
            Self::Pod => "pod",
            Self::Overlay => "overlay",
            Self::Service => "service",
            Self::Vlan => "vlan",
            Self::Loopback => "loopback",
        }
    }
}

/// A device that needs programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
}

/// Which devices are which, as far as options say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globs {
    /// These are NICs.
    pub nics: Vec<String>,
    /// These lead to pods.
    pub pods: Vec<String>,
    /// The agent's own one, unless it shall have none.
    pub service: Option<ServiceLink>,
}

/// The node's own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// What there is to attach to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Devices that need programs, by index; the loopback device last, since it leads to the service device.
    pub devices: Vec<Device>,
    /// Names of devices that would need them, but have no Ethernet header.
    pub strange: Vec<String>,
    /// The node's own addresses.
    pub node: Nodes,
    /// All addresses that it has. Those of link-local scope are left out: they come and go with each pod.
    pub own: BTreeSet<IpAddr>,
    /// The longest packet that all of these devices take.
    pub mtu: Option<u32>,
}

/// A device without traffic to which kube-proxy binds all virtual IPs in its IPVS mode.
const IPVS: &str = "kube-ipvs0";

/// Looks at all devices.
pub fn survey(world: &World, globs: &Globs) -> Survey {
    let mut found = Survey { node: node(world, globs), own: own(world), ..Survey::default() };
    for (&index, link) in &world.links {
        match role(world, globs, index, link) {
            Some(role) if !link.ethernet && role != Role::Loopback => found.strange.push(link.name.clone()),
            Some(role) => {
                if !matches!(role, Role::Service | Role::Loopback) {
                    found.mtu = found.mtu.into_iter().chain([link.mtu]).min();
                }
                found.devices.push(Device { index, name: link.name.clone(), role });
            }
            None => {}
        }
    }
    found.devices.sort_by_key(|device| device.role == Role::Loopback);
    found
}

fn role(world: &World, globs: &Globs, index: u32, link: &Link) -> Option<Role> {
    if globs.service.as_ref().is_some_and(|ours| ours.is(link)) {
        return Some(Role::Service);
    }
    if globs.service.is_some() && index == LOOPBACK {
        return Some(Role::Loopback);
    }
    // XDP gains nothing where a packet has been a socket buffer before.
    let outward = match (link.overlay, link.vlan_of) {
        (true, _) => Role::Overlay,
        (false, Some(_)) => Role::Vlan,
        (false, None) => Role::Nic,
    };
    // What people name comes before what we guess.
    if leads_out(world, globs, index, link) {
        Some(outward)
    } else if named(&globs.pods, link) {
        Some(Role::Pod)
    } else if by_nic(world, globs, link) {
        Some(outward)
    } else if link.overlay {
        Some(Role::Overlay)
    } else if link.veth && link.peer_elsewhere {
        Some(Role::Pod)
    } else {
        None
    }
}

/// VLANs inside one another that are looked through. More than two are hardly ever seen.
const VLANS: usize = 8;

/// Whether it is a VLAN of a NIC, or one inside such a VLAN.
fn by_nic(world: &World, globs: &Globs, link: &Link) -> bool {
    let lower = |index: u32| world.links.get(&index);
    let mut below = std::iter::successors(link.vlan_of, |index| lower(*index)?.vlan_of).take(VLANS);
    below.any(|index| lower(index).is_some_and(|lower| leads_out(world, globs, index, lower)))
}

/// Whether a device is named as a NIC, or has a default route and is not named as a pod's.
fn leads_out(world: &World, globs: &Globs, index: u32, link: &Link) -> bool {
    let routed = || world.routes.iter().any(|route| route.index == index);
    named(&globs.nics, link) || (!named(&globs.pods, link) && routed())
}

fn named(globs: &[String], link: &Link) -> bool {
    globs.iter().any(|glob| matches(glob, &link.name))
}

fn own(world: &World) -> BTreeSet<IpAddr> {
    let link_local = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let virtual_ip = |index| world.links.get(&index).is_some_and(|link| link.name == IPVS);
    let real = world.addresses.iter().filter(|address| !virtual_ip(address.index));
    real.map(|address| address.ip).filter(|ip| !link_local(ip)).collect()
}

/// The first address of the NIC with the best default route, of each family; else of the first NIC that has one.
fn node(world: &World, globs: &Globs) -> Nodes {
    let mut routes: Vec<_> = world.routes.iter().collect();
    routes.sort_by_key(|route| (route.metric, route.index));
    let nics = || {
        let is_nic =
            |(index, link): &(&u32, &Link)| matches!(role(world, globs, **index, link), Some(Role::Nic | Role::Vlan));
        world.links.iter().filter(is_nic).map(|(index, _)| *index)
    };
    let first = |v6: bool| {
        let of_routes = routes.iter().filter(|route| route.v6 == v6).map(|route| route.index);
        of_routes.chain(nics()).find_map(|index| {
            let own = world.addresses.iter().filter(|address| address.own && address.index == index);
            own.map(|address| address.ip).find(|ip| ip.is_ipv6() == v6)
        })
    };
    Nodes {
        v4: first(false).and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
        v6: first(true).and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
    }
}

/// Whether a name is as a glob says: `*` stands for any characters, `?` for one.
fn matches(glob: &str, name: &str) -> bool {
    let mut rest = name.chars();
    let mut chars = glob.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => {
                let tail = chars.as_str();
                let mut name = rest.as_str();
                while !matches(tail, name) {
                    let mut shorter = name.chars();
                    if shorter.next().is_none() {
                        return false;
                    }
                    name = shorter.as_str();
                }
                return true;
            }
            '?' => {
                if rest.next().is_none() {
                    return false;
                }
            }
            c => {
                if rest.next() != Some(c) {
                    return false;
                }
            }
        }
    }
    rest.as_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::super::world::{Address, Route};
    use super::*;

    fn world() -> World {
        let link = |name: &str, ethernet, veth, peer_elsewhere| {
            let overlay = name.starts_with("vx");
            Link { name: name.to_owned(), ethernet, veth, overlay, peer_elsewhere, ..Link::default() }
        };
        let vlan = |name, index| Link { vlan_of: Some(index), ..link(name, true, false, false) };
        let links = [
            (1, link("lo", false, false, false)),
            (2, link("eth0", true, false, false)),
            (3, link("eth1", true, false, false)),
            (4, link("cni0", true, false, false)),
            (5, link("veth1a", true, true, true)),
            (6, link("veth2a", true, true, false)),
            (7, link("wg0", false, false, false)),
            (8, link("uplink", true, true, true)),
            (9, link("vx1", true, false, false)),
            (10, vlan("eth1.7", 3)),
            (11, vlan("eth1.7.8", 10)),
        ];
        World { links: links.into(), ..World::default() }
    }

    fn route(v6: bool, index: u32, metric: u32) -> Route {
        Route { v6, index, metric }
    }

    fn globs(nics: &[&str], pods: &[&str]) -> Globs {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Globs { nics: owned(nics), pods: owned(pods), service: None }
    }

    #[test]
    fn a_device_is_what_its_routes_its_peer_and_the_options_say() {
        let rows: &[(&str, Vec<Route>, Globs, &str)] = &[
            ("veths that lead elsewhere are pods'", vec![], globs(&[], &[]), "veth1a=pod uplink=pod vx1=overlay"),
            (
                "a default route makes a NIC",
                vec![route(false, 2, 0)],
                globs(&[], &[]),
                "eth0=nic veth1a=pod uplink=pod vx1=overlay",
            ),
            (
                "one of IPv6 too",
                vec![route(true, 3, 0)],
                globs(&[], &[]),
                "eth1=nic veth1a=pod uplink=pod vx1=overlay eth1.7=vlan eth1.7.8=vlan",
            ),
            ("also of a veth", vec![route(false, 8, 0)], globs(&[], &[]), "veth1a=pod uplink=nic vx1=overlay"),
            (
                "options add NICs",
                vec![route(false, 2, 0)],
                globs(&["eth*"], &[]),
                "eth0=nic eth1=nic veth1a=pod uplink=pod vx1=overlay eth1.7=vlan eth1.7.8=vlan",
            ),
            ("options add pods", vec![], globs(&[], &["cni?"]), "cni0=pod veth1a=pod uplink=pod vx1=overlay"),
            (
                "an option beats a guess",
                vec![route(false, 2, 0)],
                globs(&["veth1a"], &["eth0"]),
                "eth0=pod veth1a=nic uplink=pod vx1=overlay",
            ),
            (
                "VLANs of a NIC lead outside as well",
                vec![route(false, 3, 0)],
                globs(&[], &[]),
                "eth1=nic veth1a=pod uplink=pod vx1=overlay eth1.7=vlan eth1.7.8=vlan",
            ),
            (
                "one may have the default route alone",
                vec![route(false, 10, 0)],
                globs(&[], &[]),
                "veth1a=pod uplink=pod vx1=overlay eth1.7=vlan eth1.7.8=vlan",
            ),
            ("an overlay is one by any name", vec![], globs(&["vx*"], &[]), "veth1a=pod uplink=pod vx1=overlay"),
            (
                "no Ethernet, no programs",
                vec![route(false, 7, 0)],
                globs(&["lo"], &[]),
                "veth1a=pod uplink=pod vx1=overlay !lo !wg0",
            ),
        ];
        for (rule, routes, globs, expected) in rows {
            let world = World { routes: routes.clone(), ..world() };
            let found = survey(&world, globs);
            let devices = found.devices.iter().map(|device| format!("{}={}", device.name, device.role.label()));
            let strange = found.strange.iter().map(|name| format!("!{name}"));
            assert_eq!(devices.chain(strange).collect::<Vec<_>>().join(" "), *expected, "{rule}");
        }
    }

    #[test]
    fn the_loopback_device_has_a_program_where_there_is_a_service_device_to_lead_to() {
        let pins = std::path::Path::new("/pins");
        let ours = ServiceLink::new("sluice0", pins);
        let globs = Globs { service: Some(ours), ..Globs::default() };
        let found = survey(&world(), &globs).devices;
        let last = found.last().map(|device| (device.name.as_str(), device.role));
        assert_eq!((found[0].name.as_str(), last), ("veth1a", Some(("lo", Role::Loopback))));
        assert!(survey(&world(), &Globs::default()).devices.iter().all(|device| device.role != Role::Loopback));
    }

    #[test]
    fn the_nodes_addresses_are_those_of_the_nic_with_the_best_route() {
        let address = |index, ip: &str, own| Address { index, ip: ip.parse().unwrap(), own };
        let mut world = World { routes: vec![route(false, 2, 100), route(false, 3, 50), route(true, 2, 1)], ..world() };
        world.addresses = vec![
            address(1, "127.0.0.1", true),
            address(2, "192.0.2.1", true),
            address(2, "fe80::1", false),
            address(2, "2001:db8::1", true),
            address(3, "198.51.100.9", false),
            address(3, "198.51.100.1", true),
        ];
        let node = survey(&world, &Globs::default()).node;
        assert_eq!(node, Nodes { v4: "198.51.100.1".parse().ok(), v6: "2001:db8::1".parse().ok() });
        world.routes.clear();
        assert_eq!(survey(&world, &Globs::default()).node, Nodes::default());
        let named = survey(&world, &globs(&["eth0"], &[])).node;
        assert_eq!(named.v4, "192.0.2.1".parse().ok());
    }

    #[test]
    fn all_addresses_of_the_node_are_its_own_but_virtual_ips_that_another_proxy_bound() {
        let mut world = world();
        world.links.insert(12, Link { name: "kube-ipvs0".to_owned(), ethernet: true, ..Link::default() });
        let address = |index, ip: &str, own| Address { index, ip: ip.parse().unwrap(), own };
        world.addresses = vec![
            address(1, "127.0.0.1", false),
            address(4, "10.244.0.1", true),
            address(2, "192.0.2.1", true),
            address(2, "192.0.2.9", false),
            address(5, "fe80::1", false),
            address(12, "10.96.0.10", true),
        ];
        let own = survey(&world, &Globs::default()).own;
        let expected = ["127.0.0.1", "10.244.0.1", "192.0.2.1", "192.0.2.9"];
        assert_eq!(own, expected.map(|ip| ip.parse().unwrap()).into());
    }

    #[test]
    fn globs_match_as_in_a_shell() {
        for (glob, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("*", "", true),
            ("?", "", false),
            ("e*0", "eth10", true),
            ("e*0", "eth01", false),
            ("*a*b*", "xxaxxbxx", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(glob, name), expected, "{glob} {name}");
        }
    }
}
