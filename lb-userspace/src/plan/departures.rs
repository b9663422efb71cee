//! Whom changes leave behind: datagrams, and clients that stay with a backend, where a frontend no longer leads to a
//! backend that it led to. The packet path goes on as its entries say; what these are, a sweep has to look for.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::ip::{Be16, Ip, V4, V6};
use lb_common::mem::{Image, Runs};
use lb_common::tables::{Backend, Frontend, FrontendKey, Origin, Table};

use super::draft::{RunsBefore, SideBefore, stays};
use super::{Draft, Planned};
use crate::model::Protocol;

/// What changed in where frontends lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departures {
    /// What changed is not known: any backend may have left any frontend.
    pub everywhere: bool,
    /// Those of IPv4.
    pub v4: Departed<V4>,
    /// Those of IPv6.
    pub v6: Departed<V6>,
}

/// What changed in where frontends of a family lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed<A: Ip> {
    /// By frontend of datagrams.
    pub datagrams: BTreeMap<FrontendKey<A>, Leads<A>>,
    /// By [`Frontend::stay`] of clients that stay with a backend: where all frontends together lead them.
    pub sticky: BTreeMap<u32, Leads<A>>,
}

/// Where a frontend leads now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leads<A: Ip> {
    /// Ids of backends, and where they are.
    pub now: BTreeMap<u32, (A, Be16)>,
    /// Whether it led to others, too.
    pub lost: bool,
}

impl<A: Ip> Default for Departed<A> {
    fn default() -> Self {
        Self { datagrams: BTreeMap::new(), sticky: BTreeMap::new() }
    }
}

impl Departures {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a backend left.
    pub fn any_lost(&self) -> bool {
        self.everywhere || self.v4.any_lost() || self.v6.any_lost()
    }

    /// Adds what changed after this.
    pub fn add(&mut self, later: Self) {
        self.everywhere |= later.everywhere;
        self.v4.add(later.v4);
        self.v6.add(later.v6);
    }

    /// Forgets frontends that only came to lead to more.
    pub fn keep_lost(&mut self) {
        self.v4.keep_lost();
        self.v6.keep_lost();
    }
}

impl<A: Ip> Departed<A> {
    fn any_lost(&self) -> bool {
        self.datagrams.values().chain(self.sticky.values()).any(|leads| leads.lost)
    }

    fn keep_lost(&mut self) {
        self.datagrams.retain(|_, leads| leads.lost);
        self.sticky.retain(|_, leads| leads.lost);
    }

    fn add(&mut self, later: Self) {
        later.datagrams.into_iter().for_each(|(key, leads)| self.datagrams.entry(key).or_default().follow(leads));
        later.sticky.into_iter().for_each(|(service, leads)| self.sticky.entry(service).or_default().follow(leads));
    }
}

impl<A: Ip> Leads<A> {
    fn follow(&mut self, later: Self) {
        *self = Self { now: later.now, lost: self.lost || later.lost };
    }
}

impl Draft {
    /// What changed in where frontends lead since this was last [settled](Draft::settle).
    pub fn departures(&self) -> Departures {
        Departures { everywhere: false, v4: self.departed(), v6: self.departed() }
    }

    fn departed<A: Planned>(&self) -> Departed<A> {
        let now = Seen { image: self.image(), before: None };
        let then = Seen { before: Some(self.runs_before()), ..now };
        let (side, mut departed, mut stayed) = (A::side(self.image()), Departed::default(), BTreeMap::new());
        let SideBefore { frontends, .. } = A::before(self.before());
        for (key, old) in frontends {
            let new = side.frontends.get(key);
            if key.proto == Protocol::Udp.number() && new != old.as_ref() {
                let leads = leads(&then.ids(old.as_ref()), now.ids(new), &side.backends);
                departed.datagrams.insert(*key, leads);
            }
            for stay in old.iter().chain(new).flat_map(stays) {
                stayed.entry(stay).or_insert_with(BTreeSet::new);
            }
            for stay in old.iter().flat_map(stays) {
                stayed.entry(stay).or_default().append(&mut then.stayed(old.as_ref(), stay));
            }
        }
        for (stay, old) in stayed {
            let new = self.sticky::<A>(stay).flat_map(|key| now.stayed(side.frontends.get(key), stay)).collect();
            departed.sticky.insert(stay, leads(&old, new, &side.backends));
        }
        departed
    }
}

fn leads<A: Ip>(old: &BTreeSet<u32>, new: BTreeSet<u32>, backends: &BTreeMap<u32, Backend<A>>) -> Leads<A> {
    let place = |id: u32| backends.get(&id).map(|backend| (id, (backend.addr, backend.port)));
    Leads { lost: !old.is_subset(&new), now: new.into_iter().filter_map(place).collect() }
}

/// Tables of an image, as they are or as they were.
#[derive(Clone, Copy)]
struct Seen<'a> {
    image: &'a Image,
    before: Option<&'a RunsBefore>,
}

impl Seen<'_> {
    /// The backends that a frontend leads to, if there is one.
    fn ids(&self, frontend: Option<&Frontend>) -> BTreeSet<u32> {
        self.all(frontend.into_iter().flat_map(Frontend::tables))
    }

    /// Those that it leads clients of a stay to.
    fn stayed(&self, frontend: Option<&Frontend>, stay: u32) -> BTreeSet<u32> {
        let of = |frontend: &'_ Frontend| Origin::ALL.map(|origin| (frontend.stay(origin), frontend.table(origin)));
        let tables = frontend.into_iter().flat_map(of).filter(|(of, table)| *of == stay && table.len > 0);
        self.all(tables.map(|(_, table)| table))
    }

    fn all(&self, tables: impl Iterator<Item = Table>) -> BTreeSet<u32> {
        let runs: &Runs = &self.image.runs;
        let slots = tables.filter_map(|table| match self.before.and_then(|before| before.get(&table.at)) {
            Some(before) => before.as_ref(),
            None => runs.get(&table.at),
        });
        slots.flat_map(|slots| slots.ids().iter().copied()).collect()
    }
}
