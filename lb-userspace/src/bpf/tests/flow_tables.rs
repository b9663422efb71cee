//! A larger table of flows in the place of a pinned one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aya::programs::ProgramInfo;

use super::mapped::Mapped;
use super::*;

pub(super) const ROOM: u32 = 2_000;
pub(super) const LARGER: u32 = 5_000;

pub(super) const FULL: Capacities = Capacities { flows_at_first: ROOM, ..SMALL };

pub(super) fn table_of<A: Of>(lab: &Lab, end: &str, flows: u32) -> Mapped<A> {
    let array = sys::open(&pinned::<A>(lab, end)).unwrap();
    Mapped::new(array.as_fd(), table::buckets_for(flows))
}

fn pinned<A: Of>(lab: &Lab, end: &str) -> PathBuf {
    lab.pins.maps().join(format!("{}{end}", flow_map::<A>()))
}

fn entry<A: Of>(n: u16, addr: impl Fn(u8) -> A) -> (FlowKey<A>, Flow<A>) {
    let (port, dport) = (Be16::new(n), Be16::new(80));
    let key = FlowKey { src: addr(1), dst: addr(2), sport: port, dport, proto: 6, side: 0, zero: 0 };
    let state = state::THERE | if n.is_multiple_of(3) { state::REPLIED } else { state::REPLIED | state::ESTABLISHED };
    let (addrs, ports) = (n, !n);
    let ids = (n.into(), u32::from(n) + 1);
    let flow = Flow {
        src: addr(3),
        dst: addr(4),
        sport: dport,
        dport: port,
        addrs,
        ports,
        state,
        seen: n.into(),
        backend: ids.0,
        service: ids.1,
    };
    (key, flow)
}

type All = (BTreeMap<FlowKey<V4>, Flow<V4>>, BTreeMap<FlowKey<V6>, Flow<V6>>);

/// What the programs list.
fn listed(lab: &Lab) -> All {
    let mut native = Native::new(Image::default());
    Maps::open(&lab.pins).unwrap().read_flows(&mut native).unwrap();
    (native.v4.flows, native.v6.flows)
}

/// So many entries of each family in the old table, and as many others in one that waits, if it is there.
fn fill(lab: &Lab, waits: bool) -> All {
    fn family<A: Of>(lab: &Lab, waits: bool, addr: impl Fn(u8) -> A) -> BTreeMap<FlowKey<A>, Flow<A>> {
        let old = table_of::<A>(lab, "", ROOM);
        let mut all: BTreeMap<_, _> = (0..1_000).map(|n| entry(n, &addr)).collect();
        all.iter().for_each(|(key, flow)| table::insert(&&old, key, flow).unwrap());
        if waits {
            let new = table_of::<A>(lab, "-new", LARGER);
            for (key, flow) in (1_000..2_000).map(|n| entry(n, &addr)) {
                table::insert(&&new, &key, &flow).unwrap();
                all.insert(key, flow);
            }
        }
        all
    }
    (family(lab, waits, v4), family(lab, waits, v6))
}

pub(super) fn larger() -> LargerTables {
    [Some(table::buckets_for(LARGER)); 2]
}

pub(super) fn object() -> Object {
    Object::embedded().unwrap()
}

/// The tables have the larger room, nothing waits, and no program that is pinned uses another.
fn assert_grown(lab: &Lab, all: &All, case: &str) {
    assert_eq!(&listed(lab), all, "{case}");
    let maps = Maps::open(&lab.pins).unwrap();
    for name in map::FLOWS {
        assert_eq!(maps.capacity(name), table::flows_in(table::buckets_for(LARGER)), "{case}");
    }
    let left = pins::names(&lab.pins.maps()).unwrap().into_iter().find(|name| name.ends_with("-new"));
    assert_eq!(left, None, "{case}");
    let named = map::FLOWS.map(|name| aya::maps::MapInfo::from_pin(lab.pins.maps().join(name)).unwrap().id());
    for (program, id) in [("list_v4", named[0]), ("list_v6", named[1])] {
        let used = ProgramInfo::from_pin(lab.pins.programs().join(program)).unwrap().map_ids().unwrap().unwrap();
        assert!(used.contains(&id), "{case}: {program} uses {used:?}, not {id}");
    }
}

