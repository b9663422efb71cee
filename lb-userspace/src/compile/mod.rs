//! What was declared, as it shall stand in the maps of this node.
//!
//! [`Compiler`] keeps the whole image and changes in it only what a changed Service touches. It knows no clock and no
//! store: time enters as an argument, and that the store has caught up is told to it ([`Compiler::settle`]).
//!
//! What is wrong with one Service is a [`Problem`] of that Service; all others go on.

mod address;
mod bind;
mod claims;
mod health_checks;
mod name;
mod node_ports;
mod ranges;
mod recover;
mod service;
mod sets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::Instant;

use lb_common::ip::{Ip, V4, V6};
use lb_common::mem::Image;
use lb_common::tables::{Backend, Config, FrontendKey, Name, map};

pub use health_checks::{HealthCheck, HealthChecks};
pub use node_ports::{Addresses, NoAddresses, NodePortAddresses};

use crate::endpoints::Here;
use crate::ids::{Pool, Rest, Runs};
use crate::model::ObjectName;
use crate::plan::{Departures, Draft, Op, Planned};
use crate::state::{Changes, State};
use crate::watch::Problem;
use address::{Place, Wish};
use claims::Claims;
use sets::Sets;

/// Room in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `NAMES`, and `FRONTENDS` of each family: option `--max-services`.
    pub services: u32,
    /// `BACKENDS` of each family: option `--max-backends`.
    pub backends: u32,
    /// `SLOTS`: option `--max-slots`.
    pub slots: u32,
    /// `SOURCE_RANGES` of each family: option `--max-source-ranges`.
    pub source_ranges: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: map::NAMES_CAPACITY,
            backends: map::BACKENDS_CAPACITY,
            slots: map::SLOTS_CAPACITY,
            source_ranges: map::SOURCE_RANGES_CAPACITY,
        }
    }
}

/// What the agent knows of its own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name in the cluster.
    pub name: String,
    /// Its zone, unless its Node object names one.
    pub zone: Option<String>,
    /// What the programs must know. An address that is not set here comes from the Node object.
    pub config: Config,
    /// All addresses that it has, as far as they are known: none of them can be a Service's virtual IP.
    pub own: BTreeSet<IpAddr>,
    /// At which of them NodePorts are.
    pub node_ports: NodePortAddresses,
    /// Whether external IPs are programmed.
    pub external_ips: bool,
}

impl NodeFacts {
    /// A node of which nothing else is known, with the usual settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            zone: None,
            config: Config::EMPTY,
            own: BTreeSet::new(),
            node_ports: NodePortAddresses::default(),
            external_ips: true,
        }
    }
}

/// Ports of Services whose traffic policy asks for endpoints on this node, where all are elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// For clients of the virtual IPs inside.
    pub internal: u64,
    /// For clients from outside.
    pub external: u64,
}

impl Add for Elsewhere {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { internal: self.internal + other.internal, external: self.external + other.external }
    }
}

impl Sub for Elsewhere {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { internal: self.internal - other.internal, external: self.external - other.external }
    }
}

/// Keeps the image that the maps shall have.
#[derive(Debug)]
pub struct Compiler {
    draft: Draft,
    names: Pool<Name>,
    runs: Runs,
    halves: Halves,
    records: BTreeMap<ObjectName, Record>,
    problems: BTreeMap<ObjectName, Vec<Problem>>,
    limits: Limits,
    zone: Option<Arc<str>>,
    place: Place,
    /// [`NodeFacts::own`].
    own: BTreeSet<IpAddr>,
    elsewhere: Elsewhere,
    checks: Arc<HealthChecks>,
    /// Services that had no room somewhere: they are tried again when there may be more.
    starved: BTreeSet<ObjectName>,
    /// Whether there may be more room since they were tried.
    room: bool,
}

/// What there is once a family.
#[derive(Debug)]
struct Halves {
    v4: Half<V4>,
    v6: Half<V6>,
}

