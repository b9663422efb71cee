//! The table of flows against a plain map, one access after the other; and under every order in which two CPUs can meet
//! (loom).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use lb_common::flow::table::{self, Bucket as _, Memory as _};
use lb_common::flow::{mirror, state};
use lb_common::ip::{Be16, V4};
use lb_common::route::{Kept, NextHop, Stamp};
use lb_common::tables::{Flow, FlowKey, InsertError, Refused};

mod memory;
mod moves;
mod races;

use memory::plain;

fn ip(n: u32) -> V4 {
    Ipv4Addr::from_bits(n).into()
}

fn key(n: u32) -> FlowKey<V4> {
    let (sport, dport) = (Be16::new(n as u16), Be16::new(80));
    FlowKey { src: ip(0x0a00_0000 + (n >> 16)), dst: ip(0x0a60_0001), sport, dport, proto: 6, side: 0, zero: 0 }
}

/// Every field says whose flow it is.
fn flow(n: u32) -> Flow<V4> {
    Flow {
        src: ip(n),
        dst: ip(!n),
        sport: Be16::new(n as u16),
        dport: Be16::new(!n as u16),
        addrs: n as u16,
        ports: !n as u16,
        state: state::THERE,
        seen: 100,
        backend: n,
        service: !n,
    }
}

#[test]
fn a_table_filled_to_its_measure_establishes_nearly_all_and_loses_none() {
    let flows = 6_000;
    let table = plain::Table::new(table::buckets_for(flows));
    let table = &&table;
    let mut known = BTreeMap::new();
    let mut refused = 0;
    for n in 0..2 * flows {
        assert_eq!(table::insert(table, &key(n), &flow(n)), Ok(()), "{n}");
        assert_eq!(table::insert(table, &key(n), &flow(n)), Err(InsertError::Exists), "{n}");
        let mut entry = table::find(table, &key(n)).unwrap_or_else(|| panic!("{n} is not where it was put"));
        assert_eq!(entry.flow, flow(n));
        if entry.establish(table) {
            known.insert(n, Flow { state: state::THERE | state::ESTABLISHED, ..flow(n) });
        } else {
            refused += 1;
        }
        if n % 1200 == 1199 {
            println!("filled to {} of 100: {refused} of {} entries stayed half-open", (n + 1) / 120, n + 1);
        }
    }
    assert!(refused < 2 * flows / 20, "{refused}");
    // A flood pushes out none of them.
    for n in 1_000_000..1_100_000 {
        assert_eq!(table::insert(table, &key(n), &flow(n)), Ok(()), "{n}");
    }
    for (n, flow) in &known {
        let entry = table::find(table, &key(*n)).unwrap_or_else(|| panic!("{n} was pushed out"));
        assert_eq!(entry.flow, *flow);
    }
    for n in known.keys() {
        let mut entry = table::find(table, &key(*n)).expect("it is there");
        assert!(entry.remove(table) && table::find(table, &key(*n)).is_none());
    }
    let mut left = 0;
    for row in (0..table.buckets()).filter_map(|at| table.bucket(at)) {
        for way in (0..table::WAYS).filter_map(|at| row.way(at)) {
            if let Some((key, flow)) = table::entry::<V4, _>(way) {
                assert!(!flow.is_established(), "{key:?}");
                left += 1;
            }
        }
    }
    assert!(left > 0);
}

#[test]
fn a_key_that_is_in_its_second_bucket_is_not_added_to_its_first() {
    let flows = 6_000;
    let table = plain::Table::new(table::buckets_for(flows));
    let table = &&table;
    for n in 0..2 * flows {
        assert_eq!(table::insert(table, &key(n), &flow(n)), Ok(()), "{n}");
    }
    let mut kept = Vec::new();
    for n in 0..2 * flows {
        if let Some(mut entry) = table::find(table, &key(n))
            && (n % 10 == 0 || !entry.remove(table))
        {
            kept.push(n);
        }
    }
    assert!(kept.len() > flows as usize / 10);
    for n in kept {
        assert_eq!(table::insert(table, &key(n), &flow(n)), Err(InsertError::Exists), "{n}");
    }
}

