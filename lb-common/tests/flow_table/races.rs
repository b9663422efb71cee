//! All orders in which two CPUs can meet.

use std::collections::BTreeMap;

use lb_common::flow::table::{self, Bucket as _, Memory as _};
use lb_common::flow::{mirror, state};
use lb_common::ip::V4;
use lb_common::route::Kept;
use lb_common::tables::{Flow, FlowKey, Refused};

use crate::memory::{model, plain};
use crate::{flow, ip, key, next_hop, only, pair, stamp};

pub(crate) fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(test);
}

#[test]
fn two_that_insert_one_key_make_one_entry() {
    explore(|| {
        let table = model::Table::new(1);
        let other = table.clone();
        let thread = loom::thread::spawn(move || table::insert(&&other, &key(1), &flow(2)).is_ok());
        let here = table::insert(&&table, &key(1), &flow(1)).is_ok();
        let there = thread.join().expect("no panic");
        // One that waits for the other in vain is sent on without an entry, as the kernel's CPUs are.
        assert!(!(here && there) && (here || there), "one of the two is first");
        let entry = table::find(&&table, &key(1)).expect("it is there");
        assert_eq!(entry.flow, flow(if here { 1 } else { 2 }));
    });
}

/// A flow whose entries have buckets of their own among so many.
fn apart(buckets: u32) -> (FlowKey<V4>, Flow<V4>) {
    let is_apart = |(key, flow): &(FlowKey<V4>, Flow<V4>)| {
        let table = plain::Table::new(buckets);
        table::insert_both(&&table, key, flow).expect("room");
        let live = |at| (&&table).bucket(at).map_or(0, |row| rows::<&plain::Table>(row).count());
        (0..buckets).all(|at| live(at) < 2)
    };
    (1..100).map(|n| pair(n, 1)).find(is_apart).expect("one of so many")
}

/// The entries of a bucket.
fn rows<M: table::Memory>(row: M::Bucket) -> impl Iterator<Item = (FlowKey<V4>, Flow<V4>)> {
    (0..M::WAYS).filter_map(move |at| table::entry(row.way(at)?))
}

/// What is in a table when nobody works on it: nobody has left a version behind, and no key is there twice.
fn rest(table: &model::Table) -> BTreeMap<FlowKey<V4>, Flow<V4>> {
    let mut all = BTreeMap::new();
    for row in (0..table.buckets()).filter_map(|at| table.bucket(at)) {
        assert_eq!(row.version() & 1, 0, "somebody has the version still");
        for (key, flow) in rows::<&model::Table>(row) {
            assert_eq!(all.insert(key, flow), None, "{key:?} is there twice");
        }
    }
    all
}

#[test]
fn two_that_open_one_flow_make_one_pair() {
    for (buckets, (key, flow)) in [(1, pair(1, 1)), (2, apart(2))] {
        explore(move || {
            let table = model::Table::new(buckets);
            let other = table.clone();
            let thread = loom::thread::spawn(move || table::insert_both(&&other, &key, &flow).is_ok());
            let here = table::insert_both(&&table, &key, &flow).is_ok();
            let there = thread.join().expect("no panic");
            assert!(!(here && there), "one of the two is first");
            let (back_key, back) = mirror(&key, &flow);
            let mut entries = rest(&table);
            assert_eq!(entries.remove(&back_key), Some(back));
            // One that waits for the other in vain leaves the way back alone, for the next packet.
            assert_eq!(entries.remove(&key), (here || there).then_some(flow));
            assert!(entries.is_empty(), "{entries:?}");
        });
    }
}

#[test]
fn two_that_open_flows_where_the_oldest_make_room_leave_each_entry_whole() {
    let (key, flow) = apart(2);
    let others = [(key, flow), (FlowKey { src: ip(9), ..key }, Flow { src: ip(9), ..flow })];
    explore(move || {
        let table = model::Table::new(2);
        let mut known = BTreeMap::new();
        for n in 101..105 {
            table::insert(&&table, &self::key(n), &self::flow(n)).expect("room for four");
            known.insert(self::key(n), self::flow(n));
        }
        let other = table.clone();
        let thread = loom::thread::spawn(move || table::insert_both(&&other, &others[1].0, &others[1].1));
        let results = [table::insert_both(&&table, &others[0].0, &others[0].1), thread.join().expect("no panic")];
        for (key, flow) in others {
            let (back_key, back) = mirror(&key, &flow);
            known.extend([(key, flow), (back_key, back)]);
        }
        let entries = rest(&table);
        assert!(entries.iter().all(|(key, flow)| known.get(key) == Some(flow)), "{entries:?}");
        assert!(results.iter().any(Result::is_ok), "{results:?}");
    });
}

/// Which of two buckets has a key that comes first.
fn first_of_two(key: &FlowKey<V4>) -> Option<u32> {
    let table = plain::Table::new(2);
    table::insert(&&table, key, &flow(1)).expect("room");
    (0..2).find(|at| (&&table).bucket(*at).is_some_and(|row| rows::<&plain::Table>(row).count() > 0))
}

