//! Every map: its key, its value, its name and capacity, and the look-ups that the decisions make in them.
//!
//! Keys and values are `repr(C)` without padding, since the kernel compares keys byte by byte: [`Entry`] proves it
//! when it compiles. Addresses and ports stand as in the packet, all other numbers in host byte order.

use core::ops::Deref;

use crate::flow::mirror;
use crate::ip::{Be16, Ip};
use crate::route::{Hop, Kept, NextHop, Stamp, Way};
use crate::verdict::Reason;

/// Names the shape of the maps below. The agent pins maps in a folder of this name, so that agents of two layouts
/// never share one. Raise it with every change of a key, a value or a map's kind.
pub const LAYOUT: u32 = 7;

/// Nanoseconds of `CLOCK_MONOTONIC` in the unit of [`Flow::seen`]: a little over a second, a shift instead of a division.
pub const TICK: u64 = 1 << 30;

/// A key or a value of a map: plain bytes, no padding.
pub trait Entry: Copy + 'static {
    /// Bytes of all fields together.
    const FIELDS: usize;
    /// Fails to compile where the compiler had to add padding.
    const SOLID: () = assert!(size_of::<Self>() == Self::FIELDS, "padding in a map entry");
}

impl Entry for u32 {
    const FIELDS: usize = 4;
}

impl Entry for u64 {
    const FIELDS: usize = 8;
}

