//! Who may call a Service port (`spec.loadBalancerSourceRanges`).

use std::collections::BTreeSet;

use lb_common::ip::{Ip, V4, V6};
use lb_common::tables::RangeKey;

use super::{Compiled, Compiler};
use crate::model::Cidr;

/// A key of `SOURCE_RANGES`, and the length of its prefix.
type Range<A> = (RangeKey<A>, u32);

fn range<A: Ip>(service: u32, cidr: Cidr) -> Option<Range<A>> {
    let addr = A::from_ip(cidr.first)?;
    Some((RangeKey { service, addr }, u32::BITS + u32::from(cidr.len)))
}

impl Compiler {
    /// Makes these the clients that may call a Service port, by its id: how many ranges had no room, so that they stay out.
    pub(super) fn admit<A: Compiled>(&mut self, service: u32, ranges: impl Iterator<Item = Cidr>) -> usize {
        let wanted: BTreeSet<_> = ranges.filter_map(|cidr| range::<A>(service, cidr)).collect();
        let known = self.admitted::<A>(service);
        known.difference(&wanted).for_each(|range| self.draft.remove_range(*range));
        let mut missing = 0;
        for range in wanted.difference(&known) {
            match A::side(self.draft.image()).ranges.len() < self.limits.source_ranges as usize {
                true => self.draft.put_range(*range),
                false => missing += 1,
            }
        }
        self.room |= known.difference(&wanted).next().is_some();
        missing
    }

    /// Forgets who may call a Service port.
    pub(super) fn admit_nobody(&mut self, service: u32) {
        self.admit::<V4>(service, std::iter::empty());
        self.admit::<V6>(service, std::iter::empty());
    }

    fn admitted<A: Compiled>(&self, service: u32) -> BTreeSet<Range<A>> {
        let from = (RangeKey { service, addr: A::default() }, 0);
        let ranges = A::side(self.draft.image()).ranges.range(from..);
        ranges.take_while(|(key, _)| key.service == service).copied().collect()
    }
}
