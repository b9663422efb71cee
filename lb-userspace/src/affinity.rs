//! Which clients no longer stay with a backend (`sessionAffinity: ClientIP`). Pure: entries, tables and time come in, keys
//! to remove come out.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::ip::Ip;
use lb_common::mem::{Image, Of};
use lb_common::tables::{Affinity, AffinityKey, Frontend, Origin};

use crate::plan::Departed;

/// Clients, and the backends that they stay with.
pub type Entries<A> = BTreeMap<AffinityKey<A>, Affinity>;

/// What a Service port asks for, and whom one of its traffic policies may lead clients to.
#[derive(Debug, Default)]
struct Sticky {
    /// For how long, in ticks.
    affinity: u32,
    backends: BTreeSet<u32>,
}

/// Whether a client stays with a backend that has left its Service port.
pub fn left_behind<A: Ip>(departed: &Departed<A>, key: &AffinityKey<A>, to: &Affinity) -> bool {
    let leads = departed.sticky.get(&key.service);
    leads.is_some_and(|leads| leads.lost && !leads.now.contains_key(&to.backend))
}

/// The Service ports of these entries.
pub fn services<A: Of>(entries: &Entries<A>) -> BTreeSet<u32> {
    entries.keys().map(|key| Frontend::stayed(key.service)).collect()
}

/// The entries that are over at `now`, counted as [`Affinity::seen`] is: the client has not come back in time, its backend
/// serves the Service port no more, or that asks for no affinity. `image` must have the frontends of the
/// [`services`].
pub fn over<A: Of>(entries: &Entries<A>, image: &Image, now: u32) -> Vec<(AffinityKey<A>, Affinity)> {
    let mut sticky = BTreeMap::<u32, Sticky>::new();
    let frontends = A::side(image).frontends.values();
    for (frontend, origin) in frontends.flat_map(|frontend| Origin::ALL.map(|origin| (frontend, origin))) {
        let of = sticky.entry(frontend.stay(origin)).or_default();
        of.affinity = of.affinity.max(frontend.affinity);
        let table = frontend.table(origin);
        let slots = image.runs.get(&table.at).filter(|_| table.len > 0);
        of.backends.extend(slots.into_iter().flat_map(|slots| slots.ids().iter().copied()));
    }
    let lasts = |(key, affinity): &(&AffinityKey<A>, &Affinity)| {
        let sticky = sticky.get(&key.service).filter(|sticky| sticky.backends.contains(&affinity.backend));
        // The packet path may be a moment ahead.
        sticky.is_some_and(|sticky| sticky.affinity > 0 && now.saturating_sub(affinity.seen) <= sticky.affinity)
    };
    entries.iter().filter(|entry| !lasts(entry)).map(|(key, affinity)| (*key, *affinity)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lb_common::ip::{Be16, V4};
    use lb_common::tables::{FrontendKey, Kind, Table, frontend};

    use super::*;

    #[test]
    fn a_client_stays_while_it_comes_back_in_time_and_its_backend_serves() {
        let ip = |last| V4::from(Ipv4Addr::new(10, 0, 0, last));
        let mut image = Image::default();
        image.runs.insert(0, vec![1, 2, 1].into());
        image.runs.insert(3, vec![3].into());
        let (cluster, local) = (Table { at: 0, len: 3 }, Table { at: 3, len: 1 });
        // Service port 7 with affinity has one table for its ClusterIP, and another for clients outside.
        let with = Frontend { affinity: 100, ..Frontend::with_table(7, cluster) };
        let without = Frontend::with_table(8, cluster);
        let policy = Kind::LoadBalancer.flags() | frontend::LOCAL;
        for (host, frontend) in [(1, with), (2, Frontend { outside: local, flags: policy, ..with }), (3, without)] {
            image.v4.frontends.insert(FrontendKey::new(ip(host), Be16::new(80), 6), frontend);
        }
        let near = image.v4.frontends[&FrontendKey::new(ip(2), Be16::new(80), 6)].stay(Origin::Outside);
        let rows = [
            ("it is new", 7, 1, 1000, true),
            ("its backend serves under this policy", near, 3, 1000, true),
            ("its backend serves under the other policy only", 7, 3, 1000, false),
            ("the same, the other way round", near, 1, 1000, false),
            ("the packet path is ahead", 7, 2, 1001, true),
            ("just in time", 7, 2, 900, true),
            ("too late", 7, 2, 899, false),
            ("its backend left", 7, 4, 1000, false),
            ("the Service port asks for no affinity any more", 8, 1, 1000, false),
            ("the Service port is gone", 9, 1, 1000, false),
        ];
        for (rule, service, backend, seen, stays) in rows {
            let entries = [(AffinityKey { client: ip(200), service }, Affinity { backend, seen })].into();
            assert_eq!(over(&entries, &image, 1000).is_empty(), stays, "{rule}");
            assert_eq!(services(&entries), [Frontend::stayed(service)].into());
        }
    }
}
