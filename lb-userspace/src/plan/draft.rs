//! An image under change, which remembers what it was: so a change of one Service among ten thousand costs a plan of
//! that one, not a comparison of all.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_common::ip::{V4, V6};
use lb_common::mem::{Image, Of, Slots};
use lb_common::tables::{Backend, Config, Frontend, FrontendKey, Name, Origin, RangeKey};

use super::changes::{Changed, Changes, SideChanges};
use super::{Op, Planned};

/// Entries that were touched, with what they were.
type Before<K, V> = BTreeMap<K, Option<V>>;

/// Maglev tables that were touched, with what they were.
pub(super) type RunsBefore = Before<u32, Slots>;

/// A key of `SOURCE_RANGES`, and the length of its prefix.
pub(super) type Range<A> = (RangeKey<A>, u32);

/// An image under change. Its filter follows its frontends by itself.
#[derive(Debug, Default)]
pub struct Draft {
    image: Image,
    before: Touched,
    /// Frontends by the bit of the filter that they need.
    bits: HashMap<u32, u32>,
    sticky: Sticky,
}

/// Where clients of a frontend stay with a backend ([`Frontend::stay`]), each once or twice; nowhere without affinity.
pub(super) fn stays(frontend: &Frontend) -> impl Iterator<Item = u32> + use<> {
    let (stays, any) = (Origin::ALL.map(|origin| frontend.stay(origin)), frontend.affinity > 0);
    stays.into_iter().filter(move |_| any)
}

/// Frontends whose clients stay with a backend, by family and [`Frontend::stay`].
#[derive(Debug, Default)]
pub(super) struct Sticky {
    pub(super) v4: ByStay<V4>,
    pub(super) v6: ByStay<V6>,
}

/// Frontends by stay.
pub(super) type ByStay<A> = BTreeMap<u32, BTreeSet<FrontendKey<A>>>;

#[derive(Debug, Default)]
pub(super) struct Touched {
    config: Option<Config>,
    names: Before<u32, Name>,
    runs: RunsBefore,
    filter: Before<u32, ()>,
    pub(super) v4: SideBefore<V4>,
    pub(super) v6: SideBefore<V6>,
}

#[derive(Debug)]
pub(super) struct SideBefore<A: Of> {
    pub(super) frontends: Before<FrontendKey<A>, Frontend>,
    backends: Before<u32, Backend<A>>,
    ranges: Before<Range<A>, ()>,
}

impl<A: Of> Default for SideBefore<A> {
    fn default() -> Self {
        Self { frontends: BTreeMap::new(), backends: BTreeMap::new(), ranges: BTreeMap::new() }
    }
}

impl Draft {
    /// As it stands.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The writes that lead here from what it was when last [settled](Draft::settle).
    pub fn ops(&self) -> Vec<Op> {
        let before = &self.before;
        Changes {
            config: before.config.filter(|config| *config != self.image.config).map(|_| self.image.config),
            names: changed(&before.names, |id| self.image.names.get(id)),
            runs: changed(&before.runs, |at| self.image.runs.get(at)),
            filter: changed(&before.filter, |bit| self.image.filter.get(bit).map(|_| &())),
            v4: before.v4.changes(&self.image),
            v6: before.v6.changes(&self.image),
        }
        .into_ops()
    }

    pub(super) fn before(&self) -> &Touched {
        &self.before
    }

    pub(super) fn runs_before(&self) -> &RunsBefore {
        &self.before.runs
    }

    /// The frontends whose clients stay there.
    pub(super) fn sticky<A: Planned>(&self, stay: u32) -> impl Iterator<Item = &FrontendKey<A>> {
        A::sticky(&self.sticky).get(&stay).into_iter().flatten()
    }

    /// The maps are now as this is.
    pub fn settle(&mut self) {
        self.before = Touched::default();
    }

    /// Sets what the programs must know of the node.
    pub fn set_config(&mut self, config: Config) {
        self.before.config.get_or_insert(self.image.config);
        self.image.config = config;
    }

    /// Names a Service port.
    pub fn put_name(&mut self, id: u32, name: Name) {
        replace(&mut self.image.names, &mut self.before.names, id, Some(name));
    }

