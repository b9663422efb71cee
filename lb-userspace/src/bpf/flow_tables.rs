//! The tables of flows that programs are loaded over, and how a larger one takes the place of another.
//!
//! Packets write a table of flows all the time, at several hooks, whose programs are swapped one after the other. So it goes in
//! steps. Each leaves what the next agent goes on with, should this one be killed:
//!
//! ```text
//! pinned                      programs                                  new flows go to
//! FLOWS_V4                    over FLOWS_V4                             FLOWS_V4
//! FLOWS_V4, FLOWS_V4-new      joined, hook by hook: these see both      FLOWS_V4
//!                             joined at all hooks: the table is turned  FLOWS_V4-new
//!                             one that stands at no hook moves entries
//!                             over FLOWS_V4-new, hook by hook
//! FLOWS_V4                    (the new one gets the name)
//! ```
//!
//! What was begun and not turned is dropped at the next start, what was turned is finished.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use aya::EbpfLoader;
use lb_common::flow::table::{SEED_AT, TURNED_AT, bucket_words, buckets_for, flows_in};
use lb_common::ip::{Family, V4, V6};
use lb_common::tables::map;

use super::dense::Words;
use super::grow::waiting;
use super::shape::{self, Shape};
use super::table::{Moved, Mover};
use super::{Capacities, Error, Pins, pins, sys};

/// A table that is to be replaced gets so many times its size.
const GROWTH: u32 = 8;

/// Passes over the old table, and the pause between two: an entry is left where its bucket was just in use.
const PASSES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Buckets that larger tables are to have, by family; none where one stays.
pub type LargerTables = [Option<u32>; 2];

/// Which tables programs are to see.
#[derive(Clone, Copy, Debug)]
pub(super) enum View {
    /// Those that have the names.
    Named,
    /// Beside these larger ones: those that were turned to, or new ones.
    Joined(LargerTables),
    /// Those that were turned to alone, since the others are empty.
    Moved,
}

/// What programs are to see.
#[derive(Debug)]
pub(super) struct FlowTables([Table; 2]);

/// What they are to see of one family.
#[derive(Debug)]
struct Table {
    family: Family,
    /// Where it is pinned, or will be.
    path: PathBuf,
    buckets: u32,
    /// What makes its hashes unpredictable.
    seed: u32,
    /// Where the one is pinned whose entries move to it, and its buckets.
    old: Option<(PathBuf, u32)>,
}

impl FlowTables {
    /// With these sizes for what is not there.
    ///
    /// # Errors
    /// A pinned table is of another shape, or cannot be read.
    pub(super) fn of(pins: &Pins, view: View, capacities: &Capacities) -> Result<Self, Error> {
        let [v4, v6] = Place::of_all(pins, capacities);
        Ok(Self([v4.table(view)?, v6.table(view)?]))
    }

    /// Buckets and, above these bits, the seed, by family.
    pub(super) fn shapes(&self) -> [u64; 2] {
        self.0.each_ref().map(|table| u64::from(table.seed) << 32 | u64::from(table.buckets))
    }

    /// Buckets of the tables whose entries move, by family.
    pub(super) fn old(&self) -> [u64; 2] {
        self.0.each_ref().map(|table| table.old.as_ref().map_or(0, |(_, buckets)| (*buckets).into()))
    }

    /// Which of them are larger than an option wants.
    pub(super) fn warnings(&self, capacities: &Capacities) -> Vec<String> {
        let most = buckets_for(capacities.flows);
        self.0.iter().filter_map(|table| shape::flows(table.family, capacities).keeps(table.buckets, most)).collect()
    }

