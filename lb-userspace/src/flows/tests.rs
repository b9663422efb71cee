use std::net::Ipv4Addr;

use lb_common::flow;
use lb_common::ip::{Be16, V4};
use lb_common::tables::{Backend, Frontend, Side};

use super::*;

const NOW: u32 = 100_000;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

fn ip(last: u8) -> V4 {
    Ipv4Addr::new(10, 0, 0, last).into()
}

/// Virtual IP .100 with port 80 over TCP and UDP, leading to backends 1 and 2 at .1 and .2, port 8080.
fn image() -> Image {
    let mut image = Image::default();
    for (id, last) in [(1, 1), (2, 2)] {
        image.v4.backends.insert(id, Backend { addr: ip(last), port: Be16::new(8080), flags: 0 });
    }
    for proto in [TCP, UDP] {
        let frontend = Frontend::with_table(1, Table { at: 0, len: 3 });
        image.v4.frontends.insert(FrontendKey::new(ip(100), Be16::new(80), proto), frontend);
    }
    image.runs.insert(0, vec![1, 2, 1].into());
    image
}

type Entries = BTreeMap<FlowKey<V4>, Flow<V4>>;

/// A pair to a backend, last seen so many seconds ago, there and back.
fn pair(proto: u8, backend: u32, bits: u32, ages: (u64, u64)) -> Entries {
    let key = FlowKey {
        src: ip(50),
        dst: ip(100),
        sport: Be16::new(4000),
        dport: Be16::new(80),
        proto,
        side: Side::Ingress as u8,
        zero: 0,
    };
    let to = Backend { addr: ip(u8::try_from(backend).unwrap()), port: Be16::new(8080), flags: 0 };
    let seen = |age| NOW - ticks(age);
    let there = Flow { backend, service: 1, ..flow::there(&key, &to, key.src, bits, seen(ages.0)) };
    let (back_key, back) = mirror(&key, &there);
    [(key, there), (back_key, Flow { seen: seen(ages.1), ..back })].into()
}

fn removed(entries: &Entries, image: &Image) -> usize {
    let mut current = Current::new(image);
    over(entries, |key, flow| current.leads(key, flow), NOW).len()
}

#[test]
fn silence_ends_a_flow_sooner_or_later() {
    use state::ESTABLISHED;
    let rows = [
        ("a connection", TCP, ESTABLISHED, 8_000),
        ("half closed", TCP, ESTABLISHED | state::FIN_BACK, 240),
        ("closed", TCP, ESTABLISHED | state::FINS, 120),
        ("reset", TCP, ESTABLISHED | state::RST, 10),
        ("reset after closed", TCP, ESTABLISHED | state::RST | state::FINS, 10),
        ("datagrams", UDP, ESTABLISHED, 120),
        ("an association", SCTP, ESTABLISHED, 210),
        ("an association that closes", SCTP, ESTABLISHED | state::FIN_THERE, 10),
        ("a closed association", SCTP, ESTABLISHED | state::FINS, 10),
        ("an aborted association", SCTP, ESTABLISHED | state::RST, 10),
        ("a connection not answered", TCP, 0, 60),
        ("a datagram not answered", UDP, 0, 60),
        ("an association not answered", SCTP, 0, 60),
        ("refused", TCP, state::RST, 10),
    ];
    for (what, proto, bits, timeout) in rows {
        let old = |age| removed(&pair(proto, 1, bits, (age, age)), &image());
        assert_eq!(old(timeout), 0, "{what} lives for {timeout} s");
        assert_eq!(old(timeout + 3), 2, "{what} ends after {timeout} s");
    }
}

#[test]
fn a_pair_lives_while_either_side_speaks() {
    for ages in [(0, 9_000), (9_000, 0)] {
        assert_eq!(removed(&pair(TCP, 1, state::ESTABLISHED, ages), &image()), 0, "{ages:?}");
    }
}

#[test]
fn one_side_may_know_of_the_end_before_the_other() {
    let mut entries = pair(TCP, 1, state::ESTABLISHED, (60, 60));
    entries.values_mut().last().unwrap().state |= state::RST;
    assert_eq!(removed(&entries, &image()), 2);
}