    /// Removes a name.
    pub fn remove_name(&mut self, id: u32) {
        replace(&mut self.image.names, &mut self.before.names, id, None);
    }

    /// Puts a Maglev table.
    pub fn put_run(&mut self, at: u32, slots: Slots) {
        replace(&mut self.image.runs, &mut self.before.runs, at, Some(slots));
    }

    /// Removes a Maglev table.
    pub fn remove_run(&mut self, at: u32) {
        replace(&mut self.image.runs, &mut self.before.runs, at, None);
    }

    /// Puts a backend.
    pub fn put_backend<A: Planned>(&mut self, id: u32, backend: Backend<A>) {
        let before = &mut A::before_mut(&mut self.before).backends;
        replace(&mut A::side_mut(&mut self.image).backends, before, id, Some(backend));
    }

    /// Removes a backend.
    pub fn remove_backend<A: Planned>(&mut self, id: u32) {
        let before = &mut A::before_mut(&mut self.before).backends;
        replace(&mut A::side_mut(&mut self.image).backends, before, id, None);
    }

    /// Puts a frontend.
    pub fn put_frontend<A: Planned>(&mut self, key: FrontendKey<A>, frontend: Frontend) {
        // First what is new: a bit that both need stays set.
        self.use_bit(frontend.bit(&key));
        self.replace_frontend(key, Some(frontend));
    }

    /// Removes a frontend.
    pub fn remove_frontend<A: Planned>(&mut self, key: FrontendKey<A>) {
        self.replace_frontend(key, None);
    }

    fn replace_frontend<A: Planned>(&mut self, key: FrontendKey<A>, frontend: Option<Frontend>) {
        let (before, frontends) =
            (&mut A::before_mut(&mut self.before).frontends, &mut A::side_mut(&mut self.image).frontends);
        let old = frontends.get(&key).copied();
        replace(frontends, before, key, frontend);
        if let Some(old) = old {
            self.leave_bit(old.bit(&key));
        }
        let sticky = A::sticky_mut(&mut self.sticky);
        for stay in old.iter().flat_map(stays) {
            if let Some(keys) = sticky.get_mut(&stay) {
                keys.remove(&key);
                if keys.is_empty() {
                    sticky.remove(&stay);
                }
            }
        }
        for stay in frontend.iter().flat_map(stays) {
            sticky.entry(stay).or_default().insert(key);
        }
    }

    fn use_bit(&mut self, bit: u32) {
        let users = self.bits.entry(bit).or_default();
        *users += 1;
        if *users == 1 {
            self.before.filter.entry(bit).or_insert(None);
            self.image.filter.insert(bit);
        }
    }

    fn leave_bit(&mut self, bit: u32) {
        match self.bits.get_mut(&bit) {
            Some(users) if *users > 1 => *users -= 1,
            _ => {
                self.bits.remove(&bit);
                self.before.filter.entry(bit).or_insert(Some(()));
                self.image.filter.remove(&bit);
            }
        }
    }

    /// Admits the clients of a range.
    pub fn put_range<A: Planned>(&mut self, range: Range<A>) {
        if A::side_mut(&mut self.image).ranges.insert(range) {
            A::before_mut(&mut self.before).ranges.entry(range).or_insert(None);
        }
    }

    /// Admits them no longer.
    pub fn remove_range<A: Planned>(&mut self, range: Range<A>) {
        if A::side_mut(&mut self.image).ranges.remove(&range) {
            A::before_mut(&mut self.before).ranges.entry(range).or_insert(Some(()));
        }
    }
}

impl<A: Of> SideBefore<A> {
    fn changes(&self, image: &Image) -> SideChanges<A> {
        let side = A::side(image);
        SideChanges {
            frontends: changed(&self.frontends, |key| side.frontends.get(key)),
            backends: changed(&self.backends, |id| side.backends.get(id)),
            ranges: changed(&self.ranges, |range| side.ranges.get(range).map(|_| &())),
        }
    }
}