    /// Has the programs of an object use these.
    pub(super) fn apply<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for Table { family, path, buckets, old, .. } in &self.0 {
            let name = map::FLOWS[*family as usize];
            loader.map_max_entries(name, *buckets).map_pin_path(name, path);
            if let Some((path, buckets)) = old {
                let name = map::FLOWS_OLD[*family as usize];
                loader.map_max_entries(name, *buckets).map_pin_path(name, path);
            }
        }
    }

    /// Sets the seeds, which must be when the loader has made the maps, and before the first flow comes.
    ///
    /// # Errors
    /// One cannot be written.
    pub(super) fn set_seeds(&self) -> Result<(), Error> {
        self.0.iter().try_for_each(|table| {
            Head::open(&table.path, table.family)?.set_seed(table.seed);
            Ok(())
        })
    }
}

/// Where the tables of a family are pinned.
#[derive(Debug)]
struct Place {
    family: Family,
    shape: Shape,
    /// The one that has the name.
    named: PathBuf,
    /// The one that is to get it.
    waiting: PathBuf,
}

impl Place {
    fn of_all(pins: &Pins, capacities: &Capacities) -> [Self; 2] {
        let folder = pins.maps();
        [Family::V4, Family::V6].map(|family| {
            let shape = shape::flows(family, capacities);
            Self { family, shape, named: folder.join(shape.map), waiting: waiting(&folder, shape.map) }
        })
    }

    fn table(self, view: View) -> Result<Table, Error> {
        let turned = self.turned()?;
        let Self { family, shape, named, waiting } = self;
        let (buckets, seed) = match shape.pinned_at(&named)? {
            Some(buckets) => (buckets, Head::open(&named, family)?.seed()),
            None => (shape.capacity, 0),
        };
        // Keys of std's maps come from the system's random numbers.
        let seed = if seed == 0 { RandomState::new().hash_one(buckets) as u32 | 1 } else { seed };
        let larger = match view {
            View::Named => None,
            View::Moved => turned,
            View::Joined(larger) => turned.or(larger[family as usize]),
        };
        if turned.is_none() && matches!(view, View::Joined(_)) {
            // What was begun and not turned to: there is nothing in it.
            pins::unpin(&waiting)?;
        }
        Ok(match larger {
            None => Table { family, path: named, buckets, seed, old: None },
            Some(larger) => {
                let old = matches!(view, View::Joined(_)).then_some((named, buckets));
                Table { family, path: waiting, buckets: larger, seed, old }
            }
        })
    }

    /// The buckets of the table that waits, if new flows go to it.
    fn turned(&self) -> Result<Option<u32>, Error> {
        let Some(buckets) = self.shape.pinned_at(&self.waiting)? else { return Ok(None) };
        Ok(Head::open(&self.waiting, self.family)?.is_turned().then_some(buckets))
    }
}

/// The beginning of a table, where the numbers stand that are about all of it.
struct Head {
    words: Words,
}

impl Head {
    fn open(path: &Path, family: Family) -> Result<Self, Error> {
        let (map, bucket) = match family {
            Family::V4 => (map::FLOWS[0], bucket_words::<V4>()),
            Family::V6 => (map::FLOWS[1], bucket_words::<V6>()),
        };
        let failed = |error| Error::map("read", map, &error);
        let table = sys::open(path).map_err(&failed)?;
        // Of two buckets. Where there is but one, the rest of its page is there as well.
        Ok(Self { words: Words::map(table.as_fd(), 2 * bucket).map_err(failed)? })
    }

    fn half(&self, bucket: usize, at: usize) -> Option<&AtomicU32> {
        self.words.half(bucket * self.words.halves() / 2 + at)
    }

    /// What makes hashes unpredictable: 0 in a table that is new.
    fn seed(&self) -> u32 {
        self.half(0, SEED_AT).map_or(0, |seed| seed.load(Ordering::Relaxed))
    }

    fn set_seed(&self, new: u32) {
        if let Some(seed) = self.half(0, SEED_AT) {
            seed.store(new, Ordering::Relaxed);
        }
    }

