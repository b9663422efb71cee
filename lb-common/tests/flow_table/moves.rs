//! A larger table that takes the place of another, under way: one entry after the other, and in all orders in which two CPUs
//! can meet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lb_common::flow::table::{self, Bucket, Change, Memory, Transfer};
use lb_common::flow::{mirror, state};
use lb_common::ip::V4;
use lb_common::tables::{Flow, FlowKey, InsertError};

use crate::memory::{model, plain};
use crate::races::explore;
use crate::{flow, key, pair};

/// Two tables as one memory.
struct Joined<T> {
    new: T,
    old: T,
    turned: Arc<AtomicBool>,
}

impl<T: Clone> Clone for Joined<T> {
    fn clone(&self) -> Self {
        Self { new: self.new.clone(), old: self.old.clone(), turned: self.turned.clone() }
    }
}

impl<T> Joined<T> {
    fn new(new: T, old: T, turned: bool) -> Self {
        Self { new, old, turned: Arc::new(AtomicBool::new(turned)) }
    }

    fn turn(&self) {
        self.turned.store(true, Ordering::SeqCst);
    }
}

impl<'a, T> Memory for &'a Joined<T>
where
    &'a T: Memory,
{
    const WAYS: u32 = <&'a T as Memory>::WAYS;
    const PATIENCE: u32 = <&'a T as Memory>::PATIENCE;
    type Bucket = <&'a T as Memory>::Bucket;
    fn buckets(&self) -> u32 {
        (&self.new).buckets()
    }
    fn old(&self) -> u32 {
        (&self.old).buckets()
    }
    fn turned(&self) -> bool {
        self.turned.load(Ordering::SeqCst)
    }
    fn seed(&self) -> u32 {
        (&self.new).seed()
    }
    fn bucket(&self, index: u32) -> Option<Self::Bucket> {
        (&self.new).bucket(index).or_else(|| (&self.old).bucket(index.checked_sub(self.buckets())?))
    }
    fn follow(&self, spot: u64, change: Change) -> bool {
        table::follow::<V4, _>(self, spot, change)
    }
}

/// Tries to move all entries once, and says how many moved, and how many wait.
fn move_all<M: Memory>(memory: &M) -> (u32, u32) {
    let (mut moved, mut waits) = (0, 0);
    for bucket in 0..memory.old() {
        for number in 0..M::WAYS {
            match table::transfer::<V4, _>(memory, bucket, number) {
                Transfer::None => {}
                Transfer::Moved => moved += 1,
                Transfer::Waits => waits += 1,
            }
        }
    }
    (moved, waits)
}

/// Removes as the packet path does, and says whether anything was there.
fn remove<M: Memory>(memory: &M, key: &FlowKey<V4>) -> bool {
    table::find(memory, key).is_some_and(|mut entry| entry.remove(memory))
}

/// All entries as they are listed, in their order.
fn listed<M: Memory>(memory: &M, buckets: std::ops::Range<u32>) -> Vec<(FlowKey<V4>, Flow<V4>)> {
    let rows = buckets.filter_map(|place| table::in_turn(memory, place));
    let ways = |row: M::Bucket| {
        let live = table::live::<M>(row);
        (0..M::WAYS).filter(move |at| live >> at & 1 != 0).filter_map(move |at| table::entry(row.way(at)?))
    };
    rows.flat_map(ways).collect()
}

/// Entries of the old table, and of the new one. None is in a table twice.
fn held<M: Memory>(memory: &M) -> [BTreeMap<FlowKey<V4>, Flow<V4>>; 2] {
    let entries = |buckets: std::ops::Range<u32>| {
        let mut entries = BTreeMap::new();
        for row in buckets.filter_map(|at| memory.bucket(at)) {
            let live = (0..M::WAYS).filter(|at| table::live::<M>(row) >> at & 1 != 0);
            for (key, flow) in live.filter_map(|at| table::entry(row.way(at)?)) {
                assert_eq!(entries.insert(key, flow), None, "{key:?} is there twice");
            }
        }
        entries
    };
    let (new, old) = (memory.buckets(), memory.old());
    [entries(new..new + old), entries(0..new)]
}

