use std::time::{Duration, Instant};

use lb_common::ip::Family;
use lb_common::tables::{Frontend, Table};

use super::*;
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort, ServiceType, TargetPort, TrafficPolicy,
};
use crate::watch::{Change, Event};

mod external;

struct World {
    state: State,
    compiler: Compiler,
    node: NodeFacts,
    now: Instant,
}

impl World {
    fn new(limits: Limits) -> Self {
        let node = NodeFacts::new("node");
        let rest = Rest { entry: Duration::from_secs(2), id: Duration::from_secs(60) };
        Self { state: State::default(), compiler: Compiler::new(limits, rest), node, now: Instant::now() }
    }

    fn apply(&mut self, event: Event) -> &mut Self {
        self.state.apply(event);
        self
    }

    /// A Service with a port 80 at an address, and this many endpoints.
    fn service(&mut self, name: &str, ip: &str, endpoints: u8) -> &mut Self {
        let service = service(name, ip);
        let slice = slice(name, endpoints);
        self.apply(Event::Service(Change::Apply(service))).apply(Event::EndpointSlice(Change::Apply(slice)))
    }

    fn remove(&mut self, name: &str) -> &mut Self {
        self.apply(Event::Service(Change::Delete(ObjectName::new("ns", name))))
    }

    /// Compiles, and lets the maps follow; what is wrong.
    fn run(&mut self) -> Vec<String> {
        let changes = self.state.take_changes();
        self.compiler.compile(&self.state, changes, &self.node, self.now);
        self.compiler.settle(self.now);
        self.compiler.problems().iter().map(ToString::to_string).collect()
    }

    /// Sorts of what is wrong.
    fn reasons(&self) -> Vec<&'static str> {
        self.compiler.problems().iter().map(|problem| problem.reason.label()).collect()
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self
    }

    /// `address:port → length of the table`, of ports.
    fn frontends(&self) -> Vec<String> {
        let ports = self.compiler.image().v4.frontends.iter().filter(|(key, _)| key.port.get() > 0);
        ports.map(|(key, frontend)| format!("{:?}:{:?} {}", key.addr, key.port, frontend.inside.len)).collect()
    }
}

fn service(name: &str, ip: &str) -> Service {
    Service {
        cluster_ips: vec![ip.parse().unwrap()],
        ports: vec![ServicePort {
            name: "".into(),
            port: 80,
            protocol: Protocol::Tcp,
            target: TargetPort::Number(80),
            node_port: None,
        }],
        ..Service::new(ObjectName::new("ns", name))
    }
}

fn slice(service: &str, endpoints: u8) -> EndpointSlice {
    let net = service.as_bytes()[0];
    let endpoint = |host: u8| Endpoint {
        address: [10, 1, net, host].into(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        hints: None,
    };
    EndpointSlice {
        name: ObjectName::new("ns", format!("{service}-1")),
        service: service.into(),
        family: Family::V4,
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 80 }],
        endpoints: (1..=endpoints).map(endpoint).collect(),
        trigger: Default::default(),
    }
}

#[test]
fn frontends_without_an_endpoint_here_are_counted_while_others_have_some() {
    let mut world = World::new(Limits::default());
    let near = Service { internal_policy: TrafficPolicy::Local, ..service("a", "10.96.0.1") };
    let on = |node: &str| {
        let mut slice = slice("a", 2);
        slice.endpoints[0].node = Some(node.into());
        Event::EndpointSlice(Change::Apply(slice))
    };
    let elsewhere = |world: &mut World| {
        world.run();
        (world.compiler.elsewhere().internal, world.frontends())
    };
    world.apply(Event::Service(Change::Apply(near)));
    assert_eq!(elsewhere(&mut world), (0, vec!["10.96.0.1:80 0".to_owned()]), "no endpoint anywhere");
    assert_eq!(elsewhere(world.apply(on("other"))), (1, vec!["10.96.0.1:80 0".to_owned()]));
    assert_eq!(elsewhere(world.apply(on("node"))), (0, vec!["10.96.0.1:80 1".to_owned()]));
    assert_eq!(elsewhere(world.apply(on("other"))).0, 1);
    assert_eq!(elsewhere(world.remove("a")), (0, vec![]));
}

