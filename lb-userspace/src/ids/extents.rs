//! Room in an array: the smallest place that is large enough.

use std::collections::{BTreeMap, BTreeSet};

/// What is free of an array.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    /// Offset → length. No two touch.
    free: BTreeMap<u32, u32>,
    /// The same by length, so that no place that is too small is ever looked at.
    by_len: BTreeSet<(u32, u32)>,
    room: u32,
}

impl Extents {
    /// An empty array.
    pub fn new(capacity: u32) -> Self {
        let mut extents = Self::default();
        extents.add(0, capacity);
        extents
    }

    /// How much there is in all.
    pub fn room(&self) -> u32 {
        self.room
    }

    /// Takes `len` (at least 1) at the smallest place that has room, the first of these.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        let (room, at) = *self.by_len.range((len, 0)..).next()?;
        self.remove(at);
        self.add(at + len, room - len);
        Some(at)
    }

    /// Takes exactly this place; `false`, and nothing is taken, where not all of it is free.
    pub fn reserve(&mut self, at: u32, len: u32) -> bool {
        let Some((start, room)) = self.free.range(..=at).next_back().map(|(start, room)| (*start, *room)) else {
            return false;
        };
        let Some(end) = at.checked_add(len).filter(|end| *end <= start + room) else { return false };
        self.remove(start);
        self.add(start, at - start);
        self.add(end, start + room - end);
        true
    }

    /// Gives back what was taken.
    pub fn give(&mut self, mut at: u32, mut len: u32) {
        if let Some((start, room)) = self.free.range(..at).next_back().map(|(start, room)| (*start, *room))
            && start + room == at
        {
            self.remove(start);
            (at, len) = (start, room + len);
        }
        len += self.remove(at + len).unwrap_or(0);
        self.add(at, len);
    }

    fn add(&mut self, at: u32, len: u32) {
        if len > 0 {
            self.free.insert(at, len);
            self.by_len.insert((len, at));
            self.room += len;
        }
    }

    /// The length of what was there.
    fn remove(&mut self, at: u32) -> Option<u32> {
        let len = self.free.remove(&at)?;
        self.by_len.remove(&(len, at));
        self.room -= len;
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_place_with_room_is_taken() {
        let mut extents = Extents::new(20);
        assert_eq!([8, 1, 3, 8, 1].map(|len| extents.take(len)), [Some(0), Some(8), Some(9), Some(12), None]);
        extents.give(0, 8);
        extents.give(9, 3);
        assert_eq!(extents.room(), 11);
        assert_eq!([2, 4, 1, 4, 1].map(|len| extents.take(len)), [Some(9), Some(0), Some(11), Some(4), None]);
    }

    #[test]
    fn a_place_is_reserved_whole_or_not_at_all() {
        let mut extents = Extents::new(10);
        assert!(extents.reserve(4, 2));
        assert!(!extents.reserve(5, 2));
        assert!(!extents.reserve(9, 2));
        assert!(!extents.reserve(u32::MAX, 2));
        assert_eq!([extents.take(4), extents.take(4), extents.take(1)], [Some(0), Some(6), None]);
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_all_comes_back(steps in prop::collection::vec((1_u32..20, any::<bool>()), 1..100)) {
            let mut extents = Extents::new(200);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (n, take) in steps {
                if take {
                    if let Some(at) = extents.take(n) {
                        prop_assert!(taken.iter().all(|(a, l)| at + n <= *a || a + l <= at), "{at}+{n} in {taken:?}");
                        taken.push((at, n));
                    }
                } else if !taken.is_empty() {
                    let (at, len) = taken.swap_remove(n as usize % taken.len());
                    extents.give(at, len);
                }
            }
            for (at, len) in taken {
                extents.give(at, len);
            }
            prop_assert_eq!(extents, Extents::new(200));
        }
    }
}