/// Puts or removes an entry, and notes what it was, once.
fn replace<K: Ord + Copy, V: PartialEq>(
    entries: &mut BTreeMap<K, V>,
    before: &mut Before<K, V>,
    key: K,
    value: Option<V>,
) {
    if entries.get(&key) == value.as_ref() {
        return;
    }
    let old = match value {
        Some(value) => entries.insert(key, value),
        None => entries.remove(&key),
    };
    before.entry(key).or_insert(old);
}

fn changed<'a, K: Ord + Copy, V: PartialEq + Clone + 'a>(
    before: &Before<K, V>,
    now: impl Fn(&K) -> Option<&'a V>,
) -> Changed<K, V> {
    let differ = before.iter().filter(|(key, old)| now(key) != old.as_ref());
    differ.map(|(key, _)| (*key, now(key).cloned())).collect()
}

#[cfg(test)]
mod tests {
    use lb_common::ip::Be16;
    use lb_common::mem::frontend_bits;
    use lb_common::tables::{LABEL, Table, frontend};
    use proptest::prelude::*;

    use super::*;
    use crate::plan::diff;

    #[derive(Clone, Debug)]
    enum Step {
        Frontend(u8, Option<u8>),
        Backend(u8, Option<u8>),
        Run(u8, Option<u8>),
        Name(u8, Option<u8>),
        Range(u8, bool),
        Settle,
    }

    fn step() -> impl Strategy<Value = Step> {
        let entry = || (0_u8..6, prop::option::of(0_u8..3));
        prop_oneof![
            entry().prop_map(|(key, value)| Step::Frontend(key, value)),
            entry().prop_map(|(key, value)| Step::Backend(key, value)),
            entry().prop_map(|(key, value)| Step::Run(key, value)),
            entry().prop_map(|(key, value)| Step::Name(key, value)),
            (0_u8..3, any::<bool>()).prop_map(|(net, admitted)| Step::Range(net, admitted)),
            Just(Step::Settle),
        ]
    }

    fn take(draft: &mut Draft, step: &Step) {
        let name = |n: u8| Name { namespace: [n; LABEL], service: [n; LABEL], port: [n; LABEL] };
        match *step {
            Step::Frontend(key, value) => {
                let key = FrontendKey::new(V6([u32::from(key / 2); 4]), Be16::new(u16::from(key)), 6);
                match value {
                    // The last is on an address of the node's own.
                    Some(n) => {
                        let flags = if n == 2 { frontend::OWN_ADDRESS } else { 0 };
                        let table = Table { at: u32::from(n), len: 1 };
                        draft.put_frontend(key, Frontend { flags, ..Frontend::with_table(1, table) });
                    }
                    None => draft.remove_frontend(key),
                }
            }
            Step::Backend(id, Some(n)) => {
                let backend = Backend { addr: V4([u32::from(n)]), port: Be16::new(1), flags: 0 };
                draft.put_backend(u32::from(id), backend);
            }
            Step::Backend(id, None) => draft.remove_backend::<V4>(u32::from(id)),
            Step::Run(at, Some(n)) => draft.put_run(u32::from(at), vec![u32::from(n)].into()),
            Step::Run(at, None) => draft.remove_run(u32::from(at)),
            Step::Name(id, Some(n)) => draft.put_name(u32::from(id), name(n)),
            Step::Name(id, None) => draft.remove_name(u32::from(id)),
            Step::Range(net, admitted) => {
                let range = (RangeKey { service: 1, addr: V4([u32::from(net)]) }, 64);
                if admitted { draft.put_range(range) } else { draft.remove_range(range) }
            }
            Step::Settle => draft.settle(),
        }
    }

    proptest! {
        #[test]
        fn what_a_draft_remembers_is_what_a_comparison_finds(steps in prop::collection::vec(step(), 0..60)) {
            let mut draft = Draft::default();
            let mut settled = draft.image().clone();
            for step in steps {
                take(&mut draft, &step);
                if matches!(step, Step::Settle) {
                    settled = draft.image().clone();
                }
                prop_assert_eq!(draft.ops(), diff(&settled, draft.image()));
                prop_assert_eq!(&draft.image().filter, &frontend_bits(draft.image()));
            }
        }
    }
}
