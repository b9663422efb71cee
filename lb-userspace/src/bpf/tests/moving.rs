//! Packets that come while flows move to a larger table.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lb_common::flow::mirror;
use lb_common::flow::table::{Bucket as _, Memory as _, Way as _};
use lb_common::ip::Family;
use lb_common::tables::backend;

use super::flow_tables::{FULL, LARGER, ROOM, larger, object, table_of};
use super::mapped::Mapped;
use super::*;

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// How often flows move, and how many entries.
const ROUNDS: u32 = 20;
const ENTRIES: u16 = 2_000;

/// The key of packets from 1 to port 80 of another.
fn key<A: Of>(addr: impl Fn(u8) -> A, to: u8, n: u16) -> FlowKey<A> {
    FlowKey { src: addr(1), dst: addr(to), sport: Be16::new(n), dport: Be16::new(80), proto: 6, side: 0, zero: 0 }
}

/// A segment of TCP.
fn frame<A: Of>(key: &FlowKey<A>, flags: u8) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(A::ETHERTYPE.to_be_bytes());
    match A::FAMILY {
        Family::V4 => frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]),
        Family::V6 => frame.extend([0x60, 0, 0, 0, 0, 20, 6, 64]),
    }
    frame.extend(bytemuck::bytes_of(&key.src).iter().chain(bytemuck::bytes_of(&key.dst)));
    frame.extend(key.sport.get().to_be_bytes().into_iter().chain(key.dport.get().to_be_bytes()));
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

/// Where a program sends a segment.
fn destination<A: Of>(programs: &Programs, key: &FlowKey<A>, flags: u8) -> A {
    let answer = programs.run(Hook::Xdp, &frame(key, flags), 1).unwrap().frame;
    bytemuck::pod_read_unaligned(&answer[14 + A::SOURCE + size_of::<A>()..][..size_of::<A>()])
}

/// A Service at 2 that has no backend, and one at 4 that has 3.
fn image() -> Image {
    fn put<A: mem::Of>(image: &mut Image, addr: impl Fn(u8) -> A) {
        let side = A::side_mut(image);
        side.frontends.insert(FrontendKey::new(addr(2), Be16::new(80), 6), Frontend::refusing(1));
        let frontend = Frontend::with_table(2, Table { at: 0, len: 1 });
        side.frontends.insert(FrontendKey::new(addr(4), Be16::new(80), 6), frontend);
        side.backends.insert(5, Backend { addr: addr(3), port: Be16::new(8080), flags: backend::LOCAL });
    }
    let mut image = Image::default();
    put(&mut image, v4);
    put(&mut image, v6);
    image.runs.insert(0, [5].into());
    image.filter = frontend_bits(&image);
    image
}

/// Instructions that the verifier may walk through, also where programs see two tables.
const BUDGET: u32 = 200_000;

/// Programs over a table, and such as see a larger one beside it.
fn joined(lab: &Lab) -> [Programs; 2] {
    let (normal, _) = lab.load(&FULL);
    BpfStore::open(&lab.pins).unwrap().apply(&diff(&Image::default(), &image())).unwrap();
    let joined = object().load_joined(&lab.pins, larger(), false).unwrap();
    for (program, instructions) in joined.verified().unwrap() {
        println!("{program:<23} {instructions:>7} instructions verified");
        assert!(instructions <= BUDGET, "{program} took the verifier {instructions} instructions, {BUDGET} allowed");
    }
    [normal, joined]
}

/// Has the first packets of flows come, of which one table of the two gets both entries.
fn open<A: Of>(programs: &[Programs], tables: &[Mapped<A>; 2], all: std::ops::Range<u16>, addr: impl Fn(u8) -> A) {
    for n in all {
        let key = key(&addr, 4, n);
        // Twice: the second packet finds what the first has opened.
        for programs in programs.iter().chain(programs) {
            assert_eq!(destination(programs, &key, SYN), addr(3), "{n}");
        }
        let there = table::find(&&tables[0], &key).unwrap_or_else(|| panic!("{n} is not in its table"));
        assert!(table::find(&&tables[0], &mirror(&key, &there.flow).0).is_some(), "{n} has no way back");
        // Where it has moved from it can still be read.
        assert_eq!(table::search(&&tables[1], &key), table::NOWHERE, "{n} is in both tables");
    }
}

#[test]
fn flows_are_opened_in_the_table_that_programs_of_either_kind_look_into() {
    fn family<A: Of>(lab: &Lab, [normal, joined]: [Programs; 2], addr: impl Fn(u8) -> A) {
        let tables = |ends: [&str; 2], flows: [u32; 2]| [0, 1].map(|at| table_of::<A>(lab, ends[at], flows[at]));
        let programs = [normal, joined];
        open(&programs, &tables(["", "-new"], [ROOM, LARGER]), 1..200, &addr);
        let under_way = Move::begin(&lab.pins).unwrap();
        open(&programs[1..], &tables(["-new", ""], [LARGER, ROOM]), 200..400, &addr);
        assert_eq!(under_way.entries().unwrap(), 2 * 199);
        let moved = object().load_moved(&lab.pins, false).unwrap();
        let [_, joined] = programs;
        open(&[joined, moved], &tables(["-new", ""], [LARGER, ROOM]), 1..600, &addr);
    }
    let Some(lab) = Lab::new("flows_are_opened_in_the_table_that_programs_of_either_kind_look_into") else { return };
    family(&lab, joined(&lab), v4);
    uninstall(&lab.pins).unwrap();
    family(&lab, joined(&lab), v6);
}

