//! Larger maps in the place of pinned ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::ProgramInfo;
use proptest::strategy::ValueTree;

use super::*;

/// All but the tables of flows, which packets write.
const LARGER: Capacities = Capacities {
    services: 256,
    backends: 3 * map::BACKENDS_CHUNK,
    slots: 3 * map::SLOTS_CHUNK,
    source_ranges: 128,
    ..SMALL
};

const GROWN: [&str; 8] = [
    map::FRONTENDS[0],
    map::FRONTENDS[1],
    map::NAMES,
    map::SOURCE_RANGES[0],
    map::SOURCE_RANGES[1],
    map::BACKENDS[0],
    map::BACKENDS[1],
    map::SLOTS,
];

/// Something in each of these maps.
fn filled(store: &mut BpfStore) -> Image {
    let everywhere = |image: &Image| {
        let full =
            |frontends: usize, backends: usize, ranges: usize| [frontends, backends, ranges].iter().all(|n| *n > 0);
        full(image.v4.frontends.len(), image.v4.backends.len(), image.v4.ranges.len())
            && full(image.v6.frontends.len(), image.v6.backends.len(), image.v6.ranges.len())
    };
    let mut runner = TestRunner::deterministic();
    let image = images().prop_filter("empty maps prove nothing", everywhere).new_tree(&mut runner).unwrap().current();
    let have = store.read().unwrap();
    store.apply(&diff(&have, &image)).unwrap();
    image
}

fn path(lab: &Lab, map: &str) -> PathBuf {
    lab.pins.maps().join(map)
}

fn id(path: &Path) -> u32 {
    MapInfo::from_pin(path).unwrap().id()
}

/// The kernel's numbers of the pinned maps.
fn ids(lab: &Lab) -> BTreeMap<&'static str, u32> {
    GROWN.into_iter().map(|map| (map, id(&path(lab, map)))).collect()
}

/// The maps hold what they held, have the larger room, and there is no program that uses others.
fn assert_grown(lab: &Lab, image: &Image, small: &BTreeMap<&str, u32>, case: &str) {
    let mut store = BpfStore::open(&lab.pins).unwrap();
    assert_eq!(&store.read().unwrap(), image, "{case}");
    let capacities: Vec<_> = GROWN.iter().map(|map| store.maps().capacity(map)).collect();
    let Capacities { services, backends, slots, source_ranges, .. } = LARGER;
    assert_eq!(
        capacities,
        [services, services, services, source_ranges, source_ranges, backends, backends, slots],
        "{case}"
    );
    let left = pins::names(&lab.pins.maps()).unwrap().into_iter().find(|name| name.ends_with("-new"));
    assert_eq!(left, None, "{case}");
    for array in GROWN {
        for chunk in pins::names(&lab.pins.maps()).unwrap() {
            let Some(number) = chunk.strip_prefix(array).and_then(|end| end.strip_prefix('-')?.parse().ok()) else {
                continue;
            };
            let linked = sys::get::<u32>(sys::open(&path(lab, array)).unwrap().as_fd(), number);
            assert_eq!(linked.ok(), Some(id(&path(lab, &chunk))), "{case}: {chunk}");
        }
    }
    let mut used = BTreeSet::new();
    for name in pins::names(&lab.pins.programs()).unwrap() {
        let ids = ProgramInfo::from_pin(lab.pins.programs().join(&name)).unwrap().map_ids().unwrap().unwrap();
        let old: Vec<_> = small.iter().filter(|(_, id)| ids.contains(id)).collect();
        assert!(old.is_empty(), "{case}: {name} uses {old:?}");
        used.extend(ids);
    }
    // No program uses the names.
    let unused = ids(lab).into_iter().filter(|(map, id)| *map != map::NAMES && !used.contains(id)).count();
    assert_eq!(unused, 0, "{case}");
}

