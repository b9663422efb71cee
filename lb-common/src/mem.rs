//! The maps in memory.
//!
//! [`Image`] is what the agent owns: want, have and test are all of this one type, kept sorted so that two of them
//! compare and print in a stable order. [`Native`] adds what the packet path itself writes (flows, sockets,
//! counters), so that the decisions run on it without a kernel.

mod frame;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Deref;

pub use frame::Frame;
pub use slots::Slots;

use crate::flow::state;
use crate::ip::{Ip, V4, V6};
use crate::route::{Hop, Kept, NextHop, Stamp, Way};
use crate::tables::{
    Affinity, AffinityKey, Backend, Config, Flow, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey,
    InsertError, Name, RangeKey, SocketKey, SocketPeer, Tables, Traffic,
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

impl Native {
    /// A next hop, and how long a packet it takes.
    fn measured(&self, next: &NextHop) -> NextHop {
        NextHop { mtu: self.longest.min(u16::MAX.into()) as u16, ..*next }
    }
}

/// The bits of [`Filter::Frontend`](crate::tables::Filter) that an image needs.
pub fn frontend_bits(image: &Image) -> BTreeSet<u32> {
    fn of<A: Of>(image: &Image) -> impl Iterator<Item = u32> {
        A::side(image).frontends.iter().map(|(key, frontend)| frontend.bit(key))
    }
    of::<V4>(image).chain(of::<V6>(image)).collect()
}

/// Whether an address is in a range whose prefix is `len` bits long, those of the Service's id included.
fn covers<A: Ip>(range: &RangeKey<A>, len: u32, addr: A) -> bool {
    let mut rest = len.saturating_sub(u32::BITS);
    range.addr.words().iter().zip(addr.words()).all(|(range, word)| {
        let bits = rest.min(u32::BITS);
        rest -= bits;
        let mask = u32::MAX.checked_shl(u32::BITS - bits).unwrap_or(0);
        (u32::from_be(*range) ^ u32::from_be(*word)) & mask == 0
    })
}

/// A copy of a flow entry, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Entry<A: Ip> {
    key: FlowKey<A>,
    flow: Flow<A>,
}

impl<A: Ip> Deref for Entry<A> {
    type Target = Flow<A>;

    fn deref(&self) -> &Flow<A> {
        &self.flow
    }
}

impl<A: Of> Tables<A> for Native {
    type Entry = Entry<A>;

    fn node(&self) -> A {
        A::node(&self.image.config)
    }

    fn strangers_until(&self) -> u32 {
        self.image.config.strangers_until
    }

    fn draining(&self) -> bool {
        self.image.config.draining != 0
    }

    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend> {
        A::side(&self.image).frontends.get(key).copied()
    }

    fn slot(&self, index: u32) -> Option<u32> {
        let (first, run) = self.image.runs.range(..=index).next_back()?;
        run.get((index - first) as usize)
    }

    fn backend(&self, id: u32) -> Option<Backend<A>> {
        A::side(&self.image).backends.get(&id).copied()
    }

    fn in_source_range(&self, service: u32, source: A) -> bool {
        A::side(&self.image).ranges.iter().any(|(range, len)| range.service == service && covers(range, *len, source))
    }

    fn affinity(&self, key: &AffinityKey<A>) -> Option<Affinity> {
        A::flows(self).affinity.get(key).copied()
    }

    fn set_affinity(&mut self, key: &AffinityKey<A>, to: &Affinity) {
        A::flows_mut(self).affinity.insert(*key, *to);
    }

