//! The loop: failures, drift, restarts, and its pace.

use std::time::{Duration, Instant};

use lb_common::ip::{Family, V4};
use lb_common::mem::{Image, Slots};
use lb_common::tables::{Affinity, AffinityKey, Origin, RangeKey};
use lb_userspace::affinity;
use lb_userspace::compile::NodeFacts;
use lb_userspace::metrics::{Metrics, Probes, Snapshot, StoreErrors};
use lb_userspace::model::{Protocol, Service, SourceRanges, TrafficPolicy};
use lb_userspace::plan::Departures;
use lb_userspace::reconcile::{self, Engine, Listeners, News, Status};
use lb_userspace::state::Changed;
use lb_userspace::store::{FaultyStore, MemoryStore, Store};
use lb_userspace::watch::{Change, Event, Message, Problem};
use tokio::sync::{mpsc, watch};

use crate::oracle::found;
use crate::world::{Condition, empty_lists, ip, name, options, service, settle, slice};

/// Two Services, the second without endpoints, but with an address that admits some only.
fn two_services() -> Message {
    let first =
        service(0, vec![ip(Family::V4, 96, 1), ip(Family::V6, 96, 1)], &[(1, Protocol::Tcp), (2, Protocol::Udp)]);
    let ranges = vec!["10.0.0.0/8".parse().expect("a range")];
    let second = Service {
        load_balancer_ips: vec![ip(Family::V4, 97, 1)],
        source_ranges: SourceRanges { ranges, unreadable: false },
        ..service(1, vec![ip(Family::V4, 96, 2)], &[(1, Protocol::Tcp)])
    };
    let ready = [(1, Condition::Ready), (2, Condition::Ready), (3, Condition::Ready)];
    Message::Events(vec![
        Event::Node(Change::Reset(vec![])),
        Event::EndpointSlice(Change::Reset(vec![slice(0, 0, Family::V4, &ready), slice(1, 0, Family::V6, &ready)])),
        Event::Service(Change::Reset(vec![first, second])),
    ])
}

fn one_endpoint_less() -> Message {
    let left = [(1, Condition::Ready), (3, Condition::Ready)];
    Message::Events(vec![Event::EndpointSlice(Change::Apply(slice(0, 0, Family::V4, &left)))])
}

fn run<S: Store>(store: S, now: Instant, messages: impl IntoIterator<Item = Message>) -> (Engine<S>, Instant) {
    let mut engine = Engine::new(store, options(), now);
    let mut now = now;
    for message in messages {
        engine.receive(message, now);
        now = settle(&mut engine, now);
    }
    (engine, now)
}

fn image<S: Store>(engine: &mut Engine<S>) -> Image {
    engine.store().read().expect("memory can be read")
}

#[test]
fn nothing_is_written_before_every_list_has_come() {
    let now = Instant::now();
    let mut engine = Engine::new(MemoryStore::default(), options(), now);
    let Message::Events(events) = two_services() else { unreachable!() };
    for event in events {
        assert_eq!(engine.due(), None);
        engine.work(|| now);
        assert_eq!(engine.store().writes(), 0);
        engine.receive(Message::Events(vec![event]), now);
    }
    settle(&mut engine, now);
    assert!(engine.store().writes() > 0);
}

#[test]
fn a_restart_with_unchanged_input_writes_nothing() {
    let (engine, now) = run(MemoryStore::default(), Instant::now(), [two_services(), one_endpoint_less()]);
    let store = engine.into_store();
    let writes = store.writes();
    let unchanged = match (two_services(), one_endpoint_less()) {
        (Message::Events(all), Message::Events(change)) => Message::Events([all, change].concat()),
        _ => unreachable!(),
    };
    let (engine, _) = run(store, now, [unchanged]);
    assert_eq!(engine.into_store().writes(), writes);
}

