//! Ids for things, from 1 up, with a rest before reuse.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

use super::uses::Uses;
use super::{Exhausted, Rest};

/// Ids for things of one kind.
#[derive(Debug)]
pub struct Pool<K> {
    /// Those that stand in the maps.
    uses: Uses<K, u32>,
    /// Those that have left the maps and rest on, with the begin of their rest: whose thing comes back gets its id back.
    removed: HashMap<K, (Instant, u32)>,
    /// The same in the order of time. One that came back, and perhaps left again, is here still.
    queue: VecDeque<(Instant, K)>,
    /// Ids below `next` that nobody has.
    free: BTreeSet<u32>,
    next: u32,
    capacity: u32,
    rest: Rest,
}

impl<K: Hash + Eq + Clone> Pool<K> {
    /// Ids from 1 to below `capacity`.
    pub fn new(capacity: u32, rest: Rest) -> Self {
        Self {
            uses: Uses::default(),
            removed: HashMap::new(),
            queue: VecDeque::new(),
            free: BTreeSet::new(),
            next: 1,
            capacity,
            rest,
        }
    }

    /// Takes over an id that stands in the maps; `false` where it or the thing is already known, or it is too high.
    /// It is idle until someone acquires it. To be called in the order of ids.
    pub fn recover(&mut self, id: u32, key: K) -> bool {
        if id < self.next || id >= self.capacity || self.uses.contains(&key) {
            return false;
        }
        self.free.extend(self.next..id);
        self.next = id + 1;
        self.uses.insert_idle(key, id);
        true
    }

    /// The id of a thing, for one more user.
    ///
    /// # Errors
    /// All ids are taken.
    pub fn acquire(&mut self, key: &K) -> Result<u32, Exhausted> {
        if let Some(id) = self.uses.acquire(key) {
            return Ok(*id);
        }
        let id = match self.removed.remove(key) {
            Some((_, id)) => id,
            None => self.fresh()?,
        };
        self.uses.insert(key.clone(), id);
        Ok(id)
    }

    fn fresh(&mut self) -> Result<u32, Exhausted> {
        if let Some(id) = self.free.pop_first() {
            return Ok(id);
        }
        if self.next < self.capacity {
            self.next += 1;
            return Ok(self.next - 1);
        }
        // Better an id that has not rested for long than none.
        while let Some((since, key)) = self.queue.pop_front() {
            if let Some(id) = self.forget(since, &key) {
                return Ok(id);
            }
        }
        Err(Exhausted { capacity: self.capacity.saturating_sub(1) })
    }

    /// One user less.
    pub fn release(&mut self, key: &K) {
        self.uses.release(key);
    }

    /// The maps now say what was decided: what is idle begins to rest.
    pub fn settle(&mut self, now: Instant) {
        self.uses.settle(now);
    }

    /// Ids that have rested long enough to leave the maps.
    pub fn expire(&mut self, now: Instant) -> Vec<u32> {
        let mut gone = Vec::new();
        while let Some((since, key, id)) = self.uses.rested(self.rest.entry, now) {
            gone.push(id);
            self.removed.insert(key.clone(), (since, id));
            self.queue.push_back((since, key));
        }
        while let Some((since, key)) = self.queue.pop_front_if(|(since, _)| *since + self.rest.id <= now) {
            if let Some(id) = self.forget(since, &key) {
                self.free.insert(id);
            }
        }
        gone
    }

    /// When [`Pool::expire`] will next have something to say.
    pub fn deadline(&self) -> Option<Instant> {
        self.uses.oldest().map(|since| since + self.rest.entry)
    }

    fn forget(&mut self, since: Instant, key: &K) -> Option<u32> {
        self.removed.get(key).filter(|(then, _)| *then == since)?;
        self.removed.remove(key).map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REST: Rest = Rest { entry: Duration::from_secs(2), id: Duration::from_secs(10) };

    fn pool(capacity: u32) -> (Pool<&'static str>, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Pool::new(capacity, REST), move |second| start + Duration::from_secs(second))
    }

    #[test]
    fn a_thing_keeps_its_id_while_anybody_uses_it() {
        let (mut pool, at) = pool(10);
        assert_eq!((pool.acquire(&"a"), pool.acquire(&"b"), pool.acquire(&"a")), (Ok(1), Ok(2), Ok(1)));
        pool.release(&"a");
        pool.settle(at(0));
        assert!(pool.expire(at(100)).is_empty());
        assert_eq!(pool.acquire(&"a"), Ok(1));
    }

    #[test]
    fn an_unused_id_rests_in_the_maps_then_outside_then_is_reused() {
        let (mut pool, at) = pool(10);
        pool.acquire(&"a").unwrap();
        pool.release(&"a");
        pool.settle(at(0));
        assert_eq!(pool.deadline(), Some(at(2)));
        assert!(pool.expire(at(1)).is_empty());
        assert_eq!(pool.expire(at(2)), [1]);
        assert_eq!(pool.acquire(&"b"), Ok(2), "1 rests still");
        assert!(pool.expire(at(10)).is_empty());
        assert_eq!(pool.acquire(&"c"), Ok(1));
    }

    #[test]
    fn nothing_rests_before_the_maps_say_so() {
        let (mut pool, at) = pool(10);
        pool.acquire(&"a").unwrap();
        pool.release(&"a");
        assert!(pool.expire(at(100)).is_empty());
        pool.settle(at(100));
        assert!(pool.expire(at(101)).is_empty());
        assert_eq!(pool.expire(at(102)), [1]);
    }

    #[test]
    fn a_thing_that_comes_back_gets_its_old_id_and_a_full_rest_next_time() {
        let (mut pool, at) = pool(10);
        pool.acquire(&"a").unwrap();
        pool.release(&"a");
        pool.settle(at(0));
        assert_eq!(pool.acquire(&"a"), Ok(1), "while it rests in the maps");
        pool.release(&"a");
        pool.settle(at(1));
        assert!(pool.expire(at(2)).is_empty());
        assert_eq!(pool.expire(at(3)), [1]);
        assert_eq!(pool.acquire(&"a"), Ok(1), "while it rests outside");
        assert!(pool.expire(at(100)).is_empty());
    }

    #[test]
    fn when_all_are_taken_the_longest_rest_ends_early() {
        let (mut pool, at) = pool(3);
        pool.acquire(&"a").unwrap();
        pool.acquire(&"b").unwrap();
        pool.release(&"a");
        pool.settle(at(0));
        assert_eq!(pool.acquire(&"c"), Err(Exhausted { capacity: 2 }), "1 still stands in the maps");
        pool.expire(at(2));
        assert_eq!(pool.acquire(&"c"), Ok(1));
    }

    #[test]
    fn recovered_ids_are_kept_and_gaps_between_them_used() {
        let (mut pool, at) = pool(10);
        assert!(pool.recover(2, "b"));
        assert!(pool.recover(4, "d"));
        assert!(!pool.recover(5, "d"), "a thing has one id");
        assert!(!pool.recover(10, "x"), "beyond the capacity");
        assert_eq!((pool.acquire(&"d"), pool.acquire(&"x"), pool.acquire(&"y")), (Ok(4), Ok(1), Ok(3)));
        assert_eq!(pool.acquire(&"z"), Ok(5));
        pool.settle(at(0));
        assert_eq!(pool.expire(at(2)), [2]);
    }
}