/// Fills a table with established flows to what it takes, and its other ways with half-open ones. Their keys.
fn fill(table: &plain::Table) -> Vec<FlowKey<V4>> {
    let mut half_open = Vec::new();
    for n in 1_000_000..1_000_000 + 40 * table.buckets() {
        table::insert(&table, &key(n), &flow(n)).expect("an older one makes room");
        if !table::find(&table, &key(n)).expect("it is there").establish(&table) {
            half_open.push(key(n));
        }
    }
    half_open
}

fn marked(table: &plain::Table, key: &FlowKey<V4>, bits: u32) {
    if let Some(mut entry) = table::find(&table, key) {
        entry.mark(&table, bits);
    }
}

#[test]
fn in_a_full_table_flows_that_are_over_make_room_before_those_that_last() {
    let table = &plain::Table::new(table::buckets_for(1200));
    for (n, key) in fill(table).iter().enumerate() {
        marked(table, key, [state::RST, state::FINS][n % 2]);
    }
    // Ten connections at once, again and again.
    for opened in (0..3000).map(pair_of).collect::<Vec<_>>().chunks(10) {
        for (key, flow) in opened {
            assert_eq!(table::insert_both(&table, key, flow), Ok(()));
        }
        for (key, flow) in opened {
            let (back_key, _) = mirror(key, flow);
            for key in [key, &back_key] {
                assert!(table::find(&table, key).is_some(), "{key:?} was pushed out while it lasted");
                marked(table, key, state::FIN_THERE);
                marked(table, key, state::FIN_BACK);
            }
        }
    }
}

#[test]
fn a_flow_that_one_side_has_closed_is_not_over() {
    let table = &plain::Table::new(1);
    for n in 0..table::WAYS {
        table::insert(&table, &key(n), &flow(n)).expect("room");
        marked(table, &key(n), [state::FIN_THERE, state::FIN_BACK, state::RST, state::REPLIED][n as usize % 4]);
    }
    let over = |n: &u32| n % 4 == 2;
    for n in (0..table::WAYS).filter(over) {
        table::insert(&table, &key(100 + n), &flow(100 + n)).expect("one that is over makes room");
    }
    for n in 0..table::WAYS {
        assert_eq!(table::find(&table, &key(n)).is_none(), over(&n), "{n}");
    }
}

/// Every field says whose next hop it is.
fn next_hop(n: u8) -> NextHop {
    NextHop::new(n.into(), u16::from(n) << 8, [n; 6], [!n; 6])
}

fn stamp(n: u32) -> Stamp {
    Stamp { epoch: n, now: 100, from: 2, xdp: true }
}

fn only(next: NextHop) -> Kept {
    Kept { next, hand_over: false }
}