#[test]
fn a_restart_finds_what_vanished_meanwhile() {
    let (engine, now) = run(MemoryStore::default(), Instant::now(), [two_services()]);
    let (mut engine, now) = run(engine.into_store(), now, [empty_lists()]);
    assert!(image(&mut engine).v4.frontends.is_empty());
    assert!(!image(&mut engine).v4.backends.is_empty(), "they rest");
    let later = engine.due().expect("the end of their rest");
    assert_eq!(later, now + Duration::from_secs(2));
    engine.work(|| later);
    assert_eq!(image(&mut engine), Image::default());
}

#[test]
fn killed_at_any_write_the_next_one_converges_to_the_same() {
    let now = Instant::now();
    let (mut whole, _) = run(MemoryStore::default(), now, [two_services()]);
    let wanted = (found::<V4>(&image(&mut whole)), image(&mut whole).filter);
    for good in 0..whole.status().writes as usize {
        let mut engine = Engine::new(FaultyStore::new(MemoryStore::default(), good), options(), now);
        engine.receive(two_services(), now);
        engine.work(|| now);
        assert!(engine.store().failed(), "killed after {good} writes");
        let (mut next, _) = run(engine.into_store().inner, now, [two_services()]);
        assert_eq!((found::<V4>(&image(&mut next)), image(&mut next).filter), wanted, "killed after {good} writes");
        // Only of tables can nobody tell that they were written, before a frontend points to them.
        let again = next.status().writes + good as u64 - whole.status().writes;
        assert!(again <= image(&mut next).runs.len() as u64, "{again} entries were written again after {good}");
    }
}

#[test]
fn a_failed_write_is_said_and_made_up_for() {
    let now = Instant::now();
    let mut engine = Engine::new(FaultyStore::new(MemoryStore::default(), 5), options(), now);
    engine.receive(two_services(), now);
    engine.work(|| now);
    let Status { error, behind_since, .. } = engine.status();
    assert!(error.as_deref().is_some_and(|error| error.contains("cannot write")), "{error:?}");
    assert_eq!(*behind_since, Some(now));
    assert_eq!(engine.due(), Some(now + Duration::from_millis(50)));
    settle(&mut engine, now);
    assert_eq!(engine.status().error, None);
}

#[test]
fn news_wait_from_when_they_are_known_in_full_until_they_are_written() {
    let began = Instant::now();
    let listed = began + Duration::from_secs(600);
    let mut engine = Engine::new(FaultyStore::new(MemoryStore::default(), 5), options(), began);
    engine.receive(two_services(), listed);
    engine.work(|| listed);
    let Status { behind_since, errors, changed, programmed, .. } = engine.status();
    assert_eq!(*behind_since, Some(listed), "before, nothing was there to be written");
    assert_eq!(*errors, StoreErrors { write: 1, ..StoreErrors::default() });
    assert_eq!((*changed, *programmed), (Changed { services: 2, slices: 2 }, Changed::default()));
    settle(&mut engine, listed);
    let Status { behind_since, changed, programmed, levels, .. } = engine.status().clone();
    assert_eq!((behind_since, changed), (None, programmed));
    let Image { v4, names, runs, .. } = image(&mut engine);
    let slots = runs.values().map(Slots::len).sum();
    for (map, entries) in [("FRONTENDS_V4", v4.frontends.len()), ("NAMES", names.len()), ("SLOTS", slots)] {
        assert!(levels.contains(&(map, entries as u64)), "{map} {entries}: {levels:?}");
    }
}

#[test]
fn programming_is_measured_from_the_arrival_of_a_change_but_not_of_the_first_lists() {
    let now = Instant::now();
    let options = options();
    let programming = options.programming.clone();
    let metrics = Metrics::new(&programming, &Probes::default(), Snapshot::default);
    let says = |line: &str| {
        let text = metrics.render().expect("a string");
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    };
    let mut engine = Engine::new(MemoryStore::default(), options, now);
    engine.receive(two_services(), now);
    let now = settle(&mut engine, now);
    says("sluice_programming_duration_seconds_count 0");
    says("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1");
    engine.receive(one_endpoint_less(), now);
    engine.receive(one_endpoint_less(), now);
    engine.work(|| now + Duration::from_millis(3));
    says("sluice_programming_duration_seconds_count 1");
    says("sluice_programming_duration_seconds_sum 0.003");
}