    /// Whether joined programs insert here, not into the table whose entries move.
    fn is_turned(&self) -> bool {
        self.half(1, TURNED_AT).is_some_and(|turned| turned.load(Ordering::Relaxed) != 0)
    }

    fn turn(&self) {
        if let Some(turned) = self.half(1, TURNED_AT) {
            turned.store(1, Ordering::Relaxed);
        }
    }
}

/// Which tables are more than half full of established flows, whose entries `levels` counts by map, and how large these may be.
///
/// # Errors
/// A pinned table cannot be read.
pub fn larger_flow_tables(
    pins: &Pins,
    levels: &[(&str, u64)],
    capacities: &Capacities,
) -> Result<Option<LargerTables>, Error> {
    let mut larger = LargerTables::default();
    for place in Place::of_all(pins, capacities) {
        let level = levels.iter().find(|(map, _)| *map == place.shape.map).map_or(0, |(_, entries)| *entries);
        let Some(buckets) = place.shape.pinned_at(&place.named)? else { continue };
        let (room, most) = (place.shape.entries_each() * flows_in(buckets), buckets_for(capacities.flows));
        if level * 2 > room.into() && buckets < most {
            larger[place.family as usize] = Some(buckets.saturating_mul(GROWTH).min(most));
        }
    }
    Ok((larger != LargerTables::default()).then_some(larger))
}

/// The tables that were turned to and have not got their names yet. To move their entries all hooks must have joined programs.
#[derive(Debug)]
pub struct Move {
    places: Vec<Place>,
    programs: PathBuf,
}

impl Move {
    /// Turns to the tables that wait: from now on new flows go there.
    ///
    /// # Errors
    /// A pinned table cannot be read.
    pub fn begin(pins: &Pins) -> Result<Self, Error> {
        sys::wait_for_programs();
        for place in Place::of_all(pins, &Capacities::default()) {
            if place.waiting.exists() {
                Head::open(&place.waiting, place.family)?.turn();
            }
        }
        sys::wait_for_programs();
        Self::under_way(pins)
    }

    /// One that was begun.
    ///
    /// # Errors
    /// A pinned table cannot be read.
    pub fn under_way(pins: &Pins) -> Result<Self, Error> {
        let mut places = Vec::new();
        for place in Place::of_all(pins, &Capacities::default()) {
            if place.turned()?.is_some() {
                places.push(place);
            }
        }
        Ok(Self { places, programs: pins.programs() })
    }

    /// Which these are, for people.
    pub fn maps(&self) -> String {
        self.places.iter().map(|place| place.shape.map).collect::<Vec<_>>().join(" and ")
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.places.is_empty()
    }

    /// Moves all entries, and says how many these were.
    ///
    /// # Errors
    /// The program does not run, or entries could not be moved.
    pub fn entries(&self) -> Result<u64, Error> {
        let mut moved = 0;
        for place in &self.places {
            let failed = |error: &io::Error| Error::map("enlarge", place.shape.map, error);
            let buckets = place.shape.pinned_at(&place.named)?.unwrap_or(0);
            let mut mover = Mover::open(&self.programs, place.family).map_err(|error| failed(&error))?;
            let mut left = 0;
            for _ in 0..PASSES {
                let done = mover.pass(buckets).map_err(|error| failed(&error))?;
                (moved, left) = (moved + done.moved, done.left);
                if done == Moved::default() {
                    break;
                }
                if left > 0 {
                    thread::sleep(PAUSE);
                }
            }
            if left > 0 {
                return Err(failed(&io::Error::other(format!("{left} entries find no place in the larger one"))));
            }
        }
        Ok(moved)
    }

    /// Gives the tables their names. To be called when no joined program runs any more.
    ///
    /// # Errors
    /// A pin cannot be renamed.
    pub fn end(self) -> Result<(), Error> {
        self.places.iter().try_for_each(|Place { waiting, named, .. }| {
            fs::rename(waiting, named).map_err(|source| Error::file("rename", waiting, source))
        })
    }
}