/// Each of the maps takes more than it did.
fn assert_room(lab: &Lab) {
    let mut store = BpfStore::open(&lab.pins).unwrap();
    let key = |n| FrontendKey::new(v6(n), Be16::new(81), 6);
    let (frontend, backend) = (Frontend::refusing(1), Backend { addr: v6(1), port: Be16::new(80), flags: 0 });
    for n in 0..100 {
        store.write(&Op::V6(FamilyOp::Frontend { key: key(n), frontend })).unwrap();
        store.write(&Op::Name { id: 1000 + u32::from(n), name: name(1).into() }).unwrap();
        let range = FamilyOp::Range { key: RangeKey { service: 1000, addr: v4(n) }, len: 64 };
        store.write(&Op::V4(range)).unwrap();
    }
    store.write(&Op::V6(FamilyOp::Backend { id: 2 * map::BACKENDS_CHUNK, backend })).unwrap();
    store.write(&Op::Run { at: 2 * map::SLOTS_CHUNK, slots: [1; 7].into() }).unwrap();
}

#[test]
fn a_larger_map_takes_the_place_of_a_pinned_one_with_all_that_is_in_it() {
    let Some(lab) = Lab::new("a_larger_map_takes_the_place_of_a_pinned_one_with_all_that_is_in_it") else { return };
    drop(lab.load(&SMALL));
    let image = filled(&mut BpfStore::open(&lab.pins).unwrap());
    let small = ids(&lab);
    let (_programs, warnings) = lab.load(&LARGER);
    assert_eq!(warnings, [""; 0]);
    assert_grown(&lab, &image, &small, "larger");
    assert_room(&lab);
    // Who asks for less later keeps what there is.
    let large = ids(&lab);
    let (_programs, warnings) = lab.load(&SMALL);
    assert_eq!((warnings.len(), ids(&lab)), (GROWN.len(), large), "{warnings:?}");
}

/// Stages of IPv6 that come later are loaded over the maps as they are, however large the usual ones would be.
#[test]
fn programs_that_are_loaded_later_change_no_size() {
    let Some(lab) = Lab::new("programs_that_are_loaded_later_change_no_size") else { return };
    lab.pins.create().unwrap();
    let needed = |capacities| Object::embedded().unwrap().load_needed(&lab.pins, capacities, false).unwrap();
    drop(needed(&SMALL));
    let small = ids(&lab);
    let _programs = needed(&LARGER);
    let large = ids(&lab);
    let image = filled(&mut BpfStore::open(&lab.pins).unwrap());
    assert_eq!(ids(&lab), large);
    assert_grown(&lab, &image, &small, "loaded later");
}

/// Whatever a start that was killed has done: some maps have their names, others wait for theirs with anything in them.
#[test]
fn what_a_killed_start_left_is_completed() {
    let Some(lab) = Lab::new("what_a_killed_start_left_is_completed") else { return };
    let folder = |name: &str| {
        let folder = lab.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    };
    let keep = |from: &Pins, to: &Path| {
        GROWN.iter().for_each(|map| fs::hard_link(from.maps().join(map), to.join(map)).unwrap());
    };
    let (small, large, stale) = (folder("small"), folder("large"), folder("stale"));
    drop(lab.load(&SMALL));
    let image = filled(&mut BpfStore::open(&lab.pins).unwrap());
    let small_ids = ids(&lab);
    keep(&lab.pins, &small);
    drop(lab.load(&LARGER));
    keep(&lab.pins, &large);
    // Maps that hold something else.
    let other = Pins::new(lab.folder.path().join("other"));
    other.create().unwrap();
    drop(Object::embedded().unwrap().load_needed(&other, &LARGER, false).unwrap());
    let (key, frontend) = (FrontendKey::new(v4(99), Be16::new(9), 6), Frontend::refusing(9));
    BpfStore::open(&other).unwrap().write(&Op::V4(FamilyOp::Frontend { key, frontend })).unwrap();
    keep(&other, &stale);

    for (done, next) in GROWN.into_iter().enumerate() {
        for (place, map) in GROWN.into_iter().enumerate() {
            fs::remove_file(path(&lab, map)).unwrap();
            let now = if place < done { &large } else { &small };
            fs::hard_link(now.join(map), path(&lab, map)).unwrap();
            if place >= done {
                fs::hard_link(stale.join(map), path(&lab, &format!("{map}-new"))).unwrap();
            }
        }
        drop(lab.load(&LARGER));
        assert_grown(&lab, &image, &small_ids, &format!("killed before {next} had its name"));
    }
}