#[test]
fn a_table_is_left_for_a_larger_one_and_all_flows_are_found_all_the_time() {
    let flows = 3_000;
    let old = plain::Table::new(table::buckets_for(flows));
    let joined = Joined::new(plain::Table::new(table::buckets_for(2 * flows)), old.clone(), false);
    let memory = &&joined;
    let known = |n: u32| Flow { state: state::THERE | state::ESTABLISHED, ..flow(n) };
    let insert = |n: u32| {
        assert_eq!(table::insert(memory, &key(n), &flow(n)), Ok(()), "{n}");
        assert_eq!(table::insert(memory, &key(n), &flow(n)), Err(InsertError::Exists), "{n}");
        assert!(table::find(memory, &key(n)).is_some_and(|mut entry| entry.establish(memory)), "{n}");
    };
    let check = |all: std::ops::Range<u32>, case: &str| {
        for n in all {
            let entry = table::find(memory, &key(n)).unwrap_or_else(|| panic!("{case}: {n} is not where it was put"));
            assert_eq!(entry.flow, known(n), "{case}: {n}");
        }
    };
    // Programs that know the old table only, then such as know both.
    for n in 0..500 {
        assert_eq!(table::insert(&&old, &key(n), &flow(n)), Ok(()), "{n}");
        assert!(table::find(memory, &key(n)).is_some_and(|mut entry| entry.establish(memory)), "{n}");
    }
    (500..1_000).for_each(insert);
    check(0..1_000, "before the turn");
    for n in 0..1_000 {
        let entry = table::find(&&old, &key(n)).unwrap_or_else(|| panic!("{n} is not in the old table"));
        assert_eq!(entry.flow, known(n));
        assert_eq!(table::insert(&&old, &key(n), &flow(n)), Err(InsertError::Exists), "{n}");
    }
    joined.turn();
    (1_000..2_000).for_each(insert);
    check(0..2_000, "after the turn");
    let [in_old, in_new] = held(memory);
    assert_eq!((in_old.len(), in_new.len()), (1_000, 1_000));
    // Bucket by bucket, so that at each moment all are found.
    for bucket in 0..memory.old() {
        (0..table::WAYS).for_each(|number| _ = table::transfer::<V4, _>(memory, bucket, number));
        if bucket % 16 == 0 {
            check(0..2_000, "under way");
        }
    }
    assert_eq!(move_all(memory), (0, 0));
    check(0..2_000, "at the end");
    let [in_old, in_new] = held(memory);
    assert_eq!((in_old.len(), in_new.len()), (0, 2_000));
    // Programs that know the new table only.
    for n in 0..2_000 {
        let mut entry = table::find(&&joined.new, &key(n)).unwrap_or_else(|| panic!("{n} is not in the new table"));
        assert_eq!(entry.flow, known(n));
        assert_eq!(table::insert(&&joined.new, &key(n), &flow(n)), Err(InsertError::Exists), "{n}");
        assert!(entry.remove(&&joined.new) && table::find(memory, &key(n)).is_none(), "{n}");
    }
}

#[test]
fn every_bucket_is_listed_once() {
    let joined = Joined::new(plain::Table::new(64), plain::Table::new(32), true);
    let memory = &&joined;
    (0..100).for_each(|n| table::insert(&&joined.old, &key(n), &flow(n)).expect("room"));
    (100..300).for_each(|n| table::insert(memory, &key(n), &flow(n)).expect("room"));
    let all = listed(memory, 0..1_000);
    assert_eq!(all.len(), 300);
    assert_eq!(all.into_iter().collect::<BTreeMap<_, _>>(), (0..300).map(|n| (key(n), flow(n))).collect());
    // And no bucket of the new table comes before the last one of the old.
    assert!(listed(memory, 0..32).into_iter().eq(listed(&&joined.old, 0..32)));
}

