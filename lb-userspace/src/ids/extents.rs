//! Room in an array: first fit over a list of what is free.

use std::collections::BTreeMap;

/// What is free of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    /// Offset → length. No two touch.
    free: BTreeMap<u32, u32>,
}

impl Extents {
    /// An empty array.
    pub fn new(capacity: u32) -> Self {
        Self { free: [(0, capacity)].into_iter().filter(|(_, len)| *len > 0).collect() }
    }

    /// How much there is in all.
    pub fn room(&self) -> u32 {
        self.free.values().sum()
    }

    /// Takes `len` (at least 1) at the first place that has room.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        let (at, room) = self.free.iter().find(|(_, room)| **room >= len).map(|(at, room)| (*at, *room))?;
        self.free.remove(&at);
        if room > len {
            self.free.insert(at + len, room - len);
        }
        Some(at)
    }

    /// Takes exactly this place; `false`, and nothing is taken, where not all of it is free.
    pub fn reserve(&mut self, at: u32, len: u32) -> bool {
        let Some((start, room)) = self.free.range(..=at).next_back().map(|(start, room)| (*start, *room)) else {
            return false;
        };
        let Some(end) = at.checked_add(len).filter(|end| *end <= start + room) else { return false };
        self.free.remove(&start);
        if at > start {
            self.free.insert(start, at - start);
        }
        if start + room > end {
            self.free.insert(end, start + room - end);
        }
        true
    }

    /// Gives back what was taken.
    pub fn give(&mut self, mut at: u32, mut len: u32) {
        if let Some((start, room)) = self.free.range(..at).next_back().map(|(start, room)| (*start, *room))
            && start + room == at
        {
            self.free.remove(&start);
            (at, len) = (start, room + len);
        }
        if let Some(room) = self.free.remove(&(at + len)) {
            len += room;
        }
        self.free.insert(at, len);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_place_with_room_is_taken() {
        let mut extents = Extents::new(10);
        assert_eq!(
            [extents.take(3), extents.take(3), extents.take(4), extents.take(1)],
            [Some(0), Some(3), Some(6), None]
        );
        extents.give(0, 3);
        extents.give(6, 4);
        assert_eq!([extents.take(4), extents.take(2)], [Some(6), Some(0)]);
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
