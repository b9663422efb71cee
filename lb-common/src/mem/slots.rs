//! The slots of a Maglev table in little memory: the agent keeps those of each set of backends.

use std::boxed::Box;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::vec::Vec;

/// The slots of a Maglev table. They are a hundred times as many as backends, so a slot holds where its backend stands
/// among these, in one byte where that is enough. A clone shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots(Arc<Parts>);

#[derive(Debug, PartialEq, Eq)]
struct Parts {
    /// Each backend once, in the order in which the slots show them.
    ids: Box<[u32]>,
    slots: Positions,
}

#[derive(Debug, PartialEq, Eq)]
enum Positions {
    /// Of at most 256 backends.
    Few(Box<[u8]>),
    /// Of more.
    Many(Box<[u32]>),
}

impl Slots {
    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0.slots {
            Positions::Few(slots) => slots.len(),
            Positions::Many(slots) => slots.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The backends that they lead to, each once.
    pub fn ids(&self) -> &[u32] {
        &self.0.ids
    }

    /// The backend of a slot.
    pub fn get(&self, slot: usize) -> Option<u32> {
        let position = match &self.0.slots {
            Positions::Few(slots) => usize::from(*slots.get(slot)?),
            Positions::Many(slots) => *slots.get(slot)? as usize,
        };
        self.0.ids.get(position).copied()
    }

    /// Whether these are the backends of some slots, as `of` tells them by where each stands among these.
    pub fn are(&self, slots: Range<usize>, of: impl Fn(usize) -> u32) -> bool {
        // Ten million are compared in a sweep: nothing is asked twice of each.
        fn same<P: Copy + Into<u32>>(positions: Option<&[P]>, ids: &[u32], of: impl Fn(usize) -> u32) -> bool {
            let is = |(at, position): (usize, &P)| ids.get((*position).into() as usize) == Some(&of(at));
            positions.is_some_and(|positions| positions.iter().enumerate().all(is))
        }
        match &self.0.slots {
            Positions::Few(all) => same(all.get(slots), &self.0.ids, of),
            Positions::Many(all) => same(all.get(slots), &self.0.ids, of),
        }
    }

    /// The backends of all slots, in their order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (few, many): (&[u8], &[u32]) = match &self.0.slots {
            Positions::Few(slots) => (slots, &[]),
            Positions::Many(slots) => (&[], slots),
        };
        let positions = few.iter().map(|position| usize::from(*position));
        let positions = positions.chain(many.iter().map(|position| *position as usize));
        // Each position was made of an id, so there is one.
        positions.map(|position| self.0.ids.get(position).copied().unwrap_or_default())
    }
}

impl From<&[u32]> for Slots {
    fn from(slots: &[u32]) -> Self {
        let mut ids = Vec::new();
        let few = few(slots, &mut ids).map(Positions::Few);
        let slots = few.unwrap_or_else(|| Positions::Many(many(slots, &mut ids)));
        Self(Arc::new(Parts { ids: ids.into(), slots }))
    }
}

impl From<Vec<u32>> for Slots {
    fn from(slots: Vec<u32>) -> Self {
        Self::from(&slots[..])
    }
}

impl<const N: usize> From<[u32; N]> for Slots {
    fn from(slots: [u32; N]) -> Self {
        Self::from(&slots[..])
    }
}

/// None where there are too many backends for one byte.
fn few(slots: &[u32], ids: &mut Vec<u32>) -> Option<Box<[u8]>> {
    // Ten million slots are read at a start: where an id stood last time is mostly where it stands.
    let mut last = [0u8; 256];
    let mut position = |id: &u32| {
        let guess = &mut last[*id as usize % 256];
        if ids.get(usize::from(*guess)) != Some(id) {
            let found = ids.iter().position(|known| known == id);
            let at = u8::try_from(found.unwrap_or(ids.len())).ok()?;
            if found.is_none() {
                ids.push(*id);
            }
            *guess = at;
        }
        Some(*guess)
    };
    slots.iter().map(&mut position).collect()
}

fn many(slots: &[u32], ids: &mut Vec<u32>) -> Box<[u32]> {
    ids.clear();
    let mut known = HashMap::new();
    let mut position = |id: &u32| {
        *known.entry(*id).or_insert_with(|| {
            ids.push(*id);
            ids.len() as u32 - 1
        })
    };
    slots.iter().map(&mut position).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_are_those_that_they_were_made_of(
            slots in prop::collection::vec(prop_oneof![0u32..8, 0u32..1000, any::<u32>()], 0..2000),
            (some, other) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let made = Slots::from(&slots[..]);
            prop_assert_eq!(made.iter().collect::<Vec<_>>(), &slots[..]);
            prop_assert_eq!(made.get(slots.len()), None);
            let (some, other) = (some.index(slots.len() + 1), other.index(slots.len() + 1));
            let range = some.min(other)..some.max(other);
            prop_assert!(made.are(range.clone(), |at| slots[range.start + at]));
            let last_is_wrong = |at: usize| slots[range.start + at] ^ u32::from(at + 1 == range.len());
            prop_assert!(range.is_empty() || !made.are(range.clone(), last_is_wrong));
            prop_assert!(!made.are(range.start..slots.len() + 1, |at| slots.get(range.start + at).copied().unwrap_or(0)));
            let mut ids = made.ids().to_vec();
            ids.sort_unstable();
            let mut expected = slots.clone();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(ids, expected);
        }
    }

    #[test]
    fn up_to_256_backends_take_one_byte_a_slot() {
        for (backends, bytes) in [(0, true), (1, true), (256, true), (257, false)] {
            let made = Slots::from((0..backends).cycle().take(backends as usize * 3).collect::<Vec<_>>());
            assert_eq!(matches!(made.0.slots, Positions::Few(_)), bytes, "{backends} backends");
        }
    }
}
