use std::net::IpAddr;

use lb_common::ip::{Family, V4, V6};

use super::*;
use crate::model::{EndpointPort, ObjectName, Protocol, TargetPort};

/// An endpoint in a line: address, then any of `ready`, `serving`, `terminating`, `on=node`, and hints, `node=x`, `zone=x`.
fn endpoint(line: &str) -> Endpoint {
    let mut words = line.split_whitespace();
    let address: IpAddr = words.next().and_then(|word| word.parse().ok()).expect("a line begins with an address");
    let mut endpoint = Endpoint { address, ready: false, serving: false, terminating: false, node: None, hints: None };
    for word in words {
        match word.split_once('=') {
            None if word == "ready" => (endpoint.ready, endpoint.serving) = (true, true),
            None if word == "serving" => endpoint.serving = true,
            None if word == "terminating" => endpoint.terminating = true,
            Some(("node", name)) => endpoint.hints.get_or_insert_default().nodes.push(name.into()),
            Some(("on", name)) => endpoint.node = Some(name.into()),
            Some(("zone", name)) => endpoint.hints.get_or_insert_default().zones.push(name.into()),
            _ => panic!("what is {word}?"),
        }
    }
    endpoint
}

fn slice(family: Family, ports: &[(&str, u16)], endpoints: &[&str]) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("ns", "slice"),
        service: "web".into(),
        family,
        ports: ports
            .iter()
            .map(|(name, port)| EndpointPort { name: (*name).into(), protocol: Protocol::Tcp, port: *port })
            .collect(),
        endpoints: endpoints.iter().map(|line| endpoint(line)).collect(),
        trigger: Default::default(),
    }
}

fn port(name: &str) -> ServicePort {
    ServicePort {
        name: name.into(),
        port: 80,
        protocol: Protocol::Tcp,
        target: TargetPort::Number(8080),
        node_port: None,
    }
}

/// The marks of backends on this node.
fn show_local<A: Ip>(backends: &[Backend<A>]) -> String {
    backends.iter().map(|b| if b.flags & backend::LOCAL != 0 { '*' } else { '.' }).collect()
}

const HERE: Here<'_> = Here { node: "n1", zone: Some("z1"), own: &BTreeSet::new() };

fn show<A: Ip>(backends: &[Backend<A>]) -> String {
    let shown: Vec<_> = backends.iter().map(|b| format!("{:?}:{:?}", b.addr, b.port)).collect();
    shown.join(" ")
}

#[test]
fn the_contract_row_by_row() {
    let rows: &[(&str, &[&str], &str)] = &[
        ("ready ones serve", &["10.0.0.2 ready", "10.0.0.1 ready"], "10.0.0.1:8080 10.0.0.2:8080"),
        ("one that is not ready does not", &["10.0.0.1 ready", "10.0.0.2"], "10.0.0.1:8080"),
        ("serving without ready is not enough", &["10.0.0.1 serving"], ""),
        (
            "terminating ones rest while one is ready",
            &["10.0.0.1 ready", "10.0.0.2 serving terminating"],
            "10.0.0.1:8080",
        ),
        (
            "none ready: serving and terminating",
            &["10.0.0.1 terminating", "10.0.0.2 serving terminating"],
            "10.0.0.2:8080",
        ),
        // publishNotReadyAddresses: the control plane says ready although it goes away.
        (
            "ready and terminating is ready",
            &["10.0.0.1 ready terminating", "10.0.0.2 serving terminating"],
            "10.0.0.1:8080",
        ),
        ("the node's own by hint", &["10.0.0.1 ready node=n1", "10.0.0.2 ready node=n2"], "10.0.0.1:8080"),
        ("node before zone", &["10.0.0.1 ready node=n1 zone=z1", "10.0.0.2 ready node=n2 zone=z1"], "10.0.0.1:8080"),
        (
            "no hint for this node: zone",
            &["10.0.0.1 ready node=n3 zone=z1", "10.0.0.2 ready node=n2 zone=z2"],
            "10.0.0.1:8080",
        ),
        (
            "one without node hint: zone",
            &["10.0.0.1 ready node=n1 zone=z1", "10.0.0.2 ready zone=z1"],
            "10.0.0.1:8080 10.0.0.2:8080",
        ),
        ("the zone's own by hint", &["10.0.0.1 ready zone=z2", "10.0.0.2 ready zone=z1 zone=z2"], "10.0.0.2:8080"),
        ("one without hint: all", &["10.0.0.1 ready zone=z1", "10.0.0.2 ready"], "10.0.0.1:8080 10.0.0.2:8080"),
        (
            "no hint for this zone: all",
            &["10.0.0.1 ready zone=z3", "10.0.0.2 ready zone=z2"],
            "10.0.0.1:8080 10.0.0.2:8080",
        ),
        ("hints of those not ready do not matter", &["10.0.0.1 ready zone=z1", "10.0.0.2"], "10.0.0.1:8080"),
        (
            "a hint names one that is not ready: all",
            &["10.0.0.1 zone=z1", "10.0.0.2 ready zone=z2", "10.0.0.3 ready zone=z3"],
            "10.0.0.2:8080 10.0.0.3:8080",
        ),
        ("hints do not matter to the last resort", &["10.0.0.1 serving terminating zone=z2"], "10.0.0.1:8080"),
        ("none", &[], ""),
    ];
    for (rule, endpoints, expected) in rows {
        let slices = [slice(Family::V4, &[("http", 8080)], endpoints)];
        assert_eq!(show(&serving::<V4>(&port("http"), slices.iter(), HERE).cluster), *expected, "{rule}");
    }
}

