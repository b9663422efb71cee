//! Who uses a thing, and since when nobody does: what ids and places have in common.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Things by their keys: in use, idle, or at rest until they are taken out.
#[derive(Debug)]
pub(super) struct Uses<K, T> {
    entries: HashMap<K, Entry<T>>,
    /// Fell out of use since the last settling.
    idle: Vec<K>,
    /// Rest; the oldest first.
    resting: VecDeque<(Instant, K)>,
}

#[derive(Debug)]
struct Entry<T> {
    thing: T,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Used(u32),
    Idle,
    Resting(Instant),
}

impl<K, T> Default for Uses<K, T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), idle: Vec::new(), resting: VecDeque::new() }
    }
}

impl<K: Hash + Eq + Clone, T> Uses<K, T> {
    /// Whether there is such a thing, used or not.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Adds a thing with its first user.
    pub(super) fn insert(&mut self, key: K, thing: T) {
        self.entries.insert(key, Entry { thing, phase: Phase::Used(1) });
    }

    /// Adds a thing that nobody uses yet.
    pub(super) fn insert_idle(&mut self, key: K, thing: T) {
        self.entries.insert(key.clone(), Entry { thing, phase: Phase::Idle });
        self.idle.push(key);
    }

    /// The thing, if it is there, for one more user.
    pub(super) fn acquire(&mut self, key: &K) -> Option<&mut T> {
        let entry = self.entries.get_mut(key)?;
        entry.phase = match entry.phase {
            Phase::Used(users) => Phase::Used(users + 1),
            Phase::Idle | Phase::Resting(_) => Phase::Used(1),
        };
        Some(&mut entry.thing)
    }

    /// One user less; the thing, where that was the last.
    pub(super) fn release(&mut self, key: &K) -> Option<&T> {
        let entry = self.entries.get_mut(key)?;
        match &mut entry.phase {
            Phase::Used(users) if *users > 1 => {
                *users -= 1;
                None
            }
            Phase::Used(_) => {
                entry.phase = Phase::Idle;
                self.idle.push(key.clone());
                Some(&entry.thing)
            }
            Phase::Idle | Phase::Resting(_) => None,
        }
    }

    /// The maps now say what was decided: what is idle begins to rest.
    pub(super) fn settle(&mut self, now: Instant) {
        for key in self.idle.drain(..) {
            match self.entries.get_mut(&key) {
                Some(entry) if entry.phase == Phase::Idle => {
                    entry.phase = Phase::Resting(now);
                    self.resting.push_back((now, key));
                }
                _ => {}
            }
        }
    }

    /// Since when the one that rests longest does so.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.resting.front().map(|(since, _)| *since)
    }

    /// Takes out the next thing that has rested for `rest`, and since when.
    pub(super) fn rested(&mut self, rest: Duration, now: Instant) -> Option<(Instant, K, T)> {
        while let Some((since, key)) = self.resting.pop_front_if(|(since, _)| *since + rest <= now) {
            // It may have been used and have begun another rest since.
            if self.entries.get(&key).is_some_and(|entry| entry.phase == Phase::Resting(since))
                && let Some(entry) = self.entries.remove(&key)
            {
                return Some((since, key, entry.thing));
            }
        }
        None
    }
}