#[derive(Debug)]
struct Half<A: Ip> {
    backends: Pool<Backend<A>>,
    claims: Claims<FrontendKey<A>>,
}

/// What a Service has in the maps.
#[derive(Debug, Default)]
struct Record {
    v4: Vec<Wish<V4>>,
    v6: Vec<Wish<V6>>,
    ports: Vec<Port>,
}

/// What a port of a Service has in the maps.
#[derive(Debug)]
struct Port {
    id: u32,
    name: Name,
    v4: Sets,
    v6: Sets,
    /// How often it asks for endpoints on this node, where all are elsewhere: once a family.
    elsewhere: Elsewhere,
}

/// A family, as the key to what the compiler holds of it.
trait Compiled: Planned {
    fn half(halves: &mut Halves) -> &mut Half<Self>;
    /// Who has which frontend.
    fn claims(halves: &Halves) -> &Claims<FrontendKey<Self>>;
    /// The frontends that a Service would like to have, sorted.
    fn wishes(record: &mut Record) -> &mut Vec<Wish<Self>>;
    /// The backends of a port.
    fn sets(port: &mut Port) -> &mut Sets;
}

macro_rules! compiled {
    ($ip:ident, $field:ident) => {
        impl Compiled for $ip {
            fn half(halves: &mut Halves) -> &mut Half<Self> {
                &mut halves.$field
            }
            fn claims(halves: &Halves) -> &Claims<FrontendKey<Self>> {
                &halves.$field.claims
            }
            fn wishes(record: &mut Record) -> &mut Vec<Wish<Self>> {
                &mut record.$field
            }
            fn sets(port: &mut Port) -> &mut Sets {
                &mut port.$field
            }
        }
    };
}

compiled!(V4, v4);
compiled!(V6, v6);

impl Compiler {
    /// For empty maps.
    pub fn new(limits: Limits, rest: Rest) -> Self {
        Self {
            draft: Draft::default(),
            names: Pool::new(limits.services, rest),
            runs: Runs::new(limits.slots, rest),
            halves: Halves { v4: Half::new(limits, rest), v6: Half::new(limits, rest) },
            records: BTreeMap::new(),
            problems: BTreeMap::new(),
            limits,
            zone: None,
            place: Place::default(),
            own: BTreeSet::new(),
            elsewhere: Elsewhere::default(),
            checks: Arc::default(),
            starved: BTreeSet::new(),
            room: false,
        }
    }

    /// The image that the maps shall have.
    pub fn image(&self) -> &Image {
        self.draft.image()
    }

    /// What is in each map that fills.
    pub fn levels(&self) -> Vec<(&'static str, u64)> {
        let Image { v4, v6, names, .. } = self.image();
        let [frontends_v4, frontends_v6] = map::FRONTENDS;
        let [backends_v4, backends_v6] = map::BACKENDS;
        let [ranges_v4, ranges_v6] = map::SOURCE_RANGES;
        let len = |n: usize| n as u64;
        vec![
            (frontends_v4, len(v4.frontends.len())),
            (frontends_v6, len(v6.frontends.len())),
            (backends_v4, len(v4.backends.len())),
            (backends_v6, len(v6.backends.len())),
            (ranges_v4, len(v4.ranges.len())),
            (ranges_v6, len(v6.ranges.len())),
            (map::NAMES, len(names.len())),
            (map::SLOTS, u64::from(self.runs.used())),
        ]
    }

    /// Ports of Services whose traffic policy asks for endpoints on this node, where all are elsewhere.
    pub fn elsewhere(&self) -> Elsewhere {
        self.elsewhere
    }

    /// The writes that lead there from what the maps had when it was last [settled](Compiler::settle).
    pub fn ops(&self) -> Vec<Op> {
        self.draft.ops()
    }

    /// What changes meanwhile in where frontends lead.
    pub fn departures(&self) -> Departures {
        self.draft.departures()
    }

