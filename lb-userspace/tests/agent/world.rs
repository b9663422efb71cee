//! Small worlds of Services and endpoints, and random ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use lb_common::ip::Family;
use lb_userspace::compile::{Addresses, Limits, NodeFacts, NodePortAddresses};
use lb_userspace::ids::Rest;
use lb_userspace::model::{
    Endpoint, EndpointPort, EndpointSlice, Node, ObjectName, Protocol, Service, ServicePort, SourceRanges, TargetPort,
    TrafficPolicy,
};
use lb_userspace::reconcile::{Engine, Options};
use lb_userspace::store::Store;
use lb_userspace::watch::{Change, Event, Message};
use proptest::prelude::*;

pub(crate) fn options() -> Options {
    let own = [ip(Family::V4, 9, 8), ip(Family::V6, 9, 9)].into();
    let node_ports = NodePortAddresses::new(vec![Addresses::All]);
    let node = NodeFacts { own, node_ports, ..NodeFacts::new("node") };
    Options { rest: Rest::DEFAULT, limits: Limits::default(), sweep: Duration::from_secs(300), ..Options::new(node) }
}

pub(crate) fn empty_lists() -> Message {
    Message::Events(vec![
        Event::Node(Change::Reset(vec![])),
        Event::EndpointSlice(Change::Reset(vec![])),
        Event::Service(Change::Reset(vec![])),
    ])
}

/// Works until nothing is left to do now.
pub(crate) fn settle<S: Store>(engine: &mut Engine<S>, now: Instant) -> Instant {
    let mut now = now;
    for _ in 0..50 {
        match engine.status().behind_since {
            None => return now,
            Some(_) => {
                now = now.max(engine.due().expect("what is behind is due"));
                engine.work(|| now);
            }
        }
    }
    panic!("it does not come in step: {:?}", engine.status());
}

pub(crate) fn name(i: u8) -> ObjectName {
    ObjectName::new("ns", format!("s{i}"))
}

pub(crate) fn ip(family: Family, net: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, net, 0, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)).into(),
    }
}

pub(crate) fn service(i: u8, cluster_ips: Vec<IpAddr>, ports: &[(u8, Protocol)]) -> Service {
    Service {
        cluster_ips,
        ports: ports.iter().map(|(port, protocol)| service_port(*port, *protocol)).collect(),
        ..Service::new(name(i))
    }
}

fn service_port(port: u8, protocol: Protocol) -> ServicePort {
    ServicePort {
        name: format!("p{port}-{}", protocol.name().to_lowercase()).into(),
        port: u16::from(port),
        protocol,
        target: TargetPort::Number(8000 + u16::from(port)),
        node_port: None,
    }
}