#[test]
fn a_full_map_gets_room_from_what_is_to_go() {
    let now = Instant::now();
    let (engine, now) = run(MemoryStore::default(), now, [two_services()]);
    // Service 1 moves to another address: one frontend to add, two to remove.
    let moved = service(1, vec![ip(Family::V4, 96, 3)], &[(1, Protocol::Tcp)]);
    let Message::Events(mut lists) = two_services() else { unreachable!() };
    lists.push(Event::Service(Change::Apply(moved)));
    let mut engine = Engine::new(FaultyStore::full(engine.into_store(), 0), options(), now);
    engine.receive(Message::Events(lists), now);
    engine.work(|| now);
    assert!(engine.status().error.as_deref().is_some_and(|error| error.contains("--max-services")));
    let left: Vec<_> = image(&mut engine).v4.frontends.keys().map(|key| format!("{:?}", key.addr)).collect();
    assert!(left.iter().all(|addr| addr == "10.96.0.1"), "{left:?}");
    settle(&mut engine, now);
}

/// A Service of TCP with affinity, and so many endpoints.
fn sticky(endpoints: u8) -> Message {
    let service = service(2, vec![ip(Family::V4, 96, 2)], &[(1, Protocol::Tcp)]);
    let endpoints: Vec<_> = (1..=endpoints).map(|host| (host, Condition::Ready)).collect();
    Message::Events(vec![
        Event::Service(Change::Apply(Service { affinity: Some(10_800), ..service })),
        Event::EndpointSlice(Change::Apply(slice(2, 2, Family::V4, &endpoints))),
    ])
}

/// The same for clients inside, of endpoints on their node alone.
fn local(message: Message) -> Message {
    let Message::Events(events) = message else { unreachable!() };
    let local = |event| match event {
        Event::Service(Change::Apply(service)) => {
            let internal_policy = TrafficPolicy::Local;
            Event::Service(Change::Apply(Service { internal_policy, ..service }))
        }
        other => other,
    };
    Message::Events(events.into_iter().map(local).collect())
}

/// The same with one policy for its ClusterIP and the other for a load balancer's address; all endpoints are on the node.
fn sticky_twice(endpoints: u8) -> Message {
    let Message::Events(mut events) = sticky(endpoints) else { unreachable!() };
    for event in &mut events {
        match event {
            Event::Service(Change::Apply(service)) => {
                service.cluster_ips = vec![ip(Family::V4, 96, 4)];
                service.internal_policy = TrafficPolicy::Local;
                service.load_balancer_ips = vec![ip(Family::V4, 97, 2)];
            }
            Event::EndpointSlice(Change::Apply(slice)) => {
                slice.endpoints.iter_mut().for_each(|endpoint| endpoint.node = Some("node".into()));
            }
            _ => {}
        }
    }
    Message::Events(events)
}

#[test]
fn clients_are_let_go_by_each_policy_under_which_they_stay() {
    let (mut engine, now) = run(MemoryStore::default(), Instant::now(), [two_services(), sticky_twice(2)]);
    engine.take_departures();
    let before = image(&mut engine);
    engine.receive(sticky_twice(1), now);
    settle(&mut engine, now);
    let departures = engine.take_departures();
    let after = image(&mut engine);
    let mut stays = std::collections::BTreeSet::new();
    for (key, frontend) in before.v4.frontends.iter().filter(|(_, frontend)| frontend.affinity > 0) {
        for origin in Origin::ALL {
            let [old, new] =
                [&before, &after].map(|image| image.runs[&image.v4.frontends[key].table(origin).at].clone());
            let stay = AffinityKey { client: V4::default(), service: frontend.stay(origin) };
            for id in old.ids() {
                let left = affinity::left_behind(&departures.v4, &stay, &Affinity { backend: *id, seen: 0 });
                assert_eq!(left, !new.ids().contains(id), "{key:?} {origin:?} {id}: {departures:?}");
            }
            stays.insert(stay.service);
        }
    }
    assert_eq!(stays.len(), 2, "a stay of each policy");
}