#[test]
fn the_policy_local_row_by_row() {
    let rows: &[(&str, &[&str], &str)] = &[
        ("those on this node", &["10.0.0.1 ready on=n1", "10.0.0.2 ready on=n2", "10.0.0.3 ready"], "10.0.0.1:8080"),
        ("hints do not matter", &["10.0.0.1 ready on=n1 zone=z2", "10.0.0.2 ready on=n2 zone=z1"], "10.0.0.1:8080"),
        (
            "the last resort of this node, though others are ready",
            &["10.0.0.1 serving terminating on=n1", "10.0.0.2 ready on=n2"],
            "10.0.0.1:8080",
        ),
        (
            "one that is ready before the last resort",
            &["10.0.0.1 serving terminating on=n1", "10.0.0.2 ready on=n1"],
            "10.0.0.2:8080",
        ),
        ("one that is not ready is none", &["10.0.0.1 on=n1", "10.0.0.2 ready on=n2"], ""),
    ];
    for (rule, endpoints, expected) in rows {
        let slices = [slice(Family::V4, &[("http", 8080)], endpoints)];
        assert_eq!(show(&serving::<V4>(&port("http"), slices.iter(), HERE).local), *expected, "{rule}");
    }
}

#[test]
fn backends_on_this_node_are_marked() {
    // In two slices, of which one does not say where it is: the face that is ready counts.
    let slices = [
        slice(Family::V4, &[("http", 80)], &["10.0.0.1 ready on=n1", "10.0.0.2 ready on=n2", "10.0.0.3 ready"]),
        slice(Family::V4, &[("http", 80)], &["10.0.0.1", "10.0.0.4 ready on=n1"]),
    ];
    let serving = serving::<V4>(&port("http"), slices.iter(), HERE);
    assert_eq!((show_local(&serving.cluster).as_str(), show_local(&serving.local).as_str()), ("*..*", "**"));
}

#[test]
fn a_node_without_a_zone_takes_all() {
    let slices = [slice(Family::V4, &[("", 1)], &["10.0.0.1 ready zone=z1", "10.0.0.2 ready zone=z2"])];
    let here = Here { zone: None, ..HERE };
    assert_eq!(show(&serving::<V4>(&port(""), slices.iter(), here).cluster), "10.0.0.1:1 10.0.0.2:1");
}

#[test]
fn ports_go_by_name_slice_by_slice() {
    let slices = [
        slice(Family::V4, &[("http", 8080), ("metrics", 9090)], &["10.0.0.1 ready"]),
        slice(Family::V4, &[("http", 8081)], &["10.0.0.2 ready"]),
        slice(Family::V4, &[("other", 1)], &["10.0.0.3 ready"]),
    ];
    assert_eq!(show(&serving::<V4>(&port("http"), slices.iter(), HERE).cluster), "10.0.0.1:8080 10.0.0.2:8081");
    assert_eq!(show(&serving::<V4>(&port("metrics"), slices.iter(), HERE).cluster), "10.0.0.1:9090");
    let udp = ServicePort { protocol: Protocol::Udp, ..port("http") };
    assert_eq!(show(&serving::<V4>(&udp, slices.iter(), HERE).cluster), "");
}

#[test]
fn one_endpoint_in_two_slices_counts_once_and_with_its_best_face() {
    let slices = [
        slice(Family::V4, &[("", 80)], &["10.0.0.1", "10.0.0.2 ready"]),
        slice(Family::V4, &[("", 80)], &["10.0.0.1 ready", "10.0.0.2 serving terminating"]),
    ];
    assert_eq!(show(&serving::<V4>(&port(""), slices.iter(), HERE).cluster), "10.0.0.1:80 10.0.0.2:80");
}

#[test]
fn families_stay_apart() {
    let slices =
        [slice(Family::V4, &[("", 80)], &["10.0.0.1 ready"]), slice(Family::V6, &[("", 80)], &["fd00::1 ready"])];
    assert_eq!(show(&serving::<V4>(&port(""), slices.iter(), HERE).cluster), "10.0.0.1:80");
    assert_eq!(show(&serving::<V6>(&port(""), slices.iter(), HERE).cluster), "fd00::1:80");
}

#[test]
fn hints_of_the_other_family_do_not_matter() {
    let slices = [
        slice(Family::V4, &[("", 80)], &["10.0.0.1 ready zone=z1", "10.0.0.2 ready zone=z2"]),
        slice(Family::V6, &[("", 80)], &["fd00::1 ready"]),
    ];
    assert_eq!(show(&serving::<V4>(&port(""), slices.iter(), HERE).cluster), "10.0.0.1:80");
}

#[test]
fn load_balancers_hear_of_each_address_that_is_ready_here_once() {
    let slices = [
        slice(Family::V4, &[("http", 80), ("metrics", 90)], &["10.0.0.1 ready on=n1", "10.0.0.2 ready on=n2"]),
        slice(Family::V4, &[("http", 81)], &["10.0.0.1 ready on=n1", "10.0.0.3 ready on=n1", "10.0.0.4 ready"]),
        slice(Family::V4, &[("http", 81)], &["10.0.0.5 serving terminating on=n1", "10.0.0.6 on=n1"]),
        slice(Family::V4, &[], &["10.0.0.7 ready on=n1"]),
        slice(Family::V6, &[("http", 80)], &["fd00::1 ready on=n1"]),
    ];
    assert_eq!([Family::V4, Family::V6].map(|family| ready_here(slices.iter(), family, HERE)), [2, 1]);
}