    fn hop(&self, way: &Way<'_, A>) -> Hop {
        match self.hops.get(&way.flow.dst.into()) {
            Some(Hop::Nowhere) | None => Hop::Nowhere,
            Some(_) if way.len > self.longest => Hop::TooLong { mtu: self.longest as u16 },
            Some(Hop::Direct(next)) => Hop::Direct(self.measured(next)),
            Some(Hop::Neighbour(next)) => Hop::Neighbour(self.measured(next)),
            Some(hop) => *hop,
        }
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn at_xdp(&self) -> bool {
        self.at_xdp
    }

    fn at_service_device(&self) -> bool {
        self.at_service_device
    }

    fn inward(&self) -> bool {
        self.inward
    }

    fn source(&self, _to: &A, _from: u32) -> A {
        self.node()
    }

    fn device(&self, index: u32) -> u32 {
        self.devices.get(&index).copied().unwrap_or_default()
    }

    fn filtered(&self, bit: u32) -> bool {
        self.filter.contains(&bit)
    }

    fn set_filter(&mut self, bit: u32) {
        self.filter.insert(bit);
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<Entry<A>> {
        let flow = *A::flows(self).flows.get(key)?;
        Some(Entry { key: *key, flow })
    }

    fn met(&mut self, key: &FlowKey<A>, now: u32, from: u32) -> Option<(Flow<A>, Kept)> {
        let mut entry = self.flow(key)?;
        let is_new = entry.seen != now;
        if is_new {
            self.touch(&mut entry, now);
        }
        let (epoch, xdp) = (self.epoch, self.at_xdp);
        let own = Stamp { epoch, now, from, xdp };
        let kept = match A::flows(self).next_hops.get(key) {
            Some((stamp, next)) if *stamp == own => Kept { next: *next, ..Kept::NOTHING },
            Some((stamp, _)) if xdp && *stamp == (Stamp { xdp: false, ..own }) => {
                Kept { hand_over: true, ..Kept::NOTHING }
            }
            _ => Kept::NOTHING,
        };
        Some((*entry, if is_new { Kept::NOTHING } else { kept }))
    }

    fn keep(&mut self, key: &FlowKey<A>, next: &NextHop, stamp: &Stamp) {
        let flows = A::flows_mut(self);
        if let Some(flow) = flows.flows.get_mut(key) {
            flow.seen = stamp.now;
            flows.next_hops.insert(*key, (*stamp, *next));
        }
    }

    fn insert_flow(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), InsertError> {
        let capacity = self.capacity;
        let flows = A::flows_mut(self);
        if flows.flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if flows.flows.len() >= capacity && flows.entries(false).count() >= capacity {
            let victim = flows.entries(false).map(|(key, _)| *key).next();
            if let Some(victim) = victim {
                flows.flows.remove(&victim);
                flows.next_hops.remove(&victim);
            }
        }
        flows.flows.insert(*key, Flow { state: flow.state & state::KEPT, ..*flow });
        Ok(())
    }

    fn remove_flow(&mut self, key: &FlowKey<A>) {
        let flows = A::flows_mut(self);
        flows.flows.remove(key);
        flows.next_hops.remove(key);
    }

    fn establish(&mut self, entry: &mut Entry<A>) -> bool {
        let flows = A::flows(self);
        let is_full = flows.flows.len() >= self.capacity && flows.entries(true).count() >= self.capacity;
        if !is_full {
            self.mark(entry, state::ESTABLISHED);
        }
        !is_full
    }

    fn touch(&mut self, entry: &mut Entry<A>, now: u32) {
        entry.flow.seen = now;
        if let Some(flow) = A::flows_mut(self).flows.get_mut(&entry.key) {
            flow.seen = now;
        }
    }

    fn mark(&mut self, entry: &mut Entry<A>, bits: u32) {
        entry.flow.state |= bits;
        if let Some(flow) = A::flows_mut(self).flows.get_mut(&entry.key) {
            flow.state |= bits;
        }
    }

    fn unmark(&mut self, entry: &mut Entry<A>, bits: u32) {
        entry.flow.state &= !bits;
        if let Some(flow) = A::flows_mut(self).flows.get_mut(&entry.key) {
            flow.state &= !bits;
        }
    }

    fn pass(&mut self, flow: &Flow<A>, reason: Reason) {
        A::flows_mut(self).passed = Some((*flow, reason));
    }

    fn passed(&mut self) -> Option<(Flow<A>, Reason)> {
        A::flows_mut(self).passed.take()
    }

    fn remember(&mut self, key: &SocketKey<A>, peer: &SocketPeer<A>) {
        A::flows_mut(self).sockets.insert(*key, *peer);
    }

    fn remembered(&self, key: &SocketKey<A>) -> Option<SocketPeer<A>> {
        A::flows(self).sockets.get(key).copied()
    }

    fn remember_fragment(&mut self, key: &FragmentKey<A>, ports: &FragmentPorts) {
        A::flows_mut(self).fragments.insert(*key, *ports);
    }

    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts> {
        A::flows(self).fragments.get(key).copied()
    }

    fn carried(&mut self, service: u32, is_answer: bool, bytes: u32) {
        let traffic = self.traffic.entry(service).or_insert(Traffic::NONE);
        let way = usize::from(is_answer);
        traffic.packets[way] += 1;
        traffic.bytes[way] += u64::from(bytes);
    }

    fn opened(&mut self, service: u32) {
        self.traffic.entry(service).or_insert(Traffic::NONE).connections += 1;
    }

    fn count(&mut self, reason: Reason) {
        *self.counters.entry(reason).or_default() += 1;
    }
}