    /// Works changes in.
    pub fn compile(&mut self, state: &State, changes: Changes, node: &NodeFacts, now: Instant) {
        let mut dirty = changes.services;
        self.expire(now);
        if std::mem::take(&mut self.room) {
            dirty.append(&mut self.starved);
        }
        if self.move_to(state, node) {
            dirty.extend(state.services().map(|service| service.name.clone()));
        }
        let affected = self.claim_all(state, dirty);
        let zone = self.zone.clone();
        for name in &affected {
            self.program(name, state, Here { node: &node.name, zone: zone.as_deref(), own: &node.own });
        }
    }

    /// The maps now have this image: the rest of what it no longer uses begins.
    pub fn settle(&mut self, now: Instant) {
        self.draft.settle();
        self.names.settle(now);
        self.runs.settle(now);
        self.halves.v4.backends.settle(now);
        self.halves.v6.backends.settle(now);
    }

    /// When [`Compiler::compile`] will have something to do even without changes.
    pub fn deadline(&self) -> Option<Instant> {
        let Halves { v4, v6 } = &self.halves;
        let runs = self.runs.deadline().filter(|_| !self.starved.is_empty());
        [self.names.deadline(), v4.backends.deadline(), v6.backends.deadline(), runs].into_iter().flatten().min()
    }

    /// What is wrong, by Service.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.values().flatten().cloned().collect()
    }

    /// Takes out of the maps what has rested long enough.
    fn expire(&mut self, now: Instant) {
        let names = self.names.expire(now);
        names.iter().for_each(|id| self.draft.remove_name(*id));
        self.room |= !names.is_empty() | self.runs.expire(now);
        self.expire_backends::<V4>(now);
        self.expire_backends::<V6>(now);
    }

    fn expire_backends<A: Compiled>(&mut self, now: Instant) {
        let gone = A::half(&mut self.halves).backends.expire(now);
        gone.iter().for_each(|id| self.draft.remove_backend::<A>(*id));
        self.room |= !gone.is_empty();
    }

    /// Takes in what is known of this node; whether every Service must be looked at again.
    fn move_to(&mut self, state: &State, node: &NodeFacts) -> bool {
        let object = state.node(&node.name);
        let mut config = node.config;
        let addresses: &[IpAddr] = object.map_or(&[], |object| &object.addresses);
        set_if_unset(&mut config.node_v4, addresses);
        set_if_unset(&mut config.node_v6, addresses);
        self.draft.set_config(config);

        let zone = object.and_then(|object| object.zone.clone()).or_else(|| Some(node.zone.as_deref()?.into()));
        let found = [IpAddr::from(config.node_v4), IpAddr::from(config.node_v6)];
        let mut own = node.own.clone();
        own.extend(addresses);
        own.extend(found.into_iter().filter(|ip| !ip.is_unspecified()));
        let external: &[IpAddr] = object.map_or(&[], |object| &object.external);
        let primary = node_ports::primary(&[addresses, external].concat(), &node.own, found);
        let node_ports = node.node_ports.select(&own, &primary);
        self.check_health_at(&node_ports);
        let place = Place { own, node_ports, external_ips: node.external_ips };
        let moved = zone != self.zone || place != self.place || node.own != self.own;
        (self.zone, self.place) = (zone, place);
        self.own.clone_from(&node.own);
        moved
    }
}

fn set_if_unset<A: Ip>(addr: &mut A, addresses: &[IpAddr]) {
    if *addr == A::default() {
        *addr = addresses.iter().find_map(|ip| A::from_ip(*ip)).unwrap_or_default();
    }
}

impl<A: Ip> Half<A> {
    fn new(limits: Limits, rest: Rest) -> Self {
        Self { backends: Pool::new(limits.backends, rest), claims: Claims::default() }
    }
}

#[cfg(test)]
mod tests;