/// Moves what there is to be moved.
fn finish(lab: &Lab, case: &str) -> u64 {
    let under_way = Move::begin(&lab.pins).unwrap();
    assert_eq!(under_way.maps(), "FLOWS_V4 and FLOWS_V6", "{case}");
    let moved = under_way.entries().unwrap();
    let _programs = object().load_moved(&lab.pins, false).unwrap();
    under_way.end().unwrap();
    moved
}

#[test]
fn entries_move_to_a_larger_table_which_takes_the_place_of_theirs() {
    let Some(lab) = Lab::new("entries_move_to_a_larger_table_which_takes_the_place_of_theirs") else { return };
    drop(lab.load(&FULL));
    let all = fill(&lab, false);
    // Twice, as where the first attempt could not attach.
    for _ in 0..2 {
        let _programs = object().load_joined(&lab.pins, larger(), false).unwrap();
        assert_eq!(listed(&lab), all, "joined");
    }
    assert_eq!(finish(&lab, "grows"), 2_000);
    assert_grown(&lab, &all, "grows");
    assert!(Move::under_way(&lab.pins).unwrap().is_none());
    // And so once more. Who wants less later keeps what there is, and is told.
    let (_programs, warnings) = lab.load(&Capacities { flows: ROOM, ..FULL });
    let told = warnings.iter().filter(|text| text.contains("not 2004 (--max-flows): less takes effect")).count();
    assert_eq!(told, 2, "{warnings:?}");
    assert_grown(&lab, &all, "less");
}

/// An agent can be killed at any of these moments.
#[test]
fn what_a_killed_agent_left_of_a_growth_is_dropped_or_finished() {
    let Some(lab) = Lab::new("what_a_killed_agent_left_of_a_growth_is_dropped_or_finished") else { return };
    let again = |case: &str| {
        uninstall(&lab.pins).unwrap();
        drop(lab.load(&FULL));
        drop(object().load_joined(&lab.pins, larger(), false).unwrap_or_else(|error| panic!("{case}: {error}")));
    };
    again("joined");
    let all = fill(&lab, false);
    drop(lab.load(&FULL));
    assert_eq!(listed(&lab), all);
    let left: Vec<_> =
        pins::names(&lab.pins.maps()).unwrap().into_iter().filter(|name| name.ends_with("-new")).collect();
    assert!(left.is_empty() && Move::under_way(&lab.pins).unwrap().is_none(), "{left:?}");

    for case in ["turned", "half moved", "moved", "moved, and programs loaded"] {
        again(case);
        let all = fill(&lab, case != "turned");
        let under_way = Move::begin(&lab.pins).unwrap();
        if case.starts_with("moved") {
            assert_eq!(under_way.entries().unwrap(), 2_000, "{case}");
        }
        if case.ends_with("loaded") {
            drop(object().load_moved(&lab.pins, false).unwrap());
        }
        drop(lab.load(&FULL));
        assert_eq!(listed(&lab), all, "{case}");
        assert_eq!(finish(&lab, case), if case.starts_with("moved") { 0 } else { 2_000 }, "{case}");
        assert_grown(&lab, &all, case);
    }
}

#[test]
fn a_table_that_is_half_full_is_to_grow_up_to_what_the_option_says() {
    let Some(lab) = Lab::new("a_table_that_is_half_full_is_to_grow_up_to_what_the_option_says") else { return };
    drop(lab.load(&FULL));
    let wants = |entries: u64, flows: u32| {
        larger_flow_tables(&lab.pins, &[("FLOWS_V6", entries)], &Capacities { flows, ..FULL }).unwrap()
    };
    let buckets = table::buckets_for(ROOM);
    assert_eq!(wants(2_000, 1 << 20), None);
    assert_eq!(wants(2_100, 1 << 20), Some([None, Some(8 * buckets)]));
    assert_eq!(wants(2_100, LARGER), Some([None, Some(table::buckets_for(LARGER))]));
    assert_eq!(wants(4_000, ROOM), None);
}
