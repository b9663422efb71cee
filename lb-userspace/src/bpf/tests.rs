//! The kernel's maps against those in memory. Needs root and `SLUICE_KERNEL_TESTS=1`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use lb_common::flow::{state, table};
use lb_common::ip::{Be16, V4, V6};
use lb_common::mem::{self, Image, Native, frontend_bits};
use lb_common::tables::{
    Backend, Config, Flow, FlowKey, Frontend, FrontendKey, LABEL, Name, RangeKey, Table, listing, map,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::plan::{FamilyOp, Op, diff};
use crate::store::{MemoryStore, Store, StoreError};

mod attach;
mod flow_tables;
mod grow;
mod mapped;
mod moving;

/// Small, so that tests are quick and can fill a map.
const SMALL: Capacities =
    Capacities { services: 64, backends: 64, slots: 4096, source_ranges: 16, flows: 1 << 20, flows_at_first: 32 };

/// Maps in a bpffs of their own, which goes with them.
struct Lab {
    pins: Pins,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Prints why, where the machine or the build cannot.
    fn new(test: &str) -> Option<Self> {
        // SAFETY: geteuid has no preconditions.
        let root = unsafe { libc::geteuid() } == 0;
        let reason = match std::env::var_os("SLUICE_KERNEL_TESTS") {
            Some(value) if value != "1" => "needs SLUICE_KERNEL_TESTS=1",
            None => "needs SLUICE_KERNEL_TESTS=1",
            _ if !root => "needs root",
            _ if Object::embedded().is_err() => "built without the kernel programs",
            _ => {
                let folder = tempfile::tempdir().unwrap();
                let path = CString::new(folder.path().as_os_str().as_bytes()).unwrap();
                // SAFETY: all strings end with a zero and live until the call returns.
                let mounted =
                    unsafe { libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null()) };
                assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
                return Some(Self { pins: Pins::new(folder.path().join("sluice")), folder });
            }
        };
        eprintln!("SKIP {test}: {reason}");
        None
    }

    fn load(&self, capacities: &Capacities) -> (Programs, Vec<String>) {
        self.pins.create().unwrap();
        Object::embedded().unwrap().load(&self.pins, capacities, false).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let path = CString::new(self.folder.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: the string ends with a zero and lives until the call returns.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

fn name(id: u32) -> Name {
    Name { namespace: [b'n'; LABEL], service: [u8::try_from(id).unwrap(); LABEL], port: [0; LABEL] }
}

fn v4(last: u8) -> V4 {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn v6(last: u8) -> V6 {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into()
}

/// Images whose parts fit together, as the compiler makes them.
fn images() -> impl Strategy<Value = Image> {
    let ranges = prop::collection::btree_set((0u8..3, prop_oneof![Just(32u32), Just(40), Just(64)]), 0..2);
    let port = (prop::collection::vec(1u32..50, 0..6), any::<bool>(), ranges);
    let ports = prop::collection::btree_map(1u8..40, port, 0..12);
    (ports, any::<[u32; 2]>()).prop_map(|(ports, netns)| {
        let mut image = Image { config: Config { netns, ..Config::EMPTY }, ..Image::default() };
        let mut at = 0;
        for (port, (ids, is_v6, ranges)) in ports {
            let len = u32::try_from(ids.len()).unwrap() * 7;
            let slots: Vec<_> = ids.iter().cycle().take(len as usize).copied().collect();
            let frontend = Frontend::with_table(port.into(), Table { at: if len == 0 { 0 } else { at }, len });
            image.names.insert(port.into(), name(port.into()));
            fn put<A: mem::Of>(image: &mut Image, addr: impl Fn(u8) -> A, port: u8, frontend: Frontend, ids: &[u32]) {
                let side = A::side_mut(image);
                side.frontends.insert(FrontendKey::new(addr(port), Be16::new(80), 6), frontend);
                let backend = |id: u32| Backend { addr: addr(id as u8), port: Be16::new(8080), flags: 0 };
                side.backends.extend(ids.iter().map(|id| (*id, backend(*id))));
            }
            fn admit<A: mem::Of>(image: &mut Image, addr: impl Fn(u8) -> A, port: u8, ranges: BTreeSet<(u8, u32)>) {
                let range = |(last, len)| (RangeKey { service: port.into(), addr: addr(last) }, len);
                A::side_mut(image).ranges.extend(ranges.into_iter().map(range));
            }
            // A trie takes two keys with the same prefix for one.
            let ranges = ranges.into_iter().map(|(last, len)| (if len < 64 { 0 } else { last }, len)).collect();
            match is_v6 {
                false => {
                    put(&mut image, v4, port, frontend, &ids);
                    admit(&mut image, v4, port, ranges);
                }
                true => {
                    put(&mut image, v6, port, frontend, &ids);
                    admit(&mut image, v6, port, ranges.into_iter().map(|(_, len)| (0, len)).collect());
                }
            }
            if len > 0 {
                image.runs.insert(at, slots.into());
                at += len;
            }
        }
        image.filter = frontend_bits(&image);
        image
    })
}

#[test]
fn after_each_write_the_kernels_maps_read_as_those_in_memory() {
    let Some(lab) = Lab::new("after_each_write_the_kernels_maps_read_as_those_in_memory") else { return };
    let _programs = lab.load(&SMALL);
    let stores = RefCell::new((BpfStore::open(&lab.pins).unwrap(), MemoryStore::default()));
    let config = ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&images(), |want| {
        let (kernel, memory) = &mut *stores.borrow_mut();
        let have = kernel.read().unwrap();
        for op in diff(&have, &want) {
            kernel.write(&op).unwrap();
            memory.write(&op).unwrap();
            prop_assert_eq!(kernel.read().unwrap(), memory.read().unwrap());
            prop_assert_eq!(kernel.holds(&want).unwrap(), memory.holds(&want).unwrap());
        }
        prop_assert!(kernel.holds(&want).unwrap());
        prop_assert_eq!(diff(&kernel.read().unwrap(), &want), vec![]);
        // What another process reads is the same.
        prop_assert_eq!(BpfStore::open(&lab.pins).unwrap().read().unwrap(), want);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn a_full_map_names_the_option_that_enlarges_it() {
    let Some(lab) = Lab::new("a_full_map_names_the_option_that_enlarges_it") else { return };
    let _programs = lab.load(&SMALL);
    let mut store = BpfStore::open(&lab.pins).unwrap();
    let frontend = Frontend::refusing(1);
    let key = |n| FrontendKey::new(v4(n), Be16::new(80), 6);
    let backend = Backend { addr: v4(1), port: Be16::new(80), flags: 0 };
    for n in 0..64 {
        store.write(&Op::V4(FamilyOp::Frontend { key: key(n), frontend })).unwrap();
        store.write(&Op::Name { id: n.into(), name: name(1).into() }).unwrap();
    }
    // An entry that is there takes no room.
    store.write(&Op::V4(FamilyOp::Frontend { key: key(3), frontend })).unwrap();
    let range = |n| FamilyOp::Range { key: RangeKey { service: 1, addr: v4(n) }, len: 64 };
    (0..16).for_each(|n| store.write(&Op::V4(range(n))).unwrap());
    store.write(&Op::V4(range(3))).unwrap();
    let full = [
        (Op::V4(range(16)), "--max-source-ranges"),
        (Op::V4(FamilyOp::Frontend { key: key(64), frontend }), "--max-services"),
        (Op::Name { id: 64, name: name(1).into() }, "--max-services"),
        (Op::V4(FamilyOp::Backend { id: map::BACKENDS_CHUNK, backend }), "--max-backends"),
        (Op::Run { at: map::SLOTS_CHUNK - 6, slots: [1; 7].into() }, "--max-slots"),
    ];
    for (op, expected) in full {
        match store.write(&op) {
            Err(StoreError::Full { option, .. }) => assert_eq!(option, expected),
            other => panic!("{op}: {other:?}"),
        }
    }
    // Taking away what is not there is no error.
    store.write(&Op::V4(FamilyOp::RemoveFrontend { key: key(200) })).unwrap();
    store.write(&Op::RemoveName { id: 200 }).unwrap();
    store.write(&Op::V4(FamilyOp::RemoveRange { key: RangeKey { service: 1, addr: v4(99) }, len: 64 })).unwrap();
    store.write(&Op::Run { at: map::SLOTS_CHUNK - 7, slots: [1; 7].into() }).unwrap();
}

#[test]
fn tables_lie_across_chunks_and_only_these_take_memory() {
    let Some(lab) = Lab::new("tables_lie_across_chunks_and_only_these_take_memory") else { return };
    let _programs = lab.load(&Capacities { slots: 4 * map::SLOTS_CHUNK, ..SMALL });
    let mut store = BpfStore::open(&lab.pins).unwrap();
    let chunks = || {
        let pins = fs::read_dir(lab.pins.maps()).unwrap().map(|pin| pin.unwrap().file_name().into_string().unwrap());
        let mut numbers: Vec<_> = pins.filter_map(|pin| Some(pin.strip_prefix("SLOTS-")?.to_owned())).collect();
        numbers.sort_unstable();
        numbers
    };
    assert!(chunks().is_empty());
    let mut early = BpfStore::open(&lab.pins).unwrap();
    let mut image = Image::default();
    for (n, at) in [(1, 2 * map::SLOTS_CHUNK - 3), (2, 4 * map::SLOTS_CHUNK - 7)] {
        let table = Table { at, len: 7 };
        image.v4.frontends.insert(FrontendKey::new(v4(n), Be16::new(80), 6), Frontend::with_table(1, table));
        image.runs.insert(at, [5, 6, 5, 6, 5, 6, 5].into());
    }
    image.filter = frontend_bits(&image);
    store.apply(&diff(&Image::default(), &image)).unwrap();
    assert_eq!(chunks(), ["1", "2", "3"]);
    assert_eq!(store.read().unwrap(), image);
    // Whoever was there before sees them when he looks again.
    assert_ne!(early.read().unwrap(), image);
    early.look().unwrap();
    assert_eq!(early.read().unwrap(), image);
    // Another agent finds them, and makes no chunk twice.
    let mut next = BpfStore::open(&lab.pins).unwrap();
    assert_eq!(next.read().unwrap(), image);
    next.write(&Op::Run { at: 2 * map::SLOTS_CHUNK - 3, slots: [6; 7].into() }).unwrap();
    assert_eq!(store.read().unwrap(), next.read().unwrap());
}

#[test]
fn pinned_maps_are_taken_over_and_keep_what_an_option_cannot_change() {
    let Some(lab) = Lab::new("pinned_maps_are_taken_over_and_keep_what_an_option_cannot_change") else { return };
    drop(lab.load(&SMALL));
    let op = Op::Name { id: 7, name: name(7).into() };
    BpfStore::open(&lab.pins).unwrap().write(&op).unwrap();
    let (_programs, warnings) = lab.load(&Capacities { services: 32, flows: 16, ..SMALL });
    assert_eq!(warnings.len(), 5, "{warnings:?}");
    for (words, times) in [
        ("keeps room for 64, not 32 (--max-services): less takes effect after `sluice uninstall`", 3),
        ("keeps room for 36, not 18 (--max-flows): less takes effect after `sluice uninstall`", 2),
    ] {
        assert_eq!(warnings.iter().filter(|warning| warning.contains(words)).count(), times, "{warnings:?}");
    }
    let mut store = BpfStore::open(&lab.pins).unwrap();
    assert_eq!(store.read().unwrap().names, [(7, name(7))].into());
    let fill = store.maps().fill(0).unwrap();
    let names = fill.iter().find(|fill| fill.map == "NAMES").unwrap();
    assert_eq!((names.entries, names.capacity), (1, 64));
    assert!(uninstall(&lab.pins).unwrap().layouts == 1 && !lab.pins.exist());
    assert!(matches!(BpfStore::open(&lab.pins), Err(Error::NotInstalled { .. })));
}

#[test]
fn a_map_of_another_shape_is_refused_by_name() {
    let Some(lab) = Lab::new("a_map_of_another_shape_is_refused_by_name") else { return };
    drop(lab.load(&SMALL));
    let maps = lab.pins.maps();
    fs::remove_file(maps.join("NAMES")).unwrap();
    fs::rename(maps.join("CONFIG"), maps.join("NAMES")).unwrap();
    let error = Object::embedded().unwrap().load(&lab.pins, &SMALL, false).unwrap_err().to_string();
    assert!(error.contains("the pinned map NAMES") && error.contains("sluice uninstall"), "{error}");
}

#[test]
fn flows_are_read_and_removed_unless_they_live() {
    let Some(lab) = Lab::new("flows_are_read_and_removed_unless_they_live") else { return };
    let _programs = lab.load(&Capacities { flows_at_first: 8_000, ..SMALL });
    let maps = Maps::open(&lab.pins).unwrap();
    let (sport, dport) = (Be16::new(0), Be16::new(80));
    let entry = |n: u16| {
        let key = FlowKey { src: v6(1), dst: v6(2), sport: Be16::new(n), dport, proto: 6, side: 0, zero: 0 };
        let flow = Flow {
            src: v6(1),
            dst: v6(3),
            sport,
            dport,
            addrs: 0,
            ports: 0,
            state: state::THERE | state::ESTABLISHED,
            seen: n.into(),
            backend: 1,
            service: 1,
        };
        (key, flow)
    };
    let array = sys::open(&lab.pins.maps().join(map::FLOWS[1])).unwrap();
    let table = mapped::Mapped::<V6>::new(array.as_fd(), table::buckets_for(8_000));
    for n in 0..15_000 {
        let (key, flow) = entry(n);
        table::insert(&&table, &key, &flow).unwrap();
    }
    let mut native = Native::new(Image::default());
    maps.read_flows(&mut native).unwrap();
    assert_eq!(native.v6.flows, (0..15_000).map(entry).collect());
    assert!(native.v4.flows.is_empty());
    let fills = maps.fill(0).unwrap();
    let fill = fills.iter().find(|fill| fill.map == "FLOWS_V6").unwrap();
    assert_eq!((fill.entries, fill.capacity), (7_500, 8_004), "two entries are one flow");
    // One had another packet since it was read, one is gone.
    let read = [
        entry(1),
        {
            let (key, flow) = entry(2);
            (key, Flow { seen: 1, ..flow })
        },
        entry(20_000),
    ];
    assert_eq!(maps.seeker().unwrap().remove(&read).unwrap(), 1);
    let mut left = 0;
    maps.flows::<V6>(|_, _| left += 1).unwrap();
    assert_eq!(left, 14_999);
}

#[test]
fn a_large_empty_table_of_flows_costs_few_calls_and_no_memory() {
    let Some(lab) = Lab::new("a_large_empty_table_of_flows_costs_few_calls_and_no_memory") else { return };
    let _programs = lab.load(&Capacities { flows_at_first: 1 << 20, ..SMALL });
    let maps = Maps::open(&lab.pins).unwrap();
    let (resident, began) = (peak_memory(), std::time::Instant::now());
    let (table, buckets) = (&V4::maps(&maps).flows, table::buckets_for(1 << 20));
    let runs = table.each(|key, _| panic!("{key:?}")).unwrap();
    println!("{buckets} buckets of an empty table, {runs} runs, {:?}", began.elapsed());
    assert_eq!(runs, buckets.div_ceil(listing::BUCKETS));
    // The table itself has 168 MB.
    assert!(peak_memory() - resident < 1 << 20);
}

/// Most bytes of memory that this process ever had.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
