//! What differs between two images, and the order in which it is written.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use lb_common::ip::{V4, V6};
use lb_common::mem::{Image, Of, Slots};
use lb_common::tables::{Backend, Config, Frontend, FrontendKey, Name};

use super::draft::Range;
use super::{FamilyOp, Op, Planned};

/// Entries that differ, with what they shall be: nothing, where they shall go.
pub(super) type Changed<K, V> = Vec<(K, Option<V>)>;

/// What differs between two images.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) config: Option<Config>,
    pub(super) names: Changed<u32, Name>,
    pub(super) runs: Changed<u32, Slots>,
    pub(super) filter: Changed<u32, ()>,
    pub(super) v4: SideChanges<V4>,
    pub(super) v6: SideChanges<V6>,
}

#[derive(Debug)]
pub(super) struct SideChanges<A: Of> {
    pub(super) frontends: Changed<FrontendKey<A>, Frontend>,
    pub(super) backends: Changed<u32, Backend<A>>,
    pub(super) ranges: Changed<Range<A>, ()>,
}

/// The writes that make `want` of `have`.
///
/// A table that no frontend points to any more needs no write: its slots mean nothing.
pub fn diff(have: &Image, want: &Image) -> Vec<Op> {
    Changes {
        config: (have.config != want.config).then_some(want.config),
        names: merge(&have.names, &want.names),
        runs: merge(&have.runs, &want.runs),
        filter: merge(&keys(&have.filter), &keys(&want.filter)),
        v4: side(have, want),
        v6: side(have, want),
    }
    .into_ops()
}

fn side<A: Of>(have: &Image, want: &Image) -> SideChanges<A> {
    let (have, want) = (A::side(have), A::side(want));
    SideChanges {
        frontends: merge(&have.frontends, &want.frontends),
        backends: merge(&have.backends, &want.backends),
        ranges: merge(&keys(&have.ranges), &keys(&want.ranges)),
    }
}

/// A set as a map, to be compared as one.
fn keys<K: Ord + Copy>(set: &BTreeSet<K>) -> BTreeMap<K, ()> {
    set.iter().map(|key| (*key, ())).collect()
}

/// The one sorted merge: walks both maps side by side.
fn merge<K: Ord + Copy, V: PartialEq + Clone>(have: &BTreeMap<K, V>, want: &BTreeMap<K, V>) -> Changed<K, V> {
    let (mut have, mut want) = (have.iter().peekable(), want.iter().peekable());
    let mut changed = Vec::new();
    loop {
        let order = match (have.peek(), want.peek()) {
            (None, None) => return changed,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((h, _)), Some((w, _))) => h.cmp(w),
        };
        let before = if order.is_le() { have.next() } else { None };
        let after = if order.is_ge() { want.next() } else { None };
        match (before, after) {
            (Some((key, _)), None) => changed.push((*key, None)),
            (before, Some((key, value))) if before.is_none_or(|(_, old)| old != value) => {
                changed.push((*key, Some(value.clone())));
            }
            _ => {}
        }
    }
}

impl Changes {
    /// In the order that the head of this module promises.
    pub(super) fn into_ops(self) -> Vec<Op> {
        let mut ops: Vec<Op> = self.config.map(Op::Config).into_iter().collect();
        let named = |(id, name): &(u32, Option<Name>)| Some(Op::Name { id: *id, name: Box::new((*name)?) });
        ops.extend(self.names.iter().filter_map(named));
        self.v4.add_backends(&mut ops);
        self.v6.add_backends(&mut ops);
        ops.extend(self.runs.into_iter().filter_map(|(at, slots)| Some(Op::Run { at, slots: slots? })));
        let bits = |wanted: bool| {
            let differ = self.filter.iter().filter(move |(_, set)| set.is_some() == wanted);
            differ.map(move |(bit, _)| Op::Filter { bit: *bit, set: wanted })
        };
        ops.extend(bits(true));
        self.v4.add_ranges(&mut ops);
        self.v6.add_ranges(&mut ops);
        self.v4.add_frontends(&mut ops);
        self.v6.add_frontends(&mut ops);

        self.v4.remove_frontends(&mut ops);
        self.v6.remove_frontends(&mut ops);
        self.v4.remove_ranges(&mut ops);
        self.v6.remove_ranges(&mut ops);
        ops.extend(bits(false));
        self.v4.remove_backends(&mut ops);
        self.v6.remove_backends(&mut ops);
        ops.extend(self.names.iter().filter(|(_, name)| name.is_none()).map(|(id, _)| Op::RemoveName { id: *id }));
        ops
    }
}

impl<A: Planned> SideChanges<A> {
    fn add_backends(&self, ops: &mut Vec<Op>) {
        let wanted = self.backends.iter().filter_map(|(id, backend)| Some((*id, (*backend)?)));
        ops.extend(wanted.map(|(id, backend)| A::op(FamilyOp::Backend { id, backend })));
    }

    fn add_ranges(&self, ops: &mut Vec<Op>) {
        let wanted = self.ranges.iter().filter(|(_, wanted)| wanted.is_some());
        ops.extend(wanted.map(|((key, len), _)| A::op(FamilyOp::Range { key: *key, len: *len })));
    }

    /// Only when no frontend asks for them any more.
    fn remove_ranges(&self, ops: &mut Vec<Op>) {
        let unwanted = self.ranges.iter().filter(|(_, wanted)| wanted.is_none());
        ops.extend(unwanted.map(|((key, len), _)| A::op(FamilyOp::RemoveRange { key: *key, len: *len })));
    }

    /// The last key first: so an address as a whole, which refuses, comes after its ports.
    fn add_frontends(&self, ops: &mut Vec<Op>) {
        let wanted = self.frontends.iter().rev().filter_map(|(key, frontend)| Some((*key, (*frontend)?)));
        ops.extend(wanted.map(|(key, frontend)| A::op(FamilyOp::Frontend { key, frontend })));
    }

    /// The first key first: so an address as a whole goes before its ports.
    fn remove_frontends(&self, ops: &mut Vec<Op>) {
        let unwanted = self.frontends.iter().filter(|(_, frontend)| frontend.is_none());
        ops.extend(unwanted.map(|(key, _)| A::op(FamilyOp::RemoveFrontend { key: *key })));
    }

    fn remove_backends(&self, ops: &mut Vec<Op>) {
        let unwanted = self.backends.iter().filter(|(_, backend)| backend.is_none());
        ops.extend(unwanted.map(|(id, _)| A::op(FamilyOp::RemoveBackend { id: *id })));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(u32, u32)]) -> BTreeMap<u32, u32> {
        pairs.iter().copied().collect()
    }

    #[test]
    fn the_merge_finds_what_is_new_other_and_gone() {
        let rows = [
            (map(&[]), map(&[]), vec![]),
            (map(&[]), map(&[(1, 1)]), vec![(1, Some(1))]),
            (map(&[(1, 1)]), map(&[]), vec![(1, None)]),
            (map(&[(1, 1)]), map(&[(1, 1)]), vec![]),
            (map(&[(1, 1)]), map(&[(1, 2)]), vec![(1, Some(2))]),
            (
                map(&[(1, 1), (3, 3), (5, 5), (9, 9)]),
                map(&[(2, 2), (3, 3), (5, 6), (7, 7)]),
                vec![(1, None), (2, Some(2)), (5, Some(6)), (7, Some(7)), (9, None)],
            ),
        ];
        for (have, want, expected) in rows {
            assert_eq!(merge(&have, &want), expected, "{have:?} to {want:?}");
        }
    }
}