#[test]
fn only_what_a_backend_left_is_told_to_those_who_look_for_flows() {
    let (mut engine, mut now) = run(MemoryStore::default(), Instant::now(), [two_services()]);
    assert!(engine.take_departures().everywhere, "what the maps led to before is not known");
    let emptied = slice(0, 0, Family::V4, &[]);
    // Frontends of datagrams of each family that lost a backend, and Service ports whose clients stay.
    let rows = [
        ("an endpoint left a Service with a UDP port", one_endpoint_less(), [1, 0, 0]),
        ("nothing changed", one_endpoint_less(), [0, 0, 0]),
        ("an endpoint came to it", two_services(), [0, 0, 0]),
        ("a Service of TCP alone is gone", Message::Events(vec![Event::Service(Change::Delete(name(1)))]), [0, 0, 0]),
        ("all endpoints left", Message::Events(vec![Event::EndpointSlice(Change::Apply(emptied))]), [1, 0, 0]),
        ("the Service is gone", Message::Events(vec![Event::Service(Change::Delete(name(0)))]), [0, 1, 0]),
        ("a Service of TCP has affinity", sticky(2), [0, 0, 0]),
        ("it has one endpoint less", sticky(1), [0, 0, 1]),
        ("it has one more", sticky(2), [0, 0, 0]),
        ("another traffic policy leads its clients", local(sticky(2)), [0, 0, 1]),
        ("an endpoint here came", local(sticky(4)), [0, 0, 0]),
        ("the endpoint here left", local(sticky(3)), [0, 0, 1]),
        ("it is gone", Message::Events(vec![Event::Service(Change::Delete(name(2)))]), [0, 0, 0]),
    ];
    for (what, message, expected) in rows {
        engine.receive(message, now);
        now = settle(&mut engine, now);
        let mut departures = engine.take_departures();
        departures.keep_lost();
        let Departures { everywhere, v4, v6 } = &departures;
        let lost = [v4.datagrams.len(), v6.datagrams.len(), v4.sticky.len()];
        assert_eq!((*everywhere, lost), (false, expected), "{what}: {departures:?}");
        assert_eq!(departures.any_lost(), expected != [0, 0, 0], "{what}");
    }
}

type Spoil = fn(&mut MemoryStore);

#[test]
fn a_sweep_repairs_what_others_did() {
    let spoils: [(&str, Spoil); 8] = [
        ("a frontend is gone", |store| {
            store.spoil().v4.frontends.pop_first();
        }),
        ("a backend is another", |store| store.spoil().v4.backends.values_mut().for_each(|b| b.addr = V4::default())),
        ("a name is gone", |store| store.spoil().names.clear()),
        ("the filter is empty", |store| store.spoil().filter.clear()),
        ("a source range is gone", |store| store.spoil().v4.ranges.clear()),
        ("everybody is admitted", |store| {
            let range = *store.spoil().v4.ranges.first().expect("one");
            store.spoil().v4.ranges.insert((RangeKey { addr: V4::default(), ..range.0 }, 32));
        }),
        ("the tables are zero", |store| store.spoil_slots().fill(0)),
        ("there is a stranger", |store| {
            let (key, frontend) = store.spoil().v4.frontends.last_key_value().map(|(k, f)| (*k, *f)).expect("one");
            let stranger = lb_common::tables::FrontendKey { addr: V4([9]), ..key };
            store.spoil().v4.frontends.insert(stranger, frontend);
        }),
    ];
    for (what, spoil) in spoils {
        let (mut engine, now) = run(MemoryStore::default(), Instant::now(), [two_services()]);
        let wanted = image(&mut engine);
        spoil(engine.store());
        assert_ne!(image(&mut engine), wanted, "{what}");
        let sweep = engine.due().expect("a sweep");
        assert!(sweep <= now + options().sweep);
        engine.work(|| sweep);
        assert_eq!(image(&mut engine), wanted, "{what}");
        assert!(engine.status().repairs > 0, "{what}");
    }
}