#[test]
fn pairs_are_opened_and_removed_in_either_table() {
    let joined = Joined::new(plain::Table::new(64), plain::Table::new(32), false);
    let memory = &&joined;
    for n in 0..200 {
        if n == 100 {
            joined.turn();
        }
        let (key, flow) = pair(n, n % 7);
        assert_eq!(table::insert_both(memory, &key, &flow), Ok(()), "{n}");
        assert!(table::insert_both(memory, &key, &flow).is_err(), "{n}");
    }
    for n in 0..200 {
        let (key, flow) = pair(n, n % 7);
        let (back_key, back) = mirror(&key, &flow);
        for (key, flow) in [(key, flow), (back_key, back)] {
            assert_eq!(table::find(memory, &key).expect("it is there").flow, flow, "{n}");
            assert!(remove(memory, &key) && !remove(memory, &key), "{n}");
        }
    }
    assert!(held(memory).iter().all(BTreeMap::is_empty));
}

#[test]
fn an_entry_without_room_in_the_new_table_waits() {
    let joined = Joined::new(plain::Table::new(1), plain::Table::new(2), true);
    let memory = &&joined;
    let known = |n: u32| Flow { state: state::THERE | state::ESTABLISHED, ..flow(n) };
    for n in 0..20 {
        assert_eq!(table::insert(&&joined.old, &key(n), &known(n)), Ok(()), "{n}");
    }
    assert_eq!(move_all(memory), (14, 6));
    assert_eq!(move_all(memory), (0, 6));
    assert!((0..20).all(|n| table::find(memory, &key(n)).is_some_and(|entry| entry.flow == known(n))));
}

#[test]
fn an_entry_whose_copy_is_there_already_becomes_one_with_it() {
    let joined = Joined::new(plain::Table::new(2), plain::Table::new(1), true);
    for (table, bits) in [(&joined.old, state::FIN_THERE), (&joined.new, state::FIN_BACK)] {
        assert_eq!(table::insert(&table, &key(1), &Flow { state: BOTH | bits, ..flow(1) }), Ok(()));
    }
    assert_eq!(move_all(&&joined), (1, 0));
    let both = Flow { state: BOTH | state::FINS, ..flow(1) };
    assert_eq!(held(&&joined), [BTreeMap::new(), [(key(1), both)].into()]);
}

/// The flow 1 in the old one of two tables of one bucket.
fn one(state: u32, turned: bool) -> (Joined<model::Table>, Flow<V4>) {
    let joined = Joined::new(model::Table::new(1), model::Table::new(1), turned);
    let flow = Flow { state, ..flow(1) };
    table::insert(&&joined.old, &key(1), &flow).expect("room");
    (joined, flow)
}

/// Moves all entries beside what is done here.
fn beside(joined: &Joined<model::Table>) -> loom::thread::JoinHandle<(u32, u32)> {
    let joined = joined.clone();
    loom::thread::spawn(move || move_all(&&joined))
}

/// The one entry that there is, wherever it is.
fn only(joined: &Joined<model::Table>) -> Option<Flow<V4>> {
    while move_all(&joined).1 > 0 {}
    let [old, new] = held(&joined);
    assert!(old.is_empty() && new.len() <= 1, "{old:?} {new:?}");
    new.into_values().next()
}

const BOTH: u32 = state::THERE | state::ESTABLISHED;

#[test]
fn a_reader_never_misses_a_flow_that_moves() {
    explore(|| {
        let (joined, flow) = one(BOTH, true);
        let mover = beside(&joined);
        for _ in 0..2 {
            assert_eq!(table::find(&&joined, &key(1)).expect("it is there").flow, flow);
        }
        mover.join().expect("no panic");
        assert_eq!(only(&joined), Some(flow));
    });
}

#[test]
fn who_lists_all_flows_misses_none_that_moves() {
    explore(|| {
        let (joined, flow) = one(BOTH, true);
        // The one that only reads must be the second: loom goes on with the first, and looks for what its writes change.
        let other = joined.clone();
        let lister = loom::thread::spawn(move || listed(&&other, 0..2));
        move_all(&&joined);
        let all = lister.join().expect("no panic");
        assert!(!all.is_empty() && all.into_iter().all(|found| found == (key(1), flow)));
    });
}

