//! The maps in memory.
//!
//! [`Image`] is what the agent owns: want, have and test are all of this one type, kept sorted so that two of them
//! compare and print in a stable order. [`Native`] adds what the packet path itself writes (flows, sockets,
//! counters), so that the decisions run on it without a kernel.

mod answers;
mod frame;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use answers::Entry;
pub use frame::Frame;
pub use slots::Slots;

use crate::ip::{Ip, V4, V6};
use crate::route::{Hop, NextHop, Stamp};
use crate::tables::{
    Affinity, AffinityKey, Backend, Config, Flow, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey, Name,
    RangeKey, SocketKey, SocketPeer, Traffic,
};
use crate::verdict::Reason;

/// Index of the first slot of a table in `SLOTS` → its slots. Many frontends may point to them.
pub type Runs = BTreeMap<u32, Slots>;

/// The maps of one family that the agent writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side<A: Ip> {
    /// `FRONTENDS`.
    pub frontends: BTreeMap<FrontendKey<A>, Frontend>,
    /// `BACKENDS`, by id.
    pub backends: BTreeMap<u32, Backend<A>>,
    /// `SOURCE_RANGES`: each key, after it the length of its prefix.
    pub ranges: BTreeSet<(RangeKey<A>, u32)>,
}

/// All that the agent writes into maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The node.
    pub config: Config,
    /// IPv4.
    pub v4: Side<V4>,
    /// IPv6.
    pub v6: Side<V6>,
    /// `SLOTS`: every Maglev table that a frontend of either family points to.
    pub runs: Runs,
    /// `NAMES`, by Service port id.
    pub names: BTreeMap<u32, Name>,
    /// The set bits of [`Filter::Frontend`](crate::tables::Filter): always what [`frontend_bits`] says.
    pub filter: BTreeSet<u32>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            config: Config::EMPTY,
            v4: Side::default(),
            v6: Side::default(),
            runs: Runs::default(),
            names: BTreeMap::default(),
            filter: BTreeSet::default(),
        }
    }
}

/// A family, as the key to what an [`Image`] or [`Native`] holds of it.
pub trait Of: Ip {
    /// This family's side of an image.
    fn side(image: &Image) -> &Side<Self>;
    /// The same, to be changed.
    fn side_mut(image: &mut Image) -> &mut Side<Self>;
    /// This family's flows.
    fn flows(native: &Native) -> &Flows<Self>;
    /// The same, to be changed.
    fn flows_mut(native: &mut Native) -> &mut Flows<Self>;
    /// The node's address in this family.
    fn node(config: &Config) -> Self;
}

macro_rules! of {
    ($ip:ty, $field:ident, $node:ident) => {
        impl Of for $ip {
            fn side(image: &Image) -> &Side<Self> {
                &image.$field
            }
            fn side_mut(image: &mut Image) -> &mut Side<Self> {
                &mut image.$field
            }
            fn flows(native: &Native) -> &Flows<Self> {
                &native.$field
            }
            fn flows_mut(native: &mut Native) -> &mut Flows<Self> {
                &mut native.$field
            }
            fn node(config: &Config) -> Self {
                config.$node
            }
        }
    };
}

of!(V4, v4, node_v4);
of!(V6, v6, node_v6);

/// What the packet path itself writes, of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows<A: Ip> {
    /// `FLOWS`.
    pub flows: BTreeMap<FlowKey<A>, Flow<A>>,
    /// Next hops that are kept with them.
    pub next_hops: BTreeMap<FlowKey<A>, (Stamp, NextHop)>,
    /// `SOCKETS`.
    pub sockets: BTreeMap<SocketKey<A>, SocketPeer<A>>,
    /// `AFFINITY`.
    pub affinity: BTreeMap<AffinityKey<A>, Affinity>,
    /// `FRAGMENTS`.
    pub fragments: BTreeMap<FragmentKey<A>, FragmentPorts>,
    /// `PASSED`: what the stage before has handed on.
    pub passed: Option<(Flow<A>, Reason)>,
}

impl<A: Ip> Default for Flows<A> {
    fn default() -> Self {
        Self {
            flows: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            sockets: BTreeMap::new(),
            affinity: BTreeMap::new(),
            fragments: BTreeMap::new(),
            passed: None,
        }
    }
}

impl<A: Ip> Flows<A> {
    /// Entries of flows that are established, or of those that are not.
    pub fn entries(&self, established: bool) -> impl Iterator<Item = (&FlowKey<A>, &Flow<A>)> {
        self.flows.iter().filter(move |(_, flow)| flow.is_established() == established)
    }
}

/// Every map, in memory: what the decisions run on without a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Native {
    /// What the agent wrote.
    pub image: Image,
    /// Flows of IPv4.
    pub v4: Flows<V4>,
    /// Flows of IPv6.
    pub v6: Flows<V6>,
    /// The set bits of `FILTER`, both halves.
    pub filter: BTreeSet<u32>,
    /// `DEVICES`.
    pub devices: BTreeMap<u32, u32>,
    /// How packets leave to an address; nowhere where it is not here.
    pub hops: BTreeMap<IpAddr, Hop>,
    /// `EPOCH`.
    pub epoch: u32,
    /// Whether this is XDP.
    pub at_xdp: bool,
    /// Whether packets go out through the service device.
    pub at_service_device: bool,
    /// Whether packets can come in through the service device.
    pub inward: bool,
    /// Bytes of the longest IP packet that leaves.
    pub longest: usize,
    /// `COUNTERS`.
    pub counters: BTreeMap<Reason, u64>,
    /// `TRAFFIC`.
    pub traffic: BTreeMap<u32, Traffic>,
    /// Entries of established flows that a family takes, and as many of half-open ones, the first of which goes when there
    /// are more.
    pub capacity: usize,
}

impl Native {
    /// The maps as the agent leaves them before the first packet.
    pub fn new(image: Image) -> Self {
        let filter = image.filter.clone();
        Self {
            image,
            v4: Flows::default(),
            v6: Flows::default(),
            filter,
            devices: BTreeMap::new(),
            hops: BTreeMap::new(),
            epoch: 0,
            at_xdp: true,
            at_service_device: false,
            inward: false,
            longest: usize::MAX,
            counters: BTreeMap::new(),
            traffic: BTreeMap::new(),
            capacity: usize::MAX,
        }
    }
}

/// The bits of [`Filter::Frontend`](crate::tables::Filter) that an image needs.
pub fn frontend_bits(image: &Image) -> BTreeSet<u32> {
    fn of<A: Of>(image: &Image) -> impl Iterator<Item = u32> {
        A::side(image).frontends.iter().map(|(key, frontend)| frontend.bit(key))
    }
    of::<V4>(image).chain(of::<V6>(image)).collect()
}