#[test]
fn a_restart_over_spoiled_maps_repairs_them() {
    let (mut engine, now) = run(MemoryStore::default(), Instant::now(), [two_services()]);
    let wanted = found::<V4>(&image(&mut engine));
    let mut store = engine.into_store();
    // Two frontends lead into each other's tables, and ids stand twice.
    store.spoil().v4.frontends.values_mut().for_each(|frontend| frontend.inside.at += 7);
    let twice = store.spoil().v4.backends[&1];
    store.spoil().v4.backends.insert(9, twice);
    store.spoil().v4.backends.insert(900_000, twice);
    let (mut engine, now) = run(store, now, [two_services()]);
    assert_eq!(found::<V4>(&image(&mut engine)), wanted);
    let later = now + Duration::from_secs(3);
    engine.work(|| later);
    assert_eq!(found::<V4>(&image(&mut engine)), wanted);
    assert_eq!(image(&mut engine).v4.backends.len(), 6, "three endpoints, two target ports");
}

#[test]
fn one_changed_service_costs_the_writes_of_that_service() {
    let (mut engine, now) = run(MemoryStore::default(), Instant::now(), [two_services()]);
    let before = engine.status().writes;
    engine.receive(one_endpoint_less(), now);
    settle(&mut engine, now);
    // Two ports, each a table and a frontend.
    assert_eq!(engine.status().writes - before, 4);
}

#[test]
fn problems_of_sources_and_services_stand_in_the_status_until_they_are_gone() {
    let (mut engine, now) = run(MemoryStore::default(), Instant::now(), [two_services()]);
    let mistake = Problem::new("a.yaml", "it makes no sense");
    engine.receive(Message::Problems(vec![mistake.clone()]), now);
    assert_eq!(engine.status().problems, [mistake]);
    engine.receive(Message::Problems(vec![]), now);
    let clash = service(2, vec![ip(Family::V4, 96, 1)], &[(1, Protocol::Tcp)]);
    engine.receive(Message::Events(vec![Event::Service(Change::Apply(clash))]), now);
    let now = settle(&mut engine, now);
    assert_eq!(engine.status().problems.len(), 1, "{:?}", engine.status().problems);
    engine.receive(Message::Events(vec![Event::Service(Change::Delete(name(2)))]), now);
    settle(&mut engine, now);
    assert!(engine.status().problems.is_empty());
}

#[tokio::test]
async fn the_loop_works_at_once_retries_follows_its_node_and_ends_with_its_source() {
    let (messages, receiver) = mpsc::channel(4);
    let (sender, mut status) = watch::channel(Status::default());
    let store = FaultyStore::new(MemoryStore::default(), 3);
    let (node, news_of_node) = watch::channel(options().node);
    let news = News { messages: receiver, node: news_of_node };
    let (departures, _) = std::sync::mpsc::channel();
    let listeners = Listeners { status: sender, departures };
    let task = tokio::spawn(reconcile::run(store, options(), news, listeners));
    messages.send(two_services().now()).await.expect("it listens");
    status.wait_for(|status| status.error.is_some()).await.expect("it lives");
    status.wait_for(|status| status.behind_since.is_none()).await.expect("it lives");
    // The virtual IP of both families of the first Service becomes the node's own.
    let own = [ip(Family::V4, 96, 1), ip(Family::V6, 96, 1)].into();
    node.send(NodeFacts { own, ..options().node }).expect("it listens");
    status.wait_for(|status| status.problems.len() == 2).await.expect("it lives");
    node.send(options().node).expect("it listens");
    status.wait_for(|status| status.problems.is_empty()).await.expect("it lives");
    drop((messages, node));
    task.await.expect("it ends well");
}
