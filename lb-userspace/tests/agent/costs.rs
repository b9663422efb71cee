//! What it costs with 10,000 Services of 10 endpoints. Prints; asserts only what no machine should miss.
//!
//! `cargo test --release -p lb-userspace --test agent costs -- --ignored --nocapture`

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lb_common::ip::Family;
use lb_userspace::compile::Limits;
use lb_userspace::model::{Endpoint, EndpointPort, EndpointSlice, ObjectName, Protocol, Service};
use lb_userspace::reconcile::{Engine, Options};
use lb_userspace::store::{MemoryStore, Store};
use lb_userspace::watch::{Change, Event, Message};

use crate::world;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn service(i: u32) -> Service {
    let ip = IpAddr::from(Ipv4Addr::from_bits(0x0a60_0000 + i));
    let name = ObjectName::new("ns", format!("service-{i:05}"));
    Service { name, ..world::service(0, vec![ip], &[(1, Protocol::Tcp)]) }
}

/// The slice of a Service, without the endpoint `but`.
fn slice(i: u32, but: u32) -> EndpointSlice {
    let endpoint = |n: u32| Endpoint {
        address: Ipv4Addr::from_bits(0x0b00_0000 + i * ENDPOINTS + n).into(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(format!("node-{}", n % 100).into()),
        hints: None,
    };
    EndpointSlice {
        name: ObjectName::new("ns", format!("service-{i:05}-abcde")),
        service: format!("service-{i:05}").into(),
        family: Family::V4,
        ports: vec![EndpointPort { name: "p1-tcp".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..ENDPOINTS).filter(|n| *n != but).map(endpoint).collect(),
        trigger: Default::default(),
    }
}

fn lists() -> Message {
    Message::Events(vec![
        Event::Node(Change::Reset(vec![])),
        Event::EndpointSlice(Change::Reset((0..SERVICES).map(|i| slice(i, u32::MAX)).collect())),
        Event::Service(Change::Reset((0..SERVICES).map(service).collect())),
    ])
}

fn took<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    let took = start.elapsed();
    println!("{what:<60} {took:>12.1?}");
    (done, took)
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0_u64) * 4 / 1024
}

fn options() -> Options {
    Options { limits: Limits { slots: 1 << 24, ..Limits::default() }, ..world::options() }
}

#[test]
#[ignore = "it measures"]
fn ten_thousand_services() {
    let now = Instant::now();
    println!("resident before: {} MiB", resident());
    let mut engine = Engine::new(MemoryStore::default(), options(), now);
    let lists_ = lists();
    took("state takes in 10,000 Services x 10", || engine.receive(lists_, now));
    println!("resident with the state: {} MiB", resident());
    took("first round: compile, plan, write to memory", || engine.work(|| now));
    println!("resident after it: {} MiB (the store in memory takes 40)", resident());
    assert_eq!(engine.status().problems, []);

    let mut worst = Duration::ZERO;
    let start = Instant::now();
    for i in 0..1000 {
        let began = Instant::now();
        engine.receive(Message::Events(vec![Event::EndpointSlice(Change::Apply(slice(i * 7, i % 10)))]), now);
        engine.work(|| now);
        worst = worst.max(began.elapsed());
    }
    println!("{:<60} {:>12.1?}, worst {worst:.1?}", "one changed slice, mean of 1000", start.elapsed() / 1000);
    assert!(start.elapsed() < Duration::from_secs(10));

    let later = now + Duration::from_secs(3);
    took("a round that ends 1000 rests", || engine.work(|| later));
    let sweep = now + options().sweep;
    took("a sweep that finds nothing (reading memory included)", || engine.work(|| sweep));
    assert_eq!(engine.status().repairs, 0);

    let mut store = engine.into_store();
    let writes = store.writes();
    let (_, read) = took("reading the store", || store.read().map(|image| image.runs.len()));
    let mut engine = Engine::new(store, options(), sweep);
    engine.receive(lists(), sweep);
    took("restart: read, recover, compile, compare, write 1000", || engine.work(|| sweep));
    println!("{:<60} {read:>12.1?}", "  of which reading");
    println!("{} entries written", engine.into_store().writes() - writes);
}
