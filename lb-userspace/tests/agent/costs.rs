//! What it costs with 10,000 Services of 10 endpoints. Prints; asserts only what no machine should miss.
//!
//! `cargo test --release -p lb-userspace --test agent costs -- --ignored --nocapture`

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime};

use lb_common::ip::Family;
use lb_userspace::compile::Limits;
use lb_userspace::model::{Endpoint, EndpointPort, EndpointSlice, ObjectName, Protocol, Service};
use lb_userspace::reconcile::{Engine, Options};
use lb_userspace::store::{MemoryStore, Store};
use lb_userspace::watch::files::{Folder, Kept, Name};
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

fn lists(services: u32) -> Message {
    Message::Events(vec![
        Event::Node(Change::Reset(vec![])),
        Event::EndpointSlice(Change::Reset((0..services).map(|i| slice(i, u32::MAX)).collect())),
        Event::Service(Change::Reset((0..services).map(service).collect())),
    ])
}

fn took<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let (start, mut done) = (Instant::now(), None);
    let allocated = allocation_counter::measure(|| done = Some(work()));
    let took = start.elapsed();
    let (count, mib) = (allocated.count_total, allocated.bytes_total >> 20);
    println!("{what:<60} {took:>12.1?} {count:>9} allocations of {mib} MiB");
    (done.expect("it was done"), took)
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
    let all = lists(SERVICES);
    took("state takes in 10,000 Services x 10", || engine.receive(all, now));
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
    engine.receive(lists(SERVICES), sweep);
    took("restart: read, recover, compile, compare, write 1000", || engine.work(|| sweep));
    println!("{:<60} {read:>12.1?}", "  of which reading");
    println!("{} entries written", engine.into_store().writes() - writes);
}

fn written_service(i: u32) -> String {
    let ip = Ipv4Addr::from_bits(0x0a60_0000 + i);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{i:05}, namespace: ns}}\n\
         spec:\n  clusterIP: {ip}\n  selector: {{app: service-{i:05}, stage: live}}\n  ports: [{{port: 80}}]\n---\n"
    )
}

fn written_pod(i: u32, n: u32, ready: bool) -> String {
    let ip = Ipv4Addr::from_bits(0x0b00_0000 + i * ENDPOINTS + n);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: service-{i:05}-{n}\n  namespace: ns\n\
         \x20 labels: {{app: service-{i:05}, stage: live}}\nspec: {{nodeName: node-{}}}\n\
         status:\n  podIP: {ip}\n  conditions: [{{type: Ready, status: \"{}\"}}]\n---\n",
        n % 100,
        if ready { "True" } else { "False" }
    )
}

#[test]
#[ignore = "it measures"]
fn a_folder_of_ten_thousand_services() {
    for a_file_a_pod in [false, true] {
        let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        for i in 0..SERVICES {
            let mut text = written_service(i);
            for n in 0..ENDPOINTS {
                match a_file_a_pod {
                    true => put(&format!("pod-{i}-{n}.yaml"), &written_pod(i, n, true)),
                    false => write!(text, "{}", written_pod(i, n, true)).unwrap(),
                }
            }
            put(&format!("service-{i}.yaml"), &text);
        }
        println!("a file a {}; resident before: {} MiB", if a_file_a_pod { "Pod" } else { "Service" }, resident());
        let mut afresh = Kept::new(kept.path());
        afresh.start_afresh();
        let mut folder = Folder::new(dir.path(), afresh);
        let ((), _) = took("  first look", || folder.scan(SystemTime::now() + Duration::from_secs(1)));
        let (news, _) = took("  its news", || folder.news());
        println!("  resident: {} MiB with the news", resident());
        drop(news);
        took("  a look at everything, nothing changed", || folder.scan(SystemTime::now()));
        assert!(folder.news().is_empty());
        let changed = match a_file_a_pod {
            true => "pod-7-9.yaml",
            false => "service-7.yaml",
        };
        let text = fs::read_to_string(dir.path().join(changed)).unwrap();
        let end = text.len() - written_pod(7, 9, true).len();
        put(changed, &format!("{}{}", if a_file_a_pod { "" } else { &text[..end] }, written_pod(7, 9, false)));
        let names = [Name::from(OsStr::new(changed))].into();
        let (news, spent) = took("  one changed Pod", || {
            folder.look_at(&names, SystemTime::now());
            folder.news()
        });
        assert!(matches!(&news[..], [Message::Events(events)] if events.len() == 1), "{news:?}");
        assert!(spent < Duration::from_millis(100));
        let file = dir.path().join(changed);
        fs::remove_file(file).unwrap();
        took("  its file removed", || {
            folder.look_at(&names, SystemTime::now());
            folder.news()
        });
    }
}

/// What a round for one changed EndpointSlice costs among so many Services: allocations, their bytes, and writes.
fn one_change(services: u32) -> [u64; 3] {
    let now = Instant::now();
    let mut engine = Engine::new(MemoryStore::default(), options(), now);
    engine.receive(lists(services), now);
    engine.work(|| now);
    let change = |engine: &mut Engine<_>, i, but| {
        engine.receive(Message::Events(vec![Event::EndpointSlice(Change::Apply(slice(i, but)))]), now);
        engine.work(|| now);
        engine.take_departures();
    };
    // Lists that grow by the way are long enough from then on.
    (0..8).for_each(|i| change(&mut engine, i, 0));
    let before = engine.status().writes;
    let measured = allocation_counter::measure(|| (8..16).for_each(|i| change(&mut engine, i, 0)));
    [measured.count_total, measured.bytes_total, engine.status().writes - before]
}

#[test]
fn a_change_of_one_service_costs_the_same_among_few_and_among_many() {
    let (few, many) = (one_change(100), one_change(3_000));
    assert_eq!(few[2], many[2], "writes");
    for (what, few, many) in [("allocations", few[0], many[0]), ("bytes", few[1], many[1])] {
        assert!(many <= few + few / 4, "{what} of a change: {few} among 100 Services, {many} among 3,000");
    }
}