#[test]
fn of_services_that_want_one_port_the_first_by_name_has_it_and_the_other_is_told() {
    let mut world = World::new(Limits::default());
    assert!(world.service("b", "10.96.0.1", 2).run().is_empty());
    assert_eq!(world.frontends(), ["10.96.0.1:80 211"]);
    // A comes later, but its name comes first.
    assert_eq!(world.service("a", "10.96.0.1", 1).run(), ["Service ns/b: 10.96.0.1 port 80/TCP: Service ns/a has it"]);
    assert_eq!(world.reasons(), ["ClusterIPClash"]);
    assert_eq!(world.frontends(), ["10.96.0.1:80 1"]);
    assert!(world.remove("a").run().is_empty());
    assert_eq!(world.frontends(), ["10.96.0.1:80 211"]);
}

#[test]
fn what_does_not_fit_is_named_with_its_option_and_all_else_goes_on() {
    let rows = [
        (
            Limits { slots: 300, ..Limits::default() },
            "Service ns/b: port 80: no room for a table of 307 slots among 300; enlarge --max-slots",
        ),
        (
            Limits { backends: 6, ..Limits::default() },
            "Service ns/b: port 80: no room for its 3 backends: all 5 are taken; enlarge --max-backends",
        ),
        (
            Limits { services: 3, ..Limits::default() },
            "Service ns/b: 10.96.0.2: no room for another frontend; enlarge --max-services",
        ),
    ];
    for (limits, problem) in rows {
        let mut world = World::new(limits);
        world.service("a", "10.96.0.1", 1).service("b", "10.96.0.2", 3).service("c", "10.96.0.3", 0);
        if limits.backends == 6 {
            world.service("a", "10.96.0.1", 3);
        }
        let problems = world.run();
        assert!(problems.contains(&problem.to_owned()), "{problems:?}");
        assert!(world.reasons().iter().all(|reason| *reason == "NoRoom"), "{:?}", world.reasons());
        assert!(world.frontends()[0].starts_with("10.96.0.1:80"), "{:?}", world.frontends());
    }
}

#[test]
fn a_service_that_had_no_room_gets_it_when_there_is_some() {
    let mut world = World::new(Limits { slots: 320, ..Limits::default() });
    world.service("a", "10.96.0.1", 2).service("b", "10.96.0.2", 3);
    assert_eq!(world.run().len(), 1);
    assert_eq!(world.frontends(), ["10.96.0.1:80 211"]);
    assert_eq!(world.remove("a").run().len(), 1, "the place of its table rests");
    assert!(world.compiler.deadline().is_some());
    assert!(world.wait(2).run().is_empty());
    assert_eq!(world.frontends(), ["10.96.0.2:80 307"]);
}

#[test]
fn a_service_that_grows_beyond_the_room_keeps_what_it_had() {
    let mut world = World::new(Limits { slots: 320, ..Limits::default() });
    world.service("a", "10.96.0.1", 2).run();
    assert_eq!(world.service("a", "10.96.0.1", 4).run().len(), 1);
    assert_eq!(world.frontends(), ["10.96.0.1:80 211"]);
    // And what it had does not pile up.
    assert_eq!(world.wait(3).service("a", "10.96.0.1", 5).run().len(), 1);
    assert!(world.wait(3).service("a", "10.96.0.1", 1).run().is_empty());
    assert_eq!(world.frontends(), ["10.96.0.1:80 1"]);
}

#[test]
fn what_is_not_programmed_leaves_no_trace() {
    let with = |change: fn(&mut Service)| {
        let mut world = World::new(Limits::default());
        let mut service = service("a", "10.96.0.1");
        change(&mut service);
        world.service("a", "10.96.0.1", 1).apply(Event::Service(Change::Apply(service))).run();
        world.compiler.image().clone()
    };
    assert_eq!(with(|_| {}).v4.frontends.len(), 2);
    let nothing = Image::default();
    assert_eq!(with(|s| s.kind = ServiceType::ExternalName), nothing);
    assert_eq!(with(|s| s.cluster_ips.clear()), nothing);
    assert_eq!(with(|s| s.other_proxy = true), nothing);
    assert_eq!(with(|s| s.headless_label = true), nothing);
}

