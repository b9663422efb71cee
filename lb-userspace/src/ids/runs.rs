//! Places of Maglev tables in `SLOTS`: one table for each set of backends, shared by all frontends with that set.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use lb_common::ip::Family;
use lb_common::mem::Slots;

use super::uses::Uses;
use super::{Exhausted, Extents, Rest};

/// A set of backends: their ids in the order of their addresses and ports.
type Set = (Family, Arc<[u32]>);

/// A place in `SLOTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of its first slot.
    pub at: u32,
    /// Its slots. Each table is made once, when its set is first used.
    pub slots: Slots,
}

/// The places of all tables.
#[derive(Debug)]
pub struct Runs {
    places: Uses<Set, Place>,
    free: Extents,
    capacity: u32,
    rest: Rest,
    /// Places of tables that the maps named but that make no sense: they rest, too, before they are free.
    strange: Vec<(u32, u32)>,
    strange_resting: VecDeque<(Instant, u32, u32)>,
}

#[derive(Debug)]
struct Place {
    at: u32,
    len: u32,
    /// Not known of a place that was recovered and has not been used yet.
    slots: Option<Slots>,
}

impl Runs {
    /// An empty array of `capacity` slots.
    pub fn new(capacity: u32, rest: Rest) -> Self {
        Self {
            places: Uses::default(),
            free: Extents::new(capacity),
            capacity,
            rest,
            strange: Vec::new(),
            strange_resting: VecDeque::new(),
        }
    }

    /// Slots that are not free: those of tables in use, and of those that rest.
    pub fn used(&self) -> u32 {
        self.capacity - self.free.room()
    }

    /// Takes over the place of a table that stands in the maps, idle until someone acquires it; `false` where it
    /// overlaps another.
    pub fn recover(&mut self, family: Family, set: &Arc<[u32]>, at: u32, len: u32) -> bool {
        let set = (family, set.clone());
        if self.places.contains(&set) || !self.free.reserve(at, len) {
            return false;
        }
        self.places.insert_idle(set, Place { at, len, slots: None });
        true
    }

    /// Keeps clear of slots that frontends point to for reasons unknown, until those frontends are repaired.
    pub fn avoid(&mut self, at: u32, len: u32) {
        for slot in at..at.saturating_add(len).min(self.capacity) {
            if self.free.reserve(slot, 1) {
                self.strange.push((slot, 1));
            }
        }
    }

    /// The table of a set, for one more user. `fill` makes it where it is not at hand.
    ///
    /// # Errors
    /// There is no room for `len` slots.
    pub fn acquire(
        &mut self,
        family: Family,
        set: &Arc<[u32]>,
        len: u32,
        fill: impl FnOnce() -> Slots,
    ) -> Result<Run, Exhausted> {
        let key = (family, set.clone());
        if let Some(place) = self.places.acquire(&key) {
            let slots = place.slots.get_or_insert_with(fill).clone();
            return Ok(Run { at: place.at, slots });
        }
        let at = self.free.take(len).ok_or(Exhausted { capacity: self.capacity })?;
        let slots = fill();
        self.places.insert(key, Place { at, len, slots: Some(slots.clone()) });
        Ok(Run { at, slots })
    }

    /// One user less; the place, where that was the last.
    pub fn release(&mut self, family: Family, set: &Arc<[u32]>) -> Option<u32> {
        self.places.release(&(family, set.clone())).map(|place| place.at)
    }

    /// The maps now say what was decided: what is idle begins to rest.
    pub fn settle(&mut self, now: Instant) {
        self.places.settle(now);
        self.strange_resting.extend(self.strange.drain(..).map(|(at, len)| (now, at, len)));
    }

    /// When [`Runs::expire`] may next free something.
    pub fn deadline(&self) -> Option<Instant> {
        let strange = self.strange_resting.front().map(|(since, ..)| *since);
        self.places.oldest().into_iter().chain(strange).min().map(|since| since + self.rest.entry)
    }

    /// Frees what has rested long enough; whether there was any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let rest = self.rest.entry;
        let mut freed = false;
        while let Some((_, _, place)) = self.places.rested(rest, now) {
            self.free.give(place.at, place.len);
            freed = true;
        }
        while let Some((_, at, len)) = self.strange_resting.pop_front_if(|(since, ..)| *since + rest <= now) {
            self.free.give(at, len);
            freed = true;
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REST: Rest = Rest { entry: Duration::from_secs(2), id: Duration::from_secs(10) };

    fn take(runs: &mut Runs, set: &[u32], len: u32) -> Option<u32> {
        runs.acquire(Family::V4, &set.into(), len, || vec![0; len as usize].into()).ok().map(|run| run.at)
    }

    #[test]
    fn one_table_a_set_and_family() {
        let mut runs = Runs::new(100, REST);
        assert_eq!(take(&mut runs, &[1, 2], 10), Some(0));
        assert_eq!(take(&mut runs, &[2, 3], 10), Some(10));
        let again = runs.acquire(Family::V4, &[1, 2].into(), 10, || panic!("it is at hand")).unwrap();
        assert_eq!(again.at, 0);
        let v6 = runs.acquire(Family::V6, &[1, 2].into(), 10, || vec![0; 10].into()).unwrap();
        assert_eq!(v6.at, 20);
    }

    #[test]
    fn a_freed_place_rests_before_it_is_overwritten() {
        let at = Instant::now();
        let second = Duration::from_secs(1);
        let mut runs = Runs::new(10, REST);
        take(&mut runs, &[1], 10);
        assert_eq!(runs.release(Family::V4, &[1].into()), Some(0));
        assert!(!runs.expire(at + 9 * second), "the maps do not say so yet");
        runs.settle(at);
        assert!(!runs.expire(at + second));
        assert_eq!(take(&mut runs, &[2], 10), None);
        assert!(runs.expire(at + 2 * second));
        assert_eq!(take(&mut runs, &[2], 10), Some(0));
    }

    #[test]
    fn a_set_that_comes_back_finds_its_table_as_it_was() {
        let at = Instant::now();
        let mut runs = Runs::new(10, REST);
        take(&mut runs, &[1], 10);
        runs.release(Family::V4, &[1].into());
        runs.settle(at);
        runs.acquire(Family::V4, &[1].into(), 10, || panic!("it is at hand")).unwrap();
        assert!(!runs.expire(at + Duration::from_secs(9)));
    }

    #[test]
    fn recovered_places_are_kept_and_their_tables_made_anew() {
        let mut runs = Runs::new(100, REST);
        assert!(runs.recover(Family::V4, &[1, 2].into(), 50, 10));
        assert!(!runs.recover(Family::V4, &[3].into(), 55, 1), "it overlaps");
        let run = runs.acquire(Family::V4, &[1, 2].into(), 10, || vec![7; 10].into()).unwrap();
        assert_eq!((run.at, run.slots.get(0)), (50, Some(7)));
    }

    #[test]
    fn strange_slots_are_left_alone_for_a_while() {
        let at = Instant::now();
        let mut runs = Runs::new(10, REST);
        runs.recover(Family::V4, &[1].into(), 4, 2);
        runs.avoid(0, 6);
        assert_eq!(take(&mut runs, &[2], 4), Some(6));
        runs.settle(at);
        assert!(runs.expire(at + Duration::from_secs(2)));
        assert_eq!(take(&mut runs, &[3], 4), Some(0));
    }
}