/// Slice `i` of service `of`: it has the target ports 1 to 3, TCP and UDP.
pub(crate) fn slice(i: u8, of: u8, family: Family, endpoints: &[(u8, Condition)]) -> EndpointSlice {
    let ports = (1..=3).flat_map(|port| [Protocol::Tcp, Protocol::Udp].map(|protocol| service_port(port, protocol)));
    EndpointSlice {
        name: ObjectName::new("ns", format!("slice{i}")),
        service: name(of).name,
        family,
        ports: ports.map(|p| EndpointPort { name: p.name, protocol: p.protocol, port: 8000 + p.port }).collect(),
        endpoints: endpoints.iter().map(|(host, condition)| condition.endpoint(family, *host)).collect(),
        trigger: Default::default(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Ready,
    Unready,
    Leaving,
}

impl Condition {
    /// Of those with an even number the agent's node has each second one.
    fn endpoint(self, family: Family, host: u8) -> Endpoint {
        let ready = self == Self::Ready;
        let (serving, terminating) = (self != Self::Unready, self == Self::Leaving);
        let node = (host.is_multiple_of(2)).then(|| if host.is_multiple_of(4) { "node" } else { "other" }.into());
        Endpoint { address: ip(family, 1, host), ready, serving, terminating, node, hints: None }
    }
}

/// What happens in a random world.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Events(Vec<Event>),
    Wait(u64),
    /// The agent is killed and another one takes over.
    Restart,
    /// The store refuses the write after so many.
    Fail(usize),
    /// The agent is killed at the write after so many.
    Kill(usize),
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(event(), 1..6).prop_map(Step::Events),
        2 => prop_oneof![Just(0_u64), Just(1), Just(3), Just(100)].prop_map(Step::Wait),
        1 => Just(Step::Restart),
        2 => (0_usize..30).prop_map(Step::Fail),
        2 => (0_usize..30).prop_map(Step::Kill),
    ];
    prop::collection::vec(step, 1..14)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u8..4, ips(), ports(), external()).prop_map(|(i, ips, ports, external)| {
            let mut service = Service { name: name(i), ..external };
            service.cluster_ips = ips;
            service.ports = ports;
            Event::Service(Change::Apply(service))
        }),
        1 => (0_u8..4).prop_map(|i| Event::Service(Change::Delete(name(i)))),
        8 => (0_u8..6, 0_u8..4, family(), endpoints()).prop_map(|(i, of, family, endpoints)| {
            Event::EndpointSlice(Change::Apply(slice(i, of, family, &endpoints)))
        }),
        1 => (0_u8..6).prop_map(|i| Event::EndpointSlice(Change::Delete(ObjectName::new("ns", format!("slice{i}"))))),
        1 => prop::collection::hash_set(0_u8..4, 1..4).prop_map(|listed| {
            Event::Service(Change::Listed(listed.into_iter().map(name).collect()))
        }),
        1 => prop::collection::hash_set(0_u8..6, 2..6).prop_map(|listed| {
            let name = |i| ObjectName::new("ns", format!("slice{i}"));
            Event::EndpointSlice(Change::Listed(listed.into_iter().map(name).collect()))
        }),
        1 => prop_oneof![Just(None), Just(Some("z"))].prop_map(|zone| {
            let node = Node::new(ObjectName::new("", "node"));
            let addresses = vec![ip(Family::V4, 9, 9)];
            Event::Node(Change::Apply(Node { zone: zone.map(Into::into), addresses, ..node }))
        }),
    ]
}

/// Few addresses, so that Services often want the same one.
fn ips() -> impl Strategy<Value = Vec<IpAddr>> {
    let one = |family| prop::option::of((0_u8..3).prop_map(move |host| ip(family, 96, host)));
    (one(Family::V4), one(Family::V6)).prop_map(|(v4, v6)| v4.into_iter().chain(v6).collect())
}

/// Few ports, and fewer NodePorts. Two ports of one Service never want the same.
fn ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let port = ((1_u8..4, protocol()), prop::option::of(1_u16..3));
    prop::collection::vec(port, 1..4).prop_map(|ports| {
        let mut made: Vec<ServicePort> = Vec::new();
        for ((port, protocol), node_port) in ports {
            let taken = |other: &ServicePort| other.protocol == protocol && other.node_port == node_port;
            let node_port = node_port.filter(|_| !made.iter().any(taken));
            if !made.iter().any(|other| (other.port, other.protocol) == (u16::from(port), protocol)) {
                made.push(ServicePort { node_port, ..service_port(port, protocol) });
            }
        }
        made
    })
}

/// What of a Service faces clients outside: addresses that others want, too, and such as are the node's own.
fn external() -> impl Strategy<Value = Service> {
    let ip = || (family(), prop_oneof![Just(9_u8), Just(96), Just(97)], prop_oneof![0_u8..3, 8_u8..10]);
    let ips = || prop::collection::vec(ip().prop_map(|(family, net, host)| self::ip(family, net, host)), 0..3);
    let ranges = prop::sample::subsequence(vec!["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "0.0.0.0/0"], 0..3);
    let affinity = prop::option::of(prop_oneof![Just(1_u32), Just(10_800)]);
    let parts = (ips(), ips(), policy(), policy(), ranges, affinity);
    parts.prop_map(|(external_ips, load_balancer_ips, internal_policy, external_policy, ranges, affinity)| {
        let ranges = ranges.into_iter().map(|range| range.parse().expect("a range")).collect();
        let source_ranges = SourceRanges { ranges, unreadable: false };
        let service = Service::new(name(0));
        Service {
            external_ips,
            load_balancer_ips,
            internal_policy,
            external_policy,
            source_ranges,
            affinity,
            ..service
        }
    })
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn endpoints() -> impl Strategy<Value = Vec<(u8, Condition)>> {
    let condition =
        prop_oneof![4 => Just(Condition::Ready), 1 => Just(Condition::Unready), 1 => Just(Condition::Leaving)];
    prop::collection::vec((0_u8..6, condition), 0..5)
}