#[test]
fn an_address_that_is_the_nodes_own_is_refused_alone() {
    let mut world = World::new(Limits::default());
    world.node.config.node_v4 = std::net::Ipv4Addr::new(192, 0, 2, 1).into();
    world.node.own = ["192.0.2.7".parse().unwrap()].into();
    world.service("a", "192.0.2.1", 1).service("b", "192.0.2.7", 1).service("c", "127.0.0.1", 1);
    world.service("d", "10.96.0.1", 1);
    let mut both = service("e", "0.0.0.0");
    both.cluster_ips = vec!["10.96.0.2".parse().unwrap(), "::ffff:10.96.0.3".parse().unwrap()];
    world.apply(Event::Service(Change::Apply(both)));
    let expected = [
        "Service ns/a: clusterIP 192.0.2.1 is not programmed: it is an address of this node itself",
        "Service ns/b: clusterIP 192.0.2.7 is not programmed: it is an address of this node itself",
        "Service ns/c: clusterIP 127.0.0.1 is not programmed: it is a loopback address",
        "Service ns/e: clusterIP ::ffff:10.96.0.3 is not programmed: it is an IPv4 address mapped to IPv6",
    ];
    assert_eq!(world.run(), expected);
    assert_eq!(world.reasons(), ["AddressRefused"; 4]);
    assert_eq!(world.frontends(), ["10.96.0.1:80 1", "10.96.0.2:80 0"]);
    // Neither port nor whole address, and no name for what has no frontend.
    let image = world.compiler.image();
    assert_eq!((image.v4.frontends.len(), image.v6.frontends.len(), image.names.len()), (4, 0, 2));
    for name in ["a", "b", "c", "e"] {
        world.remove(name);
    }
    assert!(world.run().is_empty(), "what is gone has no problems");
}

#[test]
fn an_address_that_becomes_the_nodes_own_is_given_up_and_comes_back() {
    let mut world = World::new(Limits::default());
    assert!(world.service("a", "10.96.0.1", 1).run().is_empty());
    world.node.own = ["10.96.0.1".parse().unwrap()].into();
    assert_eq!(world.run().len(), 1);
    assert!(world.compiler.image().v4.frontends.is_empty());
    world.node.own.clear();
    assert!(world.run().is_empty());
    assert_eq!(world.frontends(), ["10.96.0.1:80 1"]);
}

#[test]
fn one_number_is_a_port_of_each_protocol() {
    let mut world = World::new(Limits::default());
    let (mut service, mut slice) = (service("a", "10.96.0.1"), slice("a", 2));
    let all = [(Protocol::Tcp, "t"), (Protocol::Udp, "u"), (Protocol::Sctp, "s")];
    let port = service.ports.remove(0);
    service.ports = all.map(|(protocol, name)| ServicePort { name: name.into(), protocol, ..port.clone() }).into();
    slice.ports = all.map(|(protocol, name)| EndpointPort { name: name.into(), protocol, port: 80 }).into();
    world.apply(Event::Service(Change::Apply(service))).apply(Event::EndpointSlice(Change::Apply(slice)));
    assert!(world.run().is_empty());
    let frontends = &world.compiler.image().v4.frontends;
    let ports = frontends.iter().filter(|(key, _)| key.port.get() == 80);
    let led: Vec<_> = ports.map(|(key, frontend)| (key.proto, frontend.inside.len > 0)).collect();
    assert_eq!(led, [(6, true), (17, true), (132, true)]);
}

#[test]
fn services_with_the_same_backends_share_one_table() {
    let mut world = World::new(Limits::default());
    let mut other = slice("b", 0);
    other.endpoints = slice("a", 3).endpoints;
    world.service("a", "10.96.0.1", 3).service("b", "10.96.0.2", 0).apply(Event::EndpointSlice(Change::Apply(other)));
    world.run();
    assert_eq!(world.compiler.image().runs.len(), 1);
    assert_eq!(world.compiler.image().v4.backends.len(), 3);
}

