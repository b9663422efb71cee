//! The table of flows against a plain map, one access after the other; and under every order in which two CPUs can meet
//! (loom).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use lb_common::flow::table::{self, Bucket as _, Memory as _};
use lb_common::flow::{mirror, state};
use lb_common::ip::{Be16, V4};
use lb_common::route::{Kept, NextHop, Stamp};
use lb_common::tables::{Flow, FlowKey, InsertError, Refused};

macro_rules! memory {
    ($name:ident, $sync:ident, $ways:literal) => {
        mod $name {
            use std::sync::Arc;

            use lb_common::flow::table::{Bucket, Memory, Way};
            use $sync::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

            /// Words of an entry of IPv4.
            const WORDS: usize = 8;

            struct Line {
                version: AtomicU32,
                ways: Vec<(AtomicU32, Vec<AtomicU64>)>,
            }

            #[derive(Clone)]
            pub struct Table(Arc<Vec<Line>>);

            impl Table {
                pub fn new(buckets: u32) -> Self {
                    let way = || (AtomicU32::new(0), (0..WORDS).map(|_| AtomicU64::new(0)).collect());
                    let line = || Line { version: AtomicU32::new(0), ways: (0..$ways).map(|_| way()).collect() };
                    Self(Arc::new((0..buckets).map(|_| line()).collect()))
                }
            }

            #[derive(Clone, Copy)]
            pub struct Row<'a>(&'a Line);
            #[derive(Clone, Copy)]
            pub struct Slot<'a>(&'a AtomicU32, &'a [AtomicU64]);

            impl<'a> Memory for &'a Table {
                const WAYS: u32 = $ways;
                const PATIENCE: u32 = 2;
                type Bucket = Row<'a>;
                fn buckets(&self) -> u32 {
                    self.0.len() as u32
                }
                fn seed(&self) -> u32 {
                    7
                }
                fn bucket(&self, index: u32) -> Option<Row<'a>> {
                    self.0.get(index as usize).map(Row)
                }
            }

            impl<'a> Bucket for Row<'a> {
                type Way = Slot<'a>;
                fn version(&self) -> u32 {
                    self.0.version.load(Ordering::Acquire)
                }
                fn swap_version(&self, old: u32, new: u32) -> bool {
                    self.0.version.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok()
                }
                fn set_version(&self, version: u32) {
                    self.0.version.store(version, Ordering::Release);
                }
                fn pair(&self, index: u32) -> u64 {
                    let half = |way| self.way(way).map_or(0, |way| u64::from(way.control()));
                    half(2 * index) | half(2 * index + 1) << 32
                }
                fn way(&self, index: u32) -> Option<Slot<'a>> {
                    self.0.ways.get(index as usize).map(|(control, words)| Slot(control, words))
                }
            }

            impl Way for Slot<'_> {
                fn control(&self) -> u32 {
                    fence(Ordering::Acquire);
                    self.0.load(Ordering::Acquire)
                }
                fn swap(&self, old: u32, new: u32) -> bool {
                    let swapped = self.0.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok();
                    fence(Ordering::Release);
                    swapped
                }
                fn publish(&self, control: u32) {
                    self.0.store(control, Ordering::Release);
                }
                fn word(&self, index: usize) -> u64 {
                    self.1[index].load(Ordering::Relaxed)
                }
                fn set(&self, index: usize, word: u64) {
                    self.1[index].store(word, Ordering::Relaxed);
                }
            }
        }
    };
}

memory!(plain, std, 14);
memory!(model, loom, 2);

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

#[test]
fn both_entries_of_a_flow_are_there_or_it_is_said_which_is_not() {
    let flows = 6_000;
    let table = plain::Table::new(table::buckets_for(flows));
    let table = &&table;
    for n in 0..flows {
        let (key, flow) = pair(n, n % 7);
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
    // Where the table is full, the oldest make room for both.
    for n in 1_000_000..1_050_000 {
        let (key, flow) = pair(n, n % 7);
        assert_eq!(table::insert_both(table, &key, &flow), Ok(()), "{n}");
        assert!(table::find(table, &key).is_some() && table::find(table, &mirror(&key, &flow).0).is_some(), "{n}");
    }
}

fn explore(test: impl Fn() + Sync + Send + 'static) {
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

#[test]
fn two_that_open_one_flow_make_one_pair() {
    explore(|| {
        let table = model::Table::new(1);
        let other = table.clone();
        let (key, flow) = pair(1, 1);
        let thread = loom::thread::spawn(move || table::insert_both(&&other, &key, &flow).is_ok());
        let here = table::insert_both(&&table, &key, &flow).is_ok();
        let there = thread.join().expect("no panic");
        assert!(!(here && there), "one of the two is first");
        let (back_key, back) = mirror(&key, &flow);
        assert_eq!(table::find(&&table, &back_key).expect("it is there").flow, back);
        // One that waits for the other in vain leaves the way back alone, for the next packet.
        let entry = table::find(&&table, &key).map(|entry| entry.flow);
        assert_eq!(entry, (here || there).then_some(flow));
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
