//! Addresses that clients outside of the cluster call. The rows follow kube-proxy 1.37 (`pkg/proxy/nftables/proxier.go`).

use std::fmt::Write as _;
use std::net::IpAddr;

use lb_common::ip::{Ip, V4, V6};
use lb_common::mem::Of;
use lb_common::tables::{Origin, backend, frontend};

use super::*;
use crate::compile::Elsewhere;

/// A node with two addresses of each family. The first is the primary one.
fn world() -> World {
    let mut world = World::new(Limits::default());
    world.node.config.node_v4 = std::net::Ipv4Addr::new(192, 0, 2, 1).into();
    world.node.config.node_v6 = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().into();
    world.node.own =
        ips(&["127.0.0.1", "::1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]).into_iter().collect();
    world
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// A Service with port 80 at 10.96.0.1, and NodePort 30080.
fn node_port(name: &str) -> Service {
    let mut service = service(name, "10.96.0.1");
    service.kind = ServiceType::NodePort;
    service.ports[0].node_port = Some(30080);
    service
}

/// Endpoints by the last byte of their address; those on this node with a star: `1* 2`.
fn endpoints(service: &str, list: &str) -> Event {
    let mut slice = slice(service, 0);
    slice.endpoints = list
        .split_whitespace()
        .map(|word| Endpoint {
            address: [10, 1, 0, word.trim_end_matches(['*', '~']).parse().unwrap()].into(),
            ready: !word.ends_with('~'),
            serving: true,
            terminating: word.ends_with('~'),
            node: Some(if word.contains('*') { "node" } else { "other" }.into()),
            hints: None,
        })
        .collect();
    Event::EndpointSlice(Change::Apply(slice))
}

/// `address:port inside | outside`, one a line: the last bytes of backends' addresses, `refuse` or `drop`; `own` where the
/// address is the node's.
fn shown<A: Of>(world: &World) -> String {
    let image = world.compiler.image();
    let mut text = String::new();
    for (key, found) in &A::side(image).frontends {
        let fate = |origin| {
            let table = found.table(origin);
            let ids: BTreeSet<_> =
                image.runs.get(&table.at).filter(|_| table.len > 0).iter().flat_map(|run| run.iter()).collect();
            let last = |id: &u32| {
                let backend = A::side(image).backends[id];
                let ip: IpAddr = backend.addr.into();
                let last = ip.to_string().rsplit(['.', ':']).next().unwrap_or_default().to_owned();
                last + if backend.flags & backend::LOCAL != 0 { "*" } else { "" }
            };
            match (ids.is_empty(), found.is_elsewhere(origin)) {
                (true, false) => "refuse".to_owned(),
                (true, true) => "drop".to_owned(),
                (false, _) => ids.iter().map(last).collect::<Vec<_>>().join(" "),
            }
        };
        let own = if found.flags & frontend::OWN_ADDRESS != 0 { " own" } else { "" };
        let (inside, outside) = (fate(Origin::Inside), fate(Origin::Outside));
        writeln!(text, "{:?}:{:?} {inside} | {outside}{own}", key.addr, key.port).unwrap();
    }
    text
}

#[test]
fn a_node_port_is_a_port_of_the_nodes_primary_addresses_and_of_nothing_else_of_them() {
    let mut world = world();
    let mut both = node_port("a");
    both.cluster_ips.push("fd00:96::1".parse().unwrap());
    world.apply(Event::Service(Change::Apply(both))).apply(endpoints("a", "1* 2"));
    assert!(world.run().is_empty());
    let v4 = "10.96.0.1:0 refuse | refuse\n10.96.0.1:80 1* 2 | 1* 2\n192.0.2.1:30080 1* 2 | 1* 2 own\n";
    assert_eq!(shown::<V4>(&world), v4);
    let v6 = "2001:db8::1:30080 refuse | refuse own\nfd00:96::1:0 refuse | refuse\nfd00:96::1:80 refuse | refuse\n";
    assert_eq!(shown::<V6>(&world), v6);
    // Without a virtual IP of a family it has nothing in it.
    world.apply(Event::Service(Change::Apply(node_port("a")))).run();
    assert_eq!((shown::<V4>(&world).as_str(), shown::<V6>(&world).as_str()), (v4, ""));
    // Where the list says, and as the node's addresses come and go.
    world.node.node_ports = NodePortAddresses::new(vec![Addresses::All]);
    world.run();
    let at = |world: &World| {
        let frontends = world.compiler.image().v4.frontends.keys();
        let at = frontends.filter(|key| key.port.get() == 30080).map(|key| format!("{:?}", key.addr));
        at.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(at(&world), "127.0.0.1 192.0.2.1 192.0.2.2");
    world.node.own.remove(&ips(&["192.0.2.2"])[0]);
    world.node.own.insert(ips(&["198.51.100.1"])[0]);
    world.run();
    assert_eq!(at(&world), "127.0.0.1 192.0.2.1 198.51.100.1");
    world.remove("a").run();
    assert!(world.wait(3).run().is_empty());
    assert_eq!(world.compiler.image(), &Image { config: world.node.config, ..Image::default() });
}

#[test]
fn a_node_object_names_the_primary_address() {
    let mut world = world();
    let addresses = ips(&["203.0.113.1", "192.0.2.2"]);
    let node = crate::model::Node { addresses, ..crate::model::Node::new(ObjectName::new("", "node")) };
    world.apply(Event::Node(Change::Apply(node))).apply(Event::Service(Change::Apply(node_port("a")))).run();
    assert!(shown::<V4>(&world).contains("192.0.2.2:30080") && !shown::<V4>(&world).contains("192.0.2.1"));
}

#[test]
fn other_ports_of_external_addresses_are_not_refused() {
    let mut world = world();
    let mut service = node_port("a");
    service.kind = ServiceType::LoadBalancer;
    service.external_ips = ips(&["198.51.100.1", "2001:db8::99", "192.0.2.2"]);
    service.load_balancer_ips = ips(&["198.51.100.2", "192.0.2.1"]);
    world.apply(Event::Service(Change::Apply(service))).apply(endpoints("a", "1"));
    assert!(world.run().is_empty());
    let expected = "10.96.0.1:0 refuse | refuse\n10.96.0.1:80 1 | 1\n\
                    192.0.2.1:80 1 | 1 own\n192.0.2.1:30080 1 | 1 own\n192.0.2.2:80 1 | 1 own\n\
                    198.51.100.1:80 1 | 1\n198.51.100.2:80 1 | 1\n";
    assert_eq!(shown::<V4>(&world), expected);
    world.node.external_ips = false;
    world.run();
    let without = expected.replace("192.0.2.2:80 1 | 1 own\n198.51.100.1:80 1 | 1\n", "");
    assert_eq!(shown::<V4>(&world), without);
}

#[test]
fn external_addresses_of_a_special_kind_are_refused_alone() {
    let mut world = world();
    let mut service = node_port("a");
    service.external_ips = ips(&["127.0.0.1", "198.51.100.1"]);
    service.load_balancer_ips = ips(&["224.0.0.1"]);
    service.left_out = vec!["spec.externalIPs[2]: `x` is not an IP address".into()];
    world.apply(Event::Service(Change::Apply(service)));
    let expected = [
        "Service ns/a: spec.externalIPs[2]: `x` is not an IP address; it is left out",
        "Service ns/a: load-balancer IP 224.0.0.1 is not programmed: it is a multicast address",
        "Service ns/a: externalIP 127.0.0.1 is not programmed: it is a loopback address",
    ];
    assert_eq!(world.run(), expected);
    assert_eq!(world.reasons(), ["InvalidObject", "AddressRefused", "AddressRefused"]);
    assert!(shown::<V4>(&world).contains("198.51.100.1:80"));
}

#[test]
fn traffic_policies_row_by_row() {
    use TrafficPolicy::{Cluster, Local};
    // Policies, endpoints, then the ClusterIP, the NodePort, and what kube-proxy counts as without local endpoints.
    let rows = [
        (Cluster, Cluster, "1* 2", "1* 2 | 1* 2", "1* 2 | 1* 2", [0, 0]),
        (Cluster, Local, "1* 2", "1* 2 | 1* 2", "1* 2 | 1*", [0, 0]),
        (Local, Cluster, "1* 2", "1* | 1*", "1* 2 | 1* 2", [0, 0]),
        (Local, Local, "1* 2", "1* | 1*", "1* 2 | 1*", [0, 0]),
        (Cluster, Local, "2", "2 | 2", "2 | drop", [0, 1]),
        (Local, Cluster, "2", "drop | drop", "2 | 2", [1, 0]),
        (Local, Local, "2", "drop | drop", "2 | drop", [1, 1]),
        (Local, Local, "", "refuse | refuse", "refuse | refuse", [0, 0]),
        // Each set has its own last resort.
        (Cluster, Local, "1*~ 2", "2 | 2", "2 | 1*", [0, 0]),
        (Local, Cluster, "1*~ 2", "1* | 1*", "2 | 2", [0, 0]),
        (Cluster, Local, "1*~ 2~", "1* 2 | 1* 2", "1* 2 | 1*", [0, 0]),
        (Cluster, Local, "2~", "2 | 2", "2 | drop", [0, 1]),
    ];
    for (internal_policy, external_policy, list, cluster_ip, node, [internal, external]) in rows {
        let mut world = world();
        let service = Service { internal_policy, external_policy, ..node_port("a") };
        world.apply(Event::Service(Change::Apply(service))).apply(endpoints("a", list));
        assert!(world.run().is_empty());
        let expected = format!("10.96.0.1:0 refuse | refuse\n10.96.0.1:80 {cluster_ip}\n192.0.2.1:30080 {node} own\n");
        let row = format!("{internal_policy:?} {external_policy:?} {list}");
        assert_eq!(shown::<V4>(&world), expected, "{row}");
        assert_eq!(world.compiler.elsewhere(), Elsewhere { internal, external }, "{row}");
        world.remove("a").run();
        assert_eq!(world.compiler.elsewhere(), Elsewhere::default(), "{row}");
    }
}

#[test]
fn who_may_have_an_address_and_port_is_what_the_cluster_gave_out_before_what_an_author_names() {
    let mut world = world();
    // By name the thief comes first.
    let mut thief = service("a", "10.96.0.9");
    thief.external_ips = ips(&["10.96.0.1", "192.0.2.1"]);
    thief.ports[0].port = 30080;
    let mut other = thief.ports[0].clone();
    (other.name, other.port) = ("b".into(), 80);
    thief.ports[0].name = "a".into();
    thief.ports.push(other);
    world.apply(Event::Service(Change::Apply(thief)));
    world.apply(Event::Service(Change::Apply(node_port("b")))).apply(endpoints("b", "1"));
    let expected = [
        "Service ns/a: 192.0.2.1 port 30080/TCP: Service ns/b has it",
        "Service ns/a: 10.96.0.1 port 80/TCP: Service ns/b has it",
    ];
    assert_eq!(world.run(), expected);
    assert_eq!(world.reasons(), ["PortClash"; 2]);
    let shown_now = shown::<V4>(&world);
    for line in [
        "10.96.0.1:80 1 | 1\n",
        "10.96.0.1:30080 refuse | refuse\n",
        "192.0.2.1:30080 1 | 1 own\n",
        "192.0.2.1:80 refuse | refuse own\n",
    ] {
        assert!(shown_now.contains(line), "{line}\n{shown_now}");
    }
    // Where nobody else wants it, the author has it; and he loses it again.
    assert!(world.remove("b").run().is_empty());
    assert!(shown::<V4>(&world).contains("10.96.0.1:80 refuse"));
    world.apply(Event::Service(Change::Apply(node_port("b"))));
    assert_eq!(world.run(), expected);
}

#[test]
fn of_services_that_want_one_node_port_the_first_by_name_has_it_and_the_other_is_told_once() {
    let mut world = world();
    world.node.node_ports = NodePortAddresses::new(vec![Addresses::All]);
    let mut second = node_port("b");
    second.cluster_ips = ips(&["10.96.0.2"]);
    world.apply(Event::Service(Change::Apply(second))).apply(Event::Service(Change::Apply(node_port("a"))));
    world.apply(endpoints("a", "1")).apply(endpoints("b", "2"));
    assert_eq!(world.run(), ["Service ns/b: nodePort 30080/TCP: Service ns/a has it"]);
    assert!(
        shown::<V4>(&world).contains("192.0.2.1:30080 1 | 1") && shown::<V4>(&world).contains("10.96.0.2:80 2 | 2")
    );
    // Another protocol is another port.
    let mut second = node_port("b");
    second.cluster_ips = ips(&["10.96.0.2"]);
    second.ports[0].protocol = Protocol::Udp;
    assert!(world.apply(Event::Service(Change::Apply(second))).run().is_empty());
}

#[test]
fn one_address_that_a_service_has_twice_is_one_frontend() {
    let mut world = world();
    let mut service = node_port("a");
    service.external_ips = ips(&["198.51.100.1", "198.51.100.1"]);
    service.load_balancer_ips = ips(&["198.51.100.1"]);
    assert!(world.apply(Event::Service(Change::Apply(service))).run().is_empty());
    let expected = "10.96.0.1:0 refuse | refuse\n10.96.0.1:80 refuse | refuse\n192.0.2.1:30080 refuse | refuse own\n198.51.100.1:80 refuse | refuse\n";
    assert_eq!(shown::<V4>(&world), expected);
}

#[test]
fn a_virtual_ip_that_becomes_the_nodes_own_keeps_its_ports_and_leaves_the_rest_to_the_node() {
    let mut world = world();
    let mut service = service("a", "10.96.0.1");
    service.external_ips = ips(&["198.51.100.1"]);
    world.apply(Event::Service(Change::Apply(service))).run();
    let key = FrontendKey::new(V4::from_ip(ips(&["198.51.100.1"])[0]).unwrap(), lb_common::ip::Be16::new(80), 6);
    let bit = |world: &World| world.compiler.image().v4.frontends[&key].bit(&key);
    let before = bit(&world);
    assert!(world.compiler.image().filter.contains(&before));
    world.node.own.extend(ips(&["198.51.100.1"]));
    assert!(world.run().is_empty());
    let after = bit(&world);
    let filter = &world.compiler.image().filter;
    assert!(before != after && filter.contains(&after) && !filter.contains(&before));
}

/// `address:port`, of frontends that ask for source ranges; then these, as in manifests.
fn limits(world: &World) -> (String, String) {
    let side = &world.compiler.image().v4;
    let limited = side.frontends.iter().filter(|(_, found)| found.flags & frontend::SOURCE_RANGES != 0);
    let limited = limited.map(|(key, _)| format!("{:?}:{:?}", key.addr, key.port)).collect::<Vec<_>>();
    let ranges = side.ranges.iter().map(|(key, len)| format!("{}={:?}/{}", key.service, key.addr, len - 32));
    (limited.join(" "), ranges.collect::<Vec<_>>().join(" "))
}

#[test]
fn source_ranges_limit_load_balancer_ips_and_nothing_else() {
    let mut world = world();
    let mut service = node_port("a");
    service.kind = ServiceType::LoadBalancer;
    service.load_balancer_ips = ips(&["198.51.100.1", "2001:db8::9"]);
    service.external_ips = ips(&["198.51.100.2"]);
    let mut with = |ranges: &[&str], service: &mut Service| {
        service.source_ranges.ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        world.apply(Event::Service(Change::Apply(service.clone()))).run();
        limits(&world)
    };
    let of = |limited: &str, ranges: &str| (limited.to_owned(), ranges.to_owned());
    assert_eq!(with(&[], &mut service), of("", ""));
    let twice = with(&["10.0.0.0/8", "192.0.2.0/24"], &mut service);
    assert_eq!(twice, of("198.51.100.1:80", "1=10.0.0.0/8 1=192.0.2.0/24"));
    assert_eq!(with(&["10.0.0.0/8", "10.0.0.0/16"], &mut service), of("198.51.100.1:80", "1=10.0.0.0/8 1=10.0.0.0/16"));
    // One that holds everything is no limit, nor is one of the other family.
    assert_eq!(with(&["10.0.0.0/8", "0.0.0.0/0"], &mut service), of("", ""));
    assert_eq!(with(&["fd00::/8"], &mut service), of("", ""));
    // One that cannot be read opens nothing.
    service.source_ranges.unreadable = true;
    assert_eq!(with(&["fd00::/8"], &mut service), of("198.51.100.1:80", ""));
    // Each port has its own.
    let mut more = service.ports[0].clone();
    (more.name, more.port, more.node_port) = ("b".into(), 81, None);
    service.ports.push(more);
    assert_eq!(with(&["10.0.0.0/8"], &mut service).1, "1=10.0.0.0/8 2=10.0.0.0/8");
    service.ports.pop();
    assert_eq!(with(&["10.0.0.0/8"], &mut service).1, "1=10.0.0.0/8");
    service.load_balancer_ips.clear();
    assert_eq!(with(&["10.0.0.0/8"], &mut service), of("", ""));
    service.load_balancer_ips = ips(&["198.51.100.1"]);
    with(&["10.0.0.0/8"], &mut service);
    service.kind = ServiceType::ExternalName;
    assert_eq!(with(&["10.0.0.0/8"], &mut service), of("", ""));
}

#[test]
fn ranges_without_room_stay_out_until_there_is_some() {
    let mut world = world();
    world.compiler = Compiler::new(Limits { source_ranges: 2, ..Limits::default() }, Rest::DEFAULT);
    let mut first = node_port("a");
    first.load_balancer_ips = ips(&["198.51.100.1"]);
    first.source_ranges.ranges = vec!["10.0.0.0/8".parse().unwrap()];
    let mut second = service("b", "10.96.0.2");
    second.load_balancer_ips = ips(&["198.51.100.2"]);
    second.source_ranges.ranges = ["10.0.0.0/8", "192.0.2.0/24"].map(|range| range.parse().unwrap()).to_vec();
    world.apply(Event::Service(Change::Apply(first))).apply(Event::Service(Change::Apply(second)));
    let text =
        "Service ns/b: port 80: no room for 1 source ranges, whose clients stay out; enlarge --max-source-ranges";
    assert_eq!(world.run(), [text]);
    assert_eq!(limits(&world).0, "198.51.100.1:80 198.51.100.2:80");
    world.remove("a").run();
    assert!(world.run().is_empty());
    assert_eq!(limits(&world).1, "2=10.0.0.0/8 2=192.0.2.0/24");
}

#[test]
fn affinity_stands_in_ticks_at_every_frontend_of_the_port() {
    let mut world = world();
    let stay = |seconds| Service { affinity: Some(seconds), ..node_port("a") };
    for (seconds, ticks) in [(1, 1), (2, 2), (10, 10), (15, 14), (10_800, 10_059), (86_400, 80_467)] {
        world.apply(Event::Service(Change::Apply(stay(seconds)))).run();
        let frontends = world.compiler.image().v4.frontends.iter().filter(|(key, _)| key.proto != 0);
        assert_eq!(frontends.map(|(_, found)| found.affinity).collect::<Vec<_>>(), [ticks, ticks], "{seconds}");
    }
}

#[test]
fn what_load_balancers_hear_follows_services_endpoints_and_addresses() {
    let mut world = world();
    let told = |world: &World| {
        let checks = world.compiler.health_checks();
        let services =
            checks.services.iter().map(|(name, check)| format!("{name} {} {:?}", check.port, check.endpoints));
        let addresses = checks.addresses.iter().map(ToString::to_string);
        services.chain(addresses).collect::<Vec<_>>().join(", ")
    };
    let local = Service {
        kind: ServiceType::LoadBalancer,
        external_policy: TrafficPolicy::Local,
        health_check_port: Some(32000),
        ..node_port("a")
    };
    world
        .apply(Event::Service(Change::Apply(local.clone())))
        .apply(Event::Service(Change::Apply(node_port("b"))))
        .run();
    assert_eq!(told(&world), "ns/a 32000 [Some(0), None], 192.0.2.1, 2001:db8::1");
    world.apply(endpoints("a", "1* 2 3* 4*~")).run();
    assert_eq!(told(&world), "ns/a 32000 [Some(2), None], 192.0.2.1, 2001:db8::1");
    let before = world.compiler.health_checks();
    world.apply(endpoints("a", "1* 2 3*")).apply(endpoints("b", "1*")).run();
    assert!(Arc::ptr_eq(&before, &world.compiler.health_checks()), "nothing that it hears has changed");
    world.node.node_ports = NodePortAddresses::new(vec![Addresses::Localhost]);
    world.apply(endpoints("a", "4*~")).run();
    assert_eq!(told(&world), "ns/a 32000 [Some(0), None], 127.0.0.1, ::1");
    world.apply(Event::Service(Change::Apply(Service { other_proxy: true, ..local }))).run();
    assert_eq!(told(&world), "127.0.0.1, ::1");
}