/// All of a family, and how often they are listed.
fn listed<A: Of>(maps: &Maps, mut at_first: impl FnMut()) -> BTreeMap<FlowKey<A>, u32> {
    let mut times = BTreeMap::new();
    let each = |key: &FlowKey<A>, _: &Flow<A>| {
        if times.is_empty() {
            at_first();
        }
        *times.entry(*key).or_default() += 1;
    };
    maps.flows::<A>(each).unwrap();
    times
}

/// As many entries in an empty table as are to move.
fn fill<A: Of>(table: &Mapped<A>, addr: impl Fn(u8) -> A) {
    for n in 0..ENTRIES {
        let (sport, dport) = (Be16::new(n), Be16::new(8080));
        let state = state::THERE | state::ESTABLISHED;
        let flow = Flow { src: addr(1), dst: addr(3), sport, dport, state, backend: 7, ..Flow::zeroed() };
        table::insert(&table, &key(&addr, 2, n), &flow).unwrap();
    }
}

/// Takes all entries out.
fn empty<A: Of>(table: &Mapped<A>) {
    let rows = (0..table.buckets()).filter_map(|at| table.bucket(at));
    rows.flat_map(|row| (0..table::WAYS).filter_map(move |at| row.way(at))).for_each(|way| way.publish(0));
}

#[test]
fn who_lists_flows_misses_none_that_moves() {
    fn family<A: Of>(lab: &Lab, addr: impl Fn(u8) -> A) {
        let case = A::FAMILY;
        uninstall(&lab.pins).unwrap();
        drop(lab.load(&FULL));
        fill(&table_of::<A>(lab, "", ROOM), &addr);
        // All move when the first of them are listed, by a program that sees one table only.
        let (mut joined, mut under_way) = (None, None);
        let maps = Maps::open(&lab.pins).unwrap();
        let all = listed::<A>(&maps, || {
            joined = Some(object().load_joined(&lab.pins, larger(), false).unwrap());
            let begun = Move::begin(&lab.pins).unwrap();
            assert_eq!(begun.entries().unwrap(), u64::from(ENTRIES));
            under_way = Some(begun);
        });
        assert_eq!(all.len(), usize::from(ENTRIES), "{case:?}");
        let (old, new) = (&table_of::<A>(lab, "", ROOM), &table_of::<A>(lab, "-new", LARGER));
        let (under_way, mut twice) = (&under_way.unwrap(), 0);
        for round in 0..ROUNDS {
            empty(old);
            empty(new);
            fill(old, &addr);
            thread::scope(|scope| {
                let mover = scope.spawn(|| assert_eq!(under_way.entries().unwrap(), u64::from(ENTRIES)));
                while !mover.is_finished() {
                    let all = listed::<A>(&maps, || ());
                    assert_eq!(all.len(), usize::from(ENTRIES), "{case:?}, {round}");
                    twice += all.values().filter(|times| **times > 1).count();
                }
            });
        }
        println!("{case:?}: entries were listed twice {twice} times");
    }
    let Some(lab) = Lab::new("who_lists_flows_misses_none_that_moves") else { return };
    family(&lab, v4);
    family(&lab, v6);
}

#[test]
fn no_packet_misses_its_flow_while_it_moves() {
    fn family<A: Of>(lab: &Lab, programs: &Programs, under_way: &Move, addr: impl Fn(u8) -> A + Copy) {
        let (old, new) = (&table_of::<A>(lab, "", ROOM), &table_of::<A>(lab, "-new", LARGER));
        let known: Vec<_> = (0..ENTRIES).map(|n| key(addr, 2, n)).collect();
        let state = state::THERE | state::ESTABLISHED;
        let mut packets = 0;
        for round in 0..ROUNDS {
            empty(old);
            fill(old, addr);
            let is_over = &AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(move || {
                    assert_eq!(under_way.entries().unwrap(), u64::from(ENTRIES));
                    is_over.store(true, Ordering::Relaxed);
                });
                // Buckets come in turn, keys do not.
                for key in &known {
                    assert_eq!(destination(programs, key, FIN | ACK), addr(3), "{round}: {key:?}");
                    packets += u32::from(!is_over.load(Ordering::Relaxed));
                }
            });
            for key in &known {
                assert_eq!(destination(programs, key, ACK), addr(3), "{round}: {key:?}");
                let mut found = table::find(&new, key).unwrap();
                assert_eq!((found.flow.state, found.flow.backend), (state | state::FIN_THERE, 7), "{round}: {key:?}");
                assert!(found.remove(&new));
            }
        }
        println!("{packets} packets came while {} entries moved", ROUNDS * u32::from(ENTRIES));
    }
    let Some(lab) = Lab::new("no_packet_misses_its_flow_while_it_moves") else { return };
    let [_, joined] = joined(&lab);
    let under_way = Move::begin(&lab.pins).unwrap();
    family(&lab, &joined, &under_way, v4);
    family(&lab, &joined, &under_way, v6);
}