#[test]
fn a_next_hop_holds_for_its_own_stamp_and_until_the_entry_is_touched() {
    let table = plain::Table::new(1);
    let table = &&table;
    table::insert(table, &key(1), &flow(1)).expect("room");
    let found = || table::find(table, &key(1)).expect("it is there");
    assert_eq!(found().kept(table, &stamp(1)), Kept::NOTHING);
    found().keep(table, &next_hop(1), &stamp(1));
    assert_eq!(found().kept(table, &stamp(1)), only(next_hop(1)));
    assert_eq!(found().flow, Flow { seen: 100, ..flow(1) });
    let others = [
        Stamp { epoch: 2, ..stamp(1) },
        Stamp { epoch: 1 << 31 | 1, ..stamp(1) },
        Stamp { now: 101, ..stamp(1) },
        Stamp { from: 3, ..stamp(1) },
        Stamp { xdp: false, ..stamp(1) },
        Stamp { now: 101, epoch: 0, ..stamp(1) },
    ];
    for other in others {
        assert_eq!(found().kept(table, &other), Kept::NOTHING, "{other:?}");
    }
    for epoch in (0..1 << 16).filter(|epoch| *epoch != 1) {
        assert_eq!(found().kept(table, &Stamp { epoch, ..stamp(1) }), Kept::NOTHING, "{epoch}");
    }
    // What TC keeps tells XDP that it need not ask.
    found().keep(table, &next_hop(2), &Stamp { xdp: false, ..stamp(1) });
    assert_eq!(found().kept(table, &stamp(1)), Kept { next: NextHop::NONE, hand_over: true });
    assert_eq!(found().kept(table, &Stamp { xdp: false, ..stamp(1) }), only(next_hop(2)));
    // An index that does not fit is not kept; a touch forgets, also one by a CPU that is late.
    let far = NextHop { device: 1 << 16, ..next_hop(3) };
    found().keep(table, &far, &stamp(1));
    assert_eq!(found().kept(table, &stamp(1)), Kept { next: NextHop::NONE, hand_over: true });
    found().keep(table, &next_hop(1), &stamp(1));
    found().touch(table, 100);
    assert_eq!(found().kept(table, &stamp(1)), Kept::NOTHING);
    // It is the entry's, not the place's.
    found().keep(table, &next_hop(1), &stamp(1));
    let late = found();
    assert!(found().remove(table));
    table::insert(table, &key(1), &flow(1)).expect("room");
    late.keep(table, &next_hop(1), &stamp(1));
    assert_eq!(found().kept(table, &stamp(1)), Kept::NOTHING);
}

/// The entry there of a flow that is answered from `backend`.
fn pair(n: u32, backend: u32) -> (FlowKey<V4>, Flow<V4>) {
    let key = key(n);
    (key, Flow { src: key.src, dst: ip(backend), sport: key.sport, dport: Be16::new(8080), ..flow(n) })
}

fn pair_of(n: u32) -> (FlowKey<V4>, Flow<V4>) {
    pair(n, n % 7)
}

#[test]
fn both_entries_of_a_flow_are_there_or_it_is_said_which_is_not() {
    let flows = 6_000;
    let table = plain::Table::new(table::buckets_for(flows));
    let table = &&table;
    for n in 0..flows {
        let (key, flow) = pair_of(n);
        let (back_key, back) = mirror(&key, &flow);
        assert_eq!(table::insert_both(table, &key, &flow), Ok(()), "{n}");
        for (key, flow) in [(key, flow), (back_key, back)] {
            let entry = table::find(table, &key).unwrap_or_else(|| panic!("{n} is not where it was put"));
            assert_eq!(entry.flow, flow);
        }
        assert_eq!(table::insert_both(table, &key, &flow), Err(Refused::Back(InsertError::Exists)), "{n}");
        // Another backend's answers have another key.
        let (_, elsewhere) = pair(n, 7);
        assert_eq!(table::insert_both(table, &key, &elsewhere), Err(Refused::There(InsertError::Exists)), "{n}");
        let mut way_back = table::find(table, &mirror(&key, &elsewhere).0).expect("it was there first");
        assert!(way_back.remove(table));
    }
    let mut established = Vec::new();
    for n in 0..flows / 2 {
        let (key, flow) = pair_of(n);
        // Some have made room already.
        let found = [key, mirror(&key, &flow).0].map(|key| table::find(table, &key));
        let is_established = |mut entry: table::Snapshot<V4>| entry.establish(table);
        if found.into_iter().all(|entry| entry.is_some_and(is_established)) {
            established.push(n);
        }
    }
    // Where the table is full, the oldest make room for both, and no established one does.
    for n in 1_000_000..1_050_000 {
        let (key, flow) = pair_of(n);
        assert_eq!(table::insert_both(table, &key, &flow), Ok(()), "{n}");
        assert!(table::find(table, &key).is_some() && table::find(table, &mirror(&key, &flow).0).is_some(), "{n}");
    }
    assert!(established.len() > flows as usize / 3, "{}", established.len());
    for n in established {
        let (key, flow) = pair_of(n);
        assert!(table::find(table, &key).is_some() && table::find(table, &mirror(&key, &flow).0).is_some(), "{n}");
    }
}