macro_rules! entry {
    ($(#[$meta:meta])* pub struct $name:ident $(<$a:ident: $bound:ident>)? {
        $($(#[$fmeta:meta])* pub $field:ident: $ty:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(C)]
        pub struct $name $(<$a: $bound>)? {
            $($(#[$fmeta])* pub $field: $ty,)*
        }

        impl $(<$a: $bound>)? Entry for $name $(<$a>)? {
            const FIELDS: usize = 0 $(+ size_of::<$ty>())*;
        }
    };
}

mod config;
mod fragments;
mod insert;
pub mod listing;
mod services;
mod sockets;
mod traffic;

pub use config::{Config, socket_path};
pub use fragments::{FragmentKey, FragmentPorts};
pub use insert::{InsertError, Refused};
pub use services::{
    Affinity, AffinityKey, Backend, Frontend, FrontendKey, Kind, LABEL, Name, Origin, RangeKey, Table, backend,
    frontend,
};
pub use sockets::{SOCKET_PLACES, SocketBucket, SocketEntry, SocketKey, SocketPeer};
pub use traffic::Traffic;

/// Bits of the values of the `DEVICES` map, whose key is a device's index.
pub mod device {
    /// Clients behind it are pods of this node.
    pub const INSIDE: u32 = 1;
    /// XDP may send packets out of it.
    pub const XDP: u32 = 2;
    /// The key, which is no device's index, of the index of the service device.
    pub const SERVICE_AT: u32 = 0;
}

/// Where on a device a flow entry applies. Part of its key, so that a look-up on the wrong side never matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// Packets that come in through the device.
    Ingress = 0,
    /// Packets that go out through it.
    Egress = 1,
}

entry! {
    /// Key of the flow maps: a packet as it comes, before translation.
    pub struct FlowKey<A: Ip> {
        /// Source address.
        pub src: A,
        /// Destination address.
        pub dst: A,
        /// Source port.
        pub sport: Be16,
        /// Destination port.
        pub dport: Be16,
        /// IP protocol number.
        pub proto: u8,
        /// A [`Side`].
        pub side: u8,
        /// Always 0.
        pub zero: u16,
    }
}

entry! {
    /// Value of the flow maps: all that a packet of this flow needs.
    pub struct Flow<A: Ip> {
        /// The source address it gets.
        pub src: A,
        /// The destination address it gets.
        pub dst: A,
        /// The source port it gets.
        pub sport: Be16,
        /// The destination port it gets.
        pub dport: Be16,
        /// What the new addresses add to a checksum (RFC 1624), one's complement, as on the wire.
        pub addrs: u16,
        /// What the new ports add. Apart from `addrs`, since partial checksums at TC hold the addresses only.
        pub ports: u16,
        /// Bits of [`crate::flow::state`].
        pub state: u32,
        /// When the newest packet came, in [`TICK`]s since boot.
        pub seen: u32,
        /// Id of the backend.
        pub backend: u32,
        /// Id of the Service port.
        pub service: u32,
    }
}

impl<A: Ip> Flow<A> {
    /// Becomes a copy of another. Field by field: a whole would be copied by a function that the kernel's verifier refuses.
    #[inline(always)]
    pub fn copy(&mut self, other: &Self) {
        self.src = other.src;
        self.dst = other.dst;
        self.sport = other.sport;
        self.dport = other.dport;
        self.addrs = other.addrs;
        self.ports = other.ports;
        self.state = other.state;
        self.seen = other.seen;
        self.backend = other.backend;
        self.service = other.service;
    }

    /// All zero: no flow, only room for one.
    #[inline(always)]
    pub fn zeroed() -> Self {
        let none = Be16::new(0);
        Self {
            src: A::default(),
            dst: A::default(),
            sport: none,
            dport: none,
            addrs: 0,
            ports: 0,
            state: 0,
            seen: 0,
            backend: 0,
            service: 0,
        }
    }
}

entry! {
    /// The value of the `PASSED` arrays, one a CPU: what one stage of a packet's way hands to the next.
    pub struct Passed<A: Ip> {
        /// As it leads the packet.
        pub flow: Flow<A>,
        /// Number of the reason.
        pub reason: u32,
    }
}

/// Names and default capacities of the maps, as the loader and the CLI see them. Kernel names end after 15 bytes.
pub mod map {
    /// [`super::FrontendKey`] to [`super::Frontend`], hash, by family.
    pub const FRONTENDS: [&str; 2] = ["FRONTENDS_V4", "FRONTENDS_V6"];
    /// Backend id to [`super::Backend`], array of arrays of [`BACKENDS_CHUNK`], by family. These can be mapped into memory.
    pub const BACKENDS: [&str; 2] = ["BACKENDS_V4", "BACKENDS_V6"];
    /// Flows, an array of the buckets of [`crate::flow::table`], by family. Can be mapped into memory.
    pub const FLOWS: [&str; 2] = ["FLOWS_V4", "FLOWS_V6"];
    /// The smaller ones that these take the place of, for programs that see both, by family. Others have no more than a bucket.
    pub const FLOWS_OLD: [&str; 2] = ["FLOWS_OLD_V4", "FLOWS_OLD_V6"];
    /// [`super::SocketKey`] to [`super::SocketPeer`], an array of [`super::SocketBucket`], by family.
    pub const SOCKETS: [&str; 2] = ["SOCKETS_V4", "SOCKETS_V6"];
    /// Maglev tables, one behind the other, in an array of arrays of [`SLOTS_CHUNK`] slots each. Slots are backend ids of
    /// 32 bits, two in each element of an array of 64-bit words (the kernel pads smaller elements to that), the even one
    /// in the low half. These arrays can be mapped into memory.
    pub const SLOTS: &str = "SLOTS";
    /// [`super::RangeKey`] to 1, trie of prefixes, by family.
    pub const SOURCE_RANGES: [&str; 2] = ["SOURCE_RANGES_V4", "SOURCE_RANGES_V6"];
    /// [`super::AffinityKey`] to [`super::Affinity`], LRU hash, by family.
    pub const AFFINITY: [&str; 2] = ["AFFINITY_V4", "AFFINITY_V6"];
    /// [`super::FragmentKey`] to [`super::FragmentPorts`], LRU hash, by family.
    pub const FRAGMENTS: [&str; 2] = ["FRAGMENTS_V4", "FRAGMENTS_V6"];
    /// Index of a device to bits of [`super::device`], hash. At [`super::device::SERVICE_AT`] the index of the service device.
    pub const DEVICES: &str = "DEVICES";
    /// Service port id to [`super::Name`], hash.
    pub const NAMES: &str = "NAMES";
    /// The two bitmaps of [`super::Filter`], an array of 64-bit words that can be mapped into memory.
    pub const FILTER: &str = "FILTER";
    /// Packets by [`crate::verdict::Reason`], per-CPU array.
    pub const COUNTERS: &str = "COUNTERS";
    /// Service port id to [`super::Traffic`], array of per-CPU arrays of [`TRAFFIC_CHUNK`].
    pub const TRAFFIC: &str = "TRAFFIC";
    /// The programs that the one of a hook calls, by [`crate::datapath::Stage::index`], array of programs: at XDP, TC ingress (and
    /// egress of the service device), and TC egress.
    pub const STAGES: [&str; 3] = ["XDP_INGRESS", "TC_INGRESS", "TC_EGRESS"];
    /// [`super::Config`], array of one.
    pub const CONFIG: &str = "CONFIG";
    /// [`super::Tables::epoch`] in the low half of a 64-bit word, array of one. Can be mapped into memory.
    pub const EPOCH: &str = "EPOCH";

    /// Frontends of a family: of 130,000 Services with one port. Entries take memory when they are there; 16 bytes for each
    /// that there could be are taken at once.
    pub const FRONTENDS_CAPACITY: u32 = 1 << 18;
    /// Backend ids of a family; id 0 is never used. Memory is taken a chunk at a time.
    pub const BACKENDS_CAPACITY: u32 = 1 << 21;
    /// Backend ids of a chunk. A power of two.
    pub const BACKENDS_CHUNK: u32 = 1 << 14;
    /// Flows of a family, at most.
    pub const FLOWS_CAPACITY: u32 = 1 << 17;
    /// Flows of a family in a new table: 2.6 MB of IPv4, 5.1 of IPv6.
    pub const FLOWS_AT_FIRST: u32 = 1 << 14;
    /// Buckets for translated sockets of a family, four in each. A power of two.
    pub const SOCKETS_BUCKETS: u32 = 1 << 15;
    /// Maglev slots of all backend sets together: room for about 260,000 sets of 10. Memory is taken a chunk at a time.
    pub const SLOTS_CAPACITY: u32 = 1 << 28;
    /// Slots of a chunk, 1 MiB: about 260 sets of 10. A power of two.
    pub const SLOTS_CHUNK: u32 = 1 << 18;
    /// Source ranges of a family.
    pub const SOURCE_RANGES_CAPACITY: u32 = 1 << 16;
    /// Clients of a family that are led to the same backend again.
    pub const AFFINITY_CAPACITY: u32 = 1 << 16;
    /// Packets of a family whose first fragment has come by, and clients that sent such.
    pub const FRAGMENTS_CAPACITY: u32 = 1 << 13;
    /// Devices with programs.
    pub const DEVICES_CAPACITY: u32 = 1 << 12;
    /// Service ports.
    pub const NAMES_CAPACITY: u32 = 1 << 18;
    /// Service port ids whose traffic is counted: ids rest before they are used again, so there are more than ports. Memory is
    /// taken a chunk at a time.
    pub const TRAFFIC_CAPACITY: u32 = 1 << 21;
    /// Service port ids of a chunk, 40 KiB on each CPU. A power of two.
    pub const TRAFFIC_CHUNK: u32 = 1 << 10;
}

/// One of the two bitmaps that let packets go which are none of our business, after one array read. Each is a Bloom
/// filter of one hash: a set bit may be a stranger's, a clear one never lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Addresses of frontends, without a port; where a frontend stands on an address of the node's own, with its port, so
    /// that the rest of what comes there is let go ([`Frontend::bit`]). The agent writes it.
    Frontend,
    /// Address and port that packets of flows come with: the destination of those that apply at ingress, the source of
    /// those at egress, each in places of their own. The packet path sets bits.
    Flow(Side),
}

impl Filter {
    /// Bits of each bitmap, a power of two: with 100,000 addresses one stranger in 42 is looked at more closely.
    pub const BITS: u32 = 1 << 22;
    /// 64-bit words of both together: the capacity of the map.
    pub const WORDS: u32 = 2 * Self::BITS / 64;

    /// The bit, counted over both bitmaps, of an address and a port (0 for an address as a whole).
    #[inline(always)]
    pub fn bit<A: Ip>(self, addr: &A, port: Be16) -> u32 {
        let bit = (crate::hash::quick(addr, port) >> (u64::BITS - Self::BITS.ilog2())) as u32;
        match self {
            Self::Frontend => bit,
            Self::Flow(Side::Ingress) => bit + Self::BITS,
            Self::Flow(Side::Egress) => (bit ^ (Self::BITS / 2)) + Self::BITS,
        }
    }
}

/// The look-ups and writes that a decision of one family makes. Implemented by the kernel's maps and by
/// [`crate::mem::Tables`](crate::mem).
pub trait Tables<A: Ip> {
    /// A copy of a flow entry, and where it stands.
    type Entry: Deref<Target = Flow<A>>;

    /// The node's own address, all zero for none.
    fn node(&self) -> A;
    /// [`Config::strangers_until`].
    fn strangers_until(&self) -> u32;
    /// [`Config::draining`].
    fn draining(&self) -> bool;
    /// The frontend of a key.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend>;
    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// The backend of an id; `None` also for an id that nobody has.
    fn backend(&self, id: u32) -> Option<Backend<A>>;
    /// Whether a source is in one of the ranges of a Service port, by its id.
    fn in_source_range(&self, service: u32, source: A) -> bool;
    /// Where a client of a Service with affinity was led to.
    fn affinity(&self, key: &AffinityKey<A>) -> Option<Affinity>;
    /// Notes it.
    fn set_affinity(&mut self, key: &AffinityKey<A>, to: &Affinity);
    /// How a packet leaves the node.
    fn hop(&self, way: &Way<'_, A>) -> Hop;
    /// Another number whenever the agent has heard that the kernel may find other ways out of the node.
    fn epoch(&self) -> u32;
    /// Whether this program sends packets as XDP does.
    fn at_xdp(&self) -> bool;
    /// Whether this is the egress of the service device: those who send packets out through it are shown by no other.
    fn at_service_device(&self) -> bool;
    /// Whether this program can let packets come in through the service device.
    fn inward(&self) -> bool;
    /// The address by which the node speaks to an address, for a packet that came in through a device: that of the device
    /// which leads there, so that answers come back the same way, else [`Tables::node`].
    fn source(&self, to: &A, from: u32) -> A;
    /// Bits of [`device`] of a device, by its index; 0 for one that is not known.
    fn device(&self, index: u32) -> u32;
    /// Whether a bit of the filters is set.
    fn filtered(&self, bit: u32) -> bool;
    /// Sets a bit of the filters.
    fn set_filter(&mut self, bit: u32);
    /// The entry of a flow.
    fn flow(&self, key: &FlowKey<A>) -> Option<Self::Entry>;
    /// The entry of a flow beside one that [`Tables::flow`] has found: the one that this found before is void then. (The kernel
    /// keeps copies where programs have more room than on their stack: one of each.)
    fn other(&self, key: &FlowKey<A>) -> Option<Self::Entry> {
        self.flow(key)
    }
    /// A copy of the entry of a flow that has a packet now, which came in through device `from`: the one look-up that nearly every
    /// packet makes. Beside it what was [kept](Tables::keep) about the way that it leaves by and still holds. Writes
    /// [`Flow::seen`].
    fn met(&mut self, key: &FlowKey<A>, now: u32, from: u32) -> Option<(Flow<A>, Kept)>;
    /// Keeps the next hop with a flow, for as long as the stamp is that of its packets: no longer than a tick.
    fn keep(&mut self, key: &FlowKey<A>, next: &NextHop, stamp: &Stamp);
    /// Adds a flow entry, never in the place of an established one.
    ///
    /// # Errors
    /// The key is taken, or the table is full.
    fn insert_flow(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), InsertError>;
    /// Adds both entries of a flow, the way back first; `key` and `flow` are those of the way there, also afterwards.
    ///
    /// # Errors
    /// Which of them was refused.
    fn insert_both(&mut self, key: &mut FlowKey<A>, flow: &mut Flow<A>) -> Result<(), Refused> {
        let (back_key, back) = mirror(key, flow);
        self.insert_flow(&back_key, &back).map_err(Refused::Back)?;
        self.insert_flow(key, flow).map_err(Refused::There)
    }
    /// Removes a flow entry, if it is there.
    fn remove_flow(&mut self, key: &FlowKey<A>);
    /// Adds [`crate::flow::state::ESTABLISHED`] to the state, so that nothing pushes the entry out. False where the table
    /// has no room for one more of these.
    fn establish(&mut self, entry: &mut Self::Entry) -> bool;
    /// Writes [`Flow::seen`].
    fn touch(&mut self, entry: &mut Self::Entry, now: u32);
    /// Adds bits to [`Flow::state`], atomically.
    fn mark(&mut self, entry: &mut Self::Entry, bits: u32);
    /// Takes bits from [`Flow::state`], atomically.
    fn unmark(&mut self, entry: &mut Self::Entry, bits: u32);
    /// Hands a flow to the next stage, and why the packet goes as it says.
    fn pass(&mut self, flow: &Flow<A>, reason: Reason);
    /// What the stage before handed on.
    fn passed(&mut self) -> Option<(Flow<A>, Reason)>;
    /// Remembers which frontend a socket meant. Writes nothing where that is known already.
    fn remember(&mut self, key: &SocketKey<A>, peer: &SocketPeer<A>);
    /// The frontend that a socket meant.
    fn remembered(&self, key: &SocketKey<A>) -> Option<SocketPeer<A>>;
    /// Remembers the ports of a packet that comes in fragments.
    fn remember_fragment(&mut self, key: &FragmentKey<A>, ports: &FragmentPorts);
    /// The ports of a packet that comes in fragments.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts>;
    /// Counts a packet of a Service port that was translated, `bytes` long with its IP header: an answer, or one to a backend.
    fn carried(&mut self, service: u32, is_answer: bool, bytes: u32);
    /// Counts a flow or a socket that a Service port has led to a backend.
    fn opened(&mut self, service: u32);
    /// Counts a packet.
    fn count(&mut self, reason: Reason);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::{V4, V6};

    #[test]
    fn entries_have_no_padding_and_the_size_that_the_figures_assume() {
        const fn size<T: Entry>() -> usize {
            let () = T::SOLID;
            size_of::<T>()
        }
        let sizes = [
            (size::<FrontendKey<V4>>(), 8),
            (size::<FrontendKey<V6>>(), 20),
            (size::<Frontend>(), 28),
            (size::<RangeKey<V4>>(), 8),
            (size::<RangeKey<V6>>(), 20),
            (size::<AffinityKey<V4>>(), 8),
            (size::<AffinityKey<V6>>(), 20),
            (size::<Affinity>(), 8),
            (size::<Backend<V4>>(), 8),
            (size::<Backend<V6>>(), 20),
            (size::<Name>(), 189),
            (size::<FlowKey<V4>>(), 16),
            (size::<FlowKey<V6>>(), 40),
            (size::<Flow<V4>>(), 32),
            (size::<Flow<V6>>(), 56),
            (size::<SocketBucket<V4>>(), 4 * 24),
            (size::<SocketBucket<V6>>(), 4 * 48),
            (size::<FragmentKey<V4>>(), 16),
            (size::<FragmentKey<V6>>(), 40),
            (size::<FragmentPorts>(), 8),
            (size::<Config>(), 40),
            (size::<Traffic>(), 40),
        ];
        for (is, expected) in sizes {
            assert_eq!(is, expected);
        }
    }
}