#[test]
fn two_that_wait_for_each_other_s_bucket_both_give_it_back() {
    let crossed = |back: u32| {
        let firsts = |n| {
            let (key, flow) = pair(n, 1);
            [mirror(&key, &flow).0, key].map(|key| first_of_two(&key))
        };
        let n = (1..100).find(|n| firsts(*n) == [Some(back), Some(1 - back)]).expect("one of so many");
        pair(n, 1)
    };
    let flows = [0, 1].map(crossed);
    explore(move || {
        let table = model::Table::new(2);
        let other = table.clone();
        let thread = loom::thread::spawn(move || table::insert_both(&&other, &flows[1].0, &flows[1].1));
        let results = [table::insert_both(&&table, &flows[0].0, &flows[0].1), thread.join().expect("no panic")];
        let entries = rest(&table);
        for ((key, flow), result) in flows.iter().zip(results) {
            let (back_key, back) = mirror(key, flow);
            // Whoever waits in vain, even for the second time, leaves the way back for the next packet.
            let (is_there, has_way_back) = (result.is_ok(), !matches!(result, Err(Refused::Back(_))));
            assert_eq!(entries.get(key), is_there.then_some(flow), "{result:?}");
            assert_eq!(entries.get(&back_key), has_way_back.then_some(&back), "{result:?}");
        }
    });
}

/// One bucket with the flows 1 and 2, which are half open: one more takes the place of one of them.
fn full() -> model::Table {
    let table = model::Table::new(1);
    for n in [1, 2] {
        table::insert(&&table, &key(n), &flow(n)).expect("room for two");
    }
    table
}

#[test]
fn a_reader_sees_a_flow_whole_or_not_at_all_while_another_takes_its_place() {
    explore(|| {
        let table = full();
        let other = table.clone();
        let thread = loom::thread::spawn(move || table::insert(&&other, &key(3), &flow(3)));
        for n in [1, 3] {
            if let Some(entry) = table::find(&&table, &key(n)) {
                assert_eq!(entry.flow, flow(n));
            }
        }
        assert_eq!(thread.join().expect("no panic"), Ok(()));
    });
}

#[test]
fn a_mark_never_meets_a_flow_that_moved_in() {
    explore(|| {
        let table = full();
        let other = table.clone();
        let thread = loom::thread::spawn(move || table::insert(&&other, &key(3), &flow(3)));
        if let Some(mut entry) = table::find(&&table, &key(1)) {
            entry.mark(&&table, state::RST);
        }
        thread.join().expect("no panic").expect("a victim");
        let entry = table::find(&&table, &key(3)).expect("it is there");
        assert_eq!(entry.flow, flow(3));
    });
}

#[test]
fn a_flow_that_is_established_just_now_makes_no_room() {
    // One of the two is the one that would be next.
    for n in [1, 2] {
        explore(move || {
            let table = full();
            let other = table.clone();
            let thread = loom::thread::spawn(move || table::insert(&&other, &key(3), &flow(3)));
            let mut entry = table::find(&&table, &key(n));
            if let Some(entry) = &mut entry {
                entry.mark(&&table, state::ESTABLISHED);
            }
            // It may see itself out of luck where it meets this one twice.
            let _ = thread.join().expect("no panic");
            let was_there = entry.is_some_and(|entry| entry.flow.is_established());
            assert_eq!(table::find(&&table, &key(n)).is_some(), was_there);
        });
    }
}

#[test]
fn a_next_hop_is_read_as_one_cpu_wrote_it_or_not_at_all() {
    explore(|| {
        let table = model::Table::new(1);
        table::insert(&&table, &key(1), &flow(1)).expect("room");
        let entry = table::find(&&table, &key(1)).expect("it is there");
        let others = [1, 2].map(|n: u8| {
            let other = table.clone();
            loom::thread::spawn(move || entry.keep(&&other, &next_hop(n), &stamp(n.into())))
        });
        let kept = entry.kept(&&table, &stamp(1));
        assert!([Kept::NOTHING, only(next_hop(1))].contains(&kept), "{kept:?}");
        for thread in others {
            thread.join().expect("no panic");
        }
        for n in [1, 2] {
            let kept = entry.kept(&&table, &stamp(n.into()));
            assert!([Kept::NOTHING, only(next_hop(n))].contains(&kept), "{kept:?}");
        }
    });
}

#[test]
fn a_next_hop_never_meets_a_flow_that_moved_in() {
    explore(|| {
        let table = full();
        let entries = [1, 2].map(|n| table::find(&&table, &key(n)).expect("it is there"));
        let other = table.clone();
        let thread = loom::thread::spawn(move || table::insert(&&other, &key(3), &flow(3)));
        // One of them is the victim.
        for entry in entries {
            entry.keep(&&table, &next_hop(1), &stamp(1));
        }
        thread.join().expect("no panic").expect("a victim");
        let moved_in = table::find(&&table, &key(3)).expect("it is there");
        assert_eq!(moved_in.kept(&&table, &stamp(1)), Kept::NOTHING);
    });
}
