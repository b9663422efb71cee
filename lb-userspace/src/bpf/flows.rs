//! What the packet path writes: flows and counters.

use lb_common::ip::Family;
use lb_common::mem::Native;
use lb_common::socket::table;
use lb_common::tables::listing::Listed;
use lb_common::tables::{Affinity, AffinityKey, Filter, Flow, FlowKey, FrontendKey, Side, SocketKey, SocketPeer, map};
use lb_common::verdict::Reason;

use super::maps::Of;
use super::table::Seeker;
use super::{Error, Maps, Raw};

/// The map of a family's flows.
pub fn flow_map<A: Of>() -> &'static str {
    map::FLOWS[family_index::<A>()]
}

const fn family_index<A: Of>() -> usize {
    match A::FAMILY {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// Entries of flows with their keys.
pub type Entries<A> = Vec<(FlowKey<A>, Flow<A>)>;

impl Maps {
    /// Visits all flow entries. Those that come or go meanwhile may be missed; one that moves to a larger table is not, but may be
    /// visited twice.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flows<A: Of>(&self, each: impl FnMut(&FlowKey<A>, &Flow<A>)) -> Result<(), Error> {
        A::maps(self).flows.each(each).map(drop).map_err(|error| Error::map("read", flow_map::<A>(), &error))
    }

    /// Whether there may be flows to a frontend: the packet path notes it before it opens one.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn may_have_flows<A: Of>(&self, frontend: &FrontendKey<A>) -> Result<bool, Error> {
        let bit = Filter::Flow(Side::Ingress).bit(&frontend.addr, frontend.port);
        let word = self.filter.read(bit / u64::BITS).map_err(|error| Error::map("read", map::FILTER, &error))?;
        Ok(word >> (bit % u64::BITS) & 1 != 0)
    }

    /// What looks for entries of flows by their keys.
    ///
    /// # Errors
    /// The program that does it is not there.
    pub fn seeker<A: Of>(&self) -> Result<Seeker<A>, Error> {
        A::maps(self).flows.seeker().map_err(|error| Error::map("read", flow_map::<A>(), &error))
    }

    /// The backend that a client stays with.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn client<A: Of>(&self, key: &AffinityKey<A>) -> Result<Option<Affinity>, Error> {
        A::maps(self).affinity.get(key).map_err(|error| Error::map("read", affinity_map::<A>(), &error))
    }

    /// Clients that stay with a backend. Entries that come or go meanwhile may be missed.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn affinity<A: Of>(&self, each: impl FnMut(&AffinityKey<A>, &Affinity)) -> Result<(), Error> {
        A::maps(self).affinity.each(each).map_err(|error| Error::map("read", affinity_map::<A>(), &error))
    }

    /// The frontend that a socket meant, where it was led to this peer.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn meant<A: Of>(&self, key: &SocketKey<A>) -> Result<Option<SocketPeer<A>>, Error> {
        let name = map::SOCKETS[family_index::<A>()];
        let Raw(bucket) =
            A::maps(self).sockets.get(&table::bucket(key), 0).map_err(|error| Error::map("read", name, &error))?;
        Ok(table::find(&bucket, key))
    }

    /// Adds what the packet path has written to an image: flows, fragments, and which clients stay with which backend.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read_flows(&self, native: &mut Native) -> Result<(), Error> {
        fn family<A: Of>(maps: &Maps, native: &mut Native) -> Result<(), Error> {
            let flows = A::flows_mut(native);
            maps.affinity::<A>(|key, to| {
                flows.affinity.insert(*key, *to);
            })?;
            let table = &mut flows.flows;
            maps.flows::<A>(|key, flow| {
                table.insert(*key, *flow);
            })?;
            let read = A::maps(maps).fragments.each(|key, ports| {
                flows.fragments.insert(*key, *ports);
            });
            read.map_err(|error| Error::map("read", map::FRAGMENTS[family_index::<A>()], &error))
        }
        family::<lb_common::ip::V4>(self, native)?;
        family::<lb_common::ip::V6>(self, native)
    }
}

/// The map of clients that stay with a backend.
pub fn affinity_map<A: Of>() -> &'static str {
    match A::FAMILY {
        Family::V4 => map::AFFINITY[0],
        Family::V6 => map::AFFINITY[1],
    }
}

/// Removes clients from those that stay with a backend, unless they came back since they were read, or to another one.
/// Says how many these were.
pub fn remove_affinity<A: Of>(maps: &mut Maps, entries: &[(AffinityKey<A>, Affinity)]) -> usize {
    let clients = &mut A::maps_mut(maps).affinity.map;
    let mut removed = 0;
    for (key, read) in entries {
        let same = clients.get(&Raw(*key), 0).is_ok_and(|Raw(now)| now == *read);
        removed += usize::from(same && clients.remove(&Raw(*key)).is_ok());
    }
    removed
}

impl<A: Of> Seeker<A> {
    /// The entries of these keys, as far as they are there.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn find<'a>(&mut self, keys: impl Iterator<Item = &'a FlowKey<A>>) -> Result<Entries<A>, Error> {
        let sought: Vec<_> = keys.map(|key| Listed::new(*key, Flow::zeroed(), false)).collect();
        let mut found = Vec::new();
        let seek = self.seek(&sought, false, |listed| found.push((listed.key, listed.flow)));
        seek.map(|()| found).map_err(|error| Error::map("read", flow_map::<A>(), &error))
    }

    /// Removes entries that have had no packet since they were read, and says how many these were.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn remove(&mut self, entries: &[(FlowKey<A>, Flow<A>)]) -> Result<usize, Error> {
        let sought: Vec<_> = entries.iter().map(|(key, read)| Listed::new(*key, *read, false)).collect();
        let mut removed = 0;
        let seek = self.seek(&sought, true, |_| removed += 1);
        seek.map(|()| removed).map_err(|error| Error::map("write", flow_map::<A>(), &error))
    }
}

/// Packets by reason, of all CPUs together.
///
/// # Errors
/// The map cannot be read.
pub fn counters(maps: &Maps) -> Result<Vec<(Reason, u64)>, Error> {
    let read = |index| maps.counters.get(&index, 0).map(|values| values.iter().sum());
    let of = |reason: &Reason| Ok((*reason, read(*reason as u32)?));
    let all: Result<_, aya::maps::MapError> = Reason::ALL.iter().map(of).collect();
    all.map_err(|error| Error::map("read", map::COUNTERS, &error))
}