#[test]
fn what_is_noted_on_a_flow_that_moves_is_kept() {
    explore(|| {
        let (joined, flow) = one(BOTH | state::RST, true);
        let mover = beside(&joined);
        let mut entry = table::find(&&joined, &key(1)).expect("it is there");
        entry.mark(&&joined, state::FIN_THERE);
        entry.unmark(&&joined, state::RST);
        mover.join().expect("no panic");
        assert_eq!(only(&joined), Some(Flow { state: BOTH | state::FIN_THERE, ..flow }));
    });
}

#[test]
fn a_flow_that_is_removed_while_it_moves_is_gone() {
    explore(|| {
        let (joined, _) = one(BOTH, true);
        let mover = beside(&joined);
        assert!(remove(&&joined, &key(1)), "it was there");
        mover.join().expect("no panic");
        assert_eq!(only(&joined), None);
    });
}

#[test]
fn the_key_of_a_flow_that_moves_is_taken() {
    explore(|| {
        let (joined, flow) = one(state::THERE, true);
        let mover = beside(&joined);
        assert!(table::insert(&&joined, &key(1), &crate::flow(2)).is_err());
        mover.join().expect("no panic");
        assert_eq!(only(&joined), Some(flow));
    });
}

#[test]
fn a_flow_that_is_removed_while_it_moves_makes_place_for_its_own_key() {
    explore(|| {
        let (joined, _) = one(state::THERE, true);
        let mover = beside(&joined);
        remove(&&joined, &key(1));
        let inserted = table::insert(&&joined, &key(1), &flow(2)).is_ok();
        mover.join().expect("no panic");
        assert_eq!(only(&joined), inserted.then_some(flow(2)));
    });
}

#[test]
fn two_that_move_one_flow_make_one_of_it() {
    explore(|| {
        let (joined, flow) = one(BOTH, true);
        let mover = beside(&joined);
        move_all(&&joined);
        mover.join().expect("no panic");
        assert_eq!(only(&joined), Some(flow));
    });
}

#[test]
fn programs_of_either_kind_that_insert_one_key_make_one_entry() {
    // Beside one that knows the old table only before the turn, and beside one that knows the new one only after it.
    for turned in [false, true] {
        explore(move || {
            let joined = Joined::new(model::Table::new(1), model::Table::new(1), turned);
            let other = joined.clone();
            let thread = loom::thread::spawn(move || {
                let table = if turned { &other.new } else { &other.old };
                table::insert(&table, &key(1), &flow(2)).is_ok()
            });
            let here = table::insert(&&joined, &key(1), &flow(1)).is_ok();
            let there = thread.join().expect("no panic");
            assert!(!(here && there) && (here || there), "one of the two is first");
            assert_eq!(only(&joined), Some(flow(if here { 1 } else { 2 })));
        });
    }
}

#[test]
fn two_that_insert_one_key_at_the_turn_make_one_entry() {
    explore(|| {
        let joined = Joined::new(model::Table::new(1), model::Table::new(1), false);
        let other = joined.clone();
        let thread = loom::thread::spawn(move || table::insert(&&other, &key(1), &flow(2)).is_ok());
        joined.turn();
        let here = table::insert(&&joined, &key(1), &flow(1)).is_ok();
        let there = thread.join().expect("no panic");
        assert!(!(here && there) && (here || there), "one of the two is first");
        assert_eq!(only(&joined), Some(flow(if here { 1 } else { 2 })));
    });
}

#[test]
fn a_flow_that_is_pushed_out_while_it_moves_is_whole_or_gone() {
    // One of the two is the one that would be next.
    for number in 0..2 {
        explore(move || {
            let (joined, _) = one(state::THERE, false);
            table::insert(&&joined.old, &key(2), &flow(2)).expect("room for two");
            let other = joined.clone();
            let mover = loom::thread::spawn(move || table::transfer::<V4, _>(&&other, 0, number));
            // Nobody inserts there any more when entries are moved: but if.
            assert_eq!(table::insert(&&joined.old, &key(3), &flow(3)), Ok(()));
            for (key, found) in held(&&joined).into_iter().flatten() {
                assert_eq!(found, flow(key.sport.get().into()));
            }
            mover.join().expect("no panic");
            assert!((1..4).all(|n| table::find(&&joined, &key(n)).is_none_or(|entry| entry.flow == flow(n))));
        });
    }
}