#[test]
fn datagrams_leave_a_backend_that_no_longer_serves_at_once() {
    let fresh = |backend| pair(UDP, backend, state::ESTABLISHED, (0, 0));
    assert_eq!(removed(&fresh(1), &image()), 0);
    assert_eq!(removed(&fresh(3), &image()), 2, "it never was in the set");
    let mut left = image();
    left.runs.insert(0, vec![2, 2, 2].into());
    assert_eq!(removed(&fresh(1), &left), 2, "it left the set");
    let mut empty = image();
    empty.v4.frontends.values_mut().for_each(|frontend| *frontend = Frontend::refusing(1));
    assert_eq!(removed(&fresh(1), &empty), 2, "the set is empty");
    let mut gone = image();
    gone.v4.frontends.clear();
    assert_eq!(removed(&fresh(1), &gone), 2, "the Service is gone");
    let mut reused = image();
    reused.v4.backends.insert(1, Backend { addr: ip(9), port: Be16::new(8080), flags: 0 });
    assert_eq!(removed(&fresh(1), &reused), 2, "the id is another's now");
}

#[test]
fn an_answer_to_datagrams_still_finds_its_way_back() {
    let going = |proto, age, alone: bool| {
        let mut entries = pair(proto, 1, 0, (age, age));
        if alone {
            entries.retain(|_, flow| flow.state & state::THERE == 0);
        }
        let going = entries.iter().filter(|(key, flow)| goes_now(&entries, key, flow, NOW));
        going.map(|(_, flow)| flow.state & state::THERE != 0).collect::<Vec<_>>()
    };
    assert_eq!(going(UDP, 100, false), [true], "the way there");
    assert_eq!(going(UDP, 0, true), [false; 0], "answers come");
    assert_eq!(going(UDP, 10, true), [false], "no more answers");
    assert_eq!(going(TCP, 0, false).len(), 2);
}

#[test]
fn a_connection_stays_with_its_backend_whatever_becomes_of_the_service() {
    let nothing = Image::default();
    for proto in [TCP, SCTP] {
        assert_eq!(removed(&pair(proto, 1, state::ESTABLISHED, (0, 0)), &nothing), 0);
    }
}

#[test]
fn an_entry_that_lost_its_partner_is_judged_by_itself() {
    for there in [true, false] {
        let alone = |proto, age| -> Entries {
            let pair = pair(proto, 1, 0, (age, age));
            pair.into_iter().filter(|(_, flow)| (flow.state & state::THERE != 0) == there).collect()
        };
        assert_eq!(removed(&alone(UDP, 0), &image()), 0);
        assert_eq!(removed(&alone(UDP, 0), &Image::default()), 1);
        assert_eq!(removed(&alone(TCP, 100), &image()), 1);
    }
}

#[test]
fn a_packet_from_the_future_is_of_now() {
    let mut entries = pair(TCP, 1, 0, (0, 0));
    entries.values_mut().for_each(|flow| flow.seen = NOW + 5);
    assert_eq!(removed(&entries, &image()), 0);
}

#[test]
fn connections_that_speak_are_waited_for_and_those_that_ended_or_fell_silent_are_not() {
    let rows = [
        ("speaks", TCP, 0, (0, 9), 1),
        ("its backend speaks", TCP, 0, (1000, 59), 1),
        ("silent", TCP, 0, (61, 61), 0),
        ("half closed", TCP, state::FIN_BACK, (50, 50), 1),
        ("its last segment may be on the way", TCP, state::FINS, (9, 1), 1),
        ("closed", TCP, state::FINS, (4, 4), 0),
        ("reset", TCP, state::RST, (4, 4), 0),
        ("datagrams", UDP, 0, (0, 0), 0),
        ("an association", SCTP, 0, (50, 45), 1),
    ];
    for (name, proto, bits, ages, expected) in rows {
        assert_eq!(unfinished(&pair(proto, 1, bits, ages), NOW), expected, "{name}");
    }
}