#[test]
fn a_backend_and_a_name_rest_in_the_maps_before_they_go() {
    let mut world = World::new(Limits::default());
    world.service("a", "10.96.0.1", 1).run();
    world.remove("a").run();
    assert_eq!((world.frontends().len(), world.compiler.image().v4.backends.len()), (0, 1));
    assert_eq!(world.compiler.deadline(), Some(world.now + Duration::from_secs(2)));
    world.wait(2).run();
    assert_eq!(world.compiler.image(), &Image::default());
    assert_eq!(world.compiler.deadline(), None);
}

#[test]
fn the_node_object_fills_in_what_the_agent_was_not_told() {
    let mut world = World::new(Limits::default());
    let node = |addresses: &[&str]| crate::model::Node {
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..crate::model::Node::new(ObjectName::new("", "node"))
    };
    world.node.config.node_v4 = std::net::Ipv4Addr::new(10, 9, 9, 9).into();
    world.apply(Event::Node(Change::Apply(node(&["10.0.0.1", "fd00::1"])))).run();
    let config = world.compiler.image().config;
    assert_eq!(
        (format!("{:?}", config.node_v4), format!("{:?}", config.node_v6)),
        ("10.9.9.9".into(), "fd00::1".into())
    );
}

#[test]
fn every_table_has_a_frontend_that_points_to_it() {
    let mut world = World::new(Limits { services: 4, ..Limits::default() });
    world.service("a", "10.96.0.1", 2).service("b", "10.96.0.2", 3).service("c", "10.96.0.3", 4).run();
    let image = world.compiler.image();
    let pointed: BTreeSet<u32> = image.v4.frontends.values().flat_map(Frontend::tables).map(|table| table.at).collect();
    assert_eq!(image.runs.keys().copied().collect::<BTreeSet<_>>(), pointed);
    assert_eq!(pointed.len(), 2, "the third found no room for its frontend");
}

#[test]
fn numbers_in_the_maps_are_kept_for_what_they_stand_for() {
    let mut before = World::new(Limits::default());
    before.service("a", "10.96.0.1", 2).service("b", "10.96.0.2", 3).run();
    before.remove("a").run();
    before.wait(100).run();
    before.service("c", "10.96.0.3", 1).run();
    // In the order of names, c would come after b; but it has the lower numbers.
    let actual = before.compiler.image().clone();
    let mut after = World::new(Limits::default());
    after.compiler = Compiler::recover(Limits::default(), Rest::DEFAULT, &actual);
    after.service("b", "10.96.0.2", 3).service("c", "10.96.0.3", 1).run();
    assert_eq!(after.compiler.image(), &actual);
}

#[test]
fn slots_that_make_no_sense_but_are_in_use_are_left_alone_until_they_are_not() {
    let mut actual = Image::default();
    let key = FrontendKey::new(std::net::Ipv4Addr::new(10, 96, 0, 9).into(), lb_common::ip::Be16::new(80), 6);
    actual.v4.frontends.insert(key, Frontend::with_table(7, Table { at: 3, len: 5 }));
    actual.runs.insert(3, vec![1, 2, 3, 4, 5].into());
    let mut world = World::new(Limits { slots: 219, ..Limits::default() });
    world.compiler = Compiler::recover(Limits { slots: 219, ..Limits::default() }, Rest::DEFAULT, &actual);
    world.service("a", "10.96.0.1", 2).service("b", "10.96.0.2", 1).run();
    let runs: Vec<_> = world.compiler.image().runs.iter().map(|(at, slots)| (*at, slots.len())).collect();
    assert_eq!(runs, [(0, 1), (8, 211)]);
    world.wait(2).service("c", "10.96.0.3", 1).run();
    assert_eq!(world.compiler.image().runs.keys().copied().collect::<Vec<_>>(), [0, 1, 8]);
}
