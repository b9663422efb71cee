//! Services: addresses and ports that clients call, where these lead, and who may call them. The agent writes all of it but
//! the affinity of clients.

use super::{Entry, Filter};
use crate::ip::{Be16, Ip};

entry! {
    /// Key of the `FRONTENDS` hash maps: one address and port that a Service owns.
    pub struct FrontendKey<A: Ip> {
        /// The virtual IP.
        pub addr: A,
        /// The port; 0, with `proto` 0, for the address as a whole (see [`FrontendKey::whole`]).
        pub port: Be16,
        /// IP protocol number.
        pub proto: u8,
        /// Always 0.
        pub zero: u8,
    }
}

impl<A: Ip> FrontendKey<A> {
    /// The key of a port.
    #[inline(always)]
    pub const fn new(addr: A, port: Be16, proto: u8) -> Self {
        Self { addr, port, proto, zero: 0 }
    }

    /// The key that stands for every port of `addr` which no Service port claims: such packets are refused.
    #[inline(always)]
    pub const fn whole(addr: A) -> Self {
        Self::new(addr, Be16::new(0), 0)
    }
}

/// Whom a packet comes from. A traffic policy `Local` may treat the two differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A pod of this node, or the node itself.
    Inside,
    /// Anybody else.
    Outside,
}

impl Origin {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inside, Self::Outside];
}

entry! {
    /// Where a Maglev table lies in `SLOTS`.
    pub struct Table {
        /// Index of its first slot; 0 where it has none.
        pub at: u32,
        /// Its slots; 0 where no endpoint is usable, so that packets are refused or vanish.
        pub len: u32,
    }
}

impl Table {
    /// The table without slots.
    pub const EMPTY: Self = Self { at: 0, len: 0 };
}

entry! {
    /// Value of the `FRONTENDS` maps: where its backends are, for clients of each [`Origin`].
    pub struct Frontend {
        /// Id of the Service port, the key in `NAMES`.
        pub service: u32,
        /// Bits of [`frontend`].
        pub flags: u32,
        /// For clients inside.
        pub inside: Table,
        /// For clients outside; mostly the same.
        pub outside: Table,
        /// How long, in [`TICK`]s since its last new flow, a client is led to the same backend; 0 without affinity.
        pub affinity: u32,
    }
}

impl Frontend {
    /// One that refuses everybody.
    pub const fn refusing(service: u32) -> Self {
        Self { service, flags: 0, inside: Table::EMPTY, outside: Table::EMPTY, affinity: 0 }
    }

    /// One table for everybody.
    pub const fn with_table(service: u32, table: Table) -> Self {
        Self { inside: table, outside: table, ..Self::refusing(service) }
    }

    /// The table for clients of an origin.
    #[inline(always)]
    pub const fn table(&self, origin: Origin) -> Table {
        match origin {
            Origin::Inside => self.inside,
            Origin::Outside => self.outside,
        }
    }

    /// The tables that have slots, each once.
    pub fn tables(&self) -> impl Iterator<Item = Table> + use<> {
        let second = (self.outside != self.inside).then_some(self.outside);
        [Some(self.inside), second].into_iter().flatten().filter(|table| table.len > 0)
    }

    /// What its address is to its Service.
    #[inline(always)]
    pub const fn kind(&self) -> Kind {
        match (self.flags & frontend::KIND) >> frontend::KIND_SHIFT {
            0 => Kind::ClusterIp,
            1 => Kind::NodePort,
            2 => Kind::LoadBalancer,
            _ => Kind::ExternalIp,
        }
    }

    /// Whether a backend that sees the address of a client outside need not see its port: that of a node, under the policy
    /// `Cluster`. Pods of other nodes and these nodes themselves call it as strangers, and its backends by other ways, too.
    #[inline(always)]
    pub const fn hides_ports(&self) -> bool {
        matches!(self.kind(), Kind::NodePort) && self.flags & frontend::LOCAL == 0
    }

    /// The bit of [`Filter::Frontend`] that makes packets to it be looked at: that of its address, or, where the address
    /// is the node's own, that of address and port, since most of what comes to such an address is none of our business.
    pub fn bit<A: Ip>(&self, key: &FrontendKey<A>) -> u32 {
        let own = self.flags & frontend::OWN_ADDRESS != 0;
        Filter::Frontend.bit(&key.addr, if own { key.port } else { Be16::new(0) })
    }

    /// Where clients of an origin stay, those with session affinity: its Service port, and, in the highest bit, whether the
    /// traffic policy that they meet is `Local`. Whom one policy leads to may be no endpoint of the other, so that a client
    /// that meets both has two stays.
    #[inline(always)]
    pub const fn stay(&self, origin: Origin) -> u32 {
        let inside =
            matches!((self.kind(), origin), (Kind::NodePort | Kind::LoadBalancer | Kind::ExternalIp, Origin::Inside));
        let local = self.flags & frontend::LOCAL != 0 && !inside;
        self.service | (local as u32) << 31
    }

    /// The Service port of a [`Frontend::stay`].
    pub const fn stayed(stay: u32) -> u32 {
        stay & !(1 << 31)
    }

    /// Whether it has no endpoint for clients of an origin because all are on other nodes.
    #[inline(always)]
    pub const fn is_elsewhere(&self, origin: Origin) -> bool {
        self.flags & frontend::elsewhere(origin) != 0
    }
}

/// What its address is to a Service. Where several Services want one address and port, the first of these has it: what the
/// cluster gave out comes before what anybody may write into a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A virtual IP of the cluster's.
    #[default]
    ClusterIp = 0,
    /// An address of the node, at a port that the cluster gave out.
    NodePort = 1,
    /// A virtual IP of a load balancer's.
    LoadBalancer = 2,
    /// One that the Service's author names.
    ExternalIp = 3,
}

impl Kind {
    /// Its bits in [`Frontend::flags`].
    pub const fn flags(self) -> u32 {
        (self as u32) << frontend::KIND_SHIFT
    }

    /// Its name, as Kubernetes has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "ExternalIP",
        }
    }
}

/// Bits of [`Frontend::flags`].
pub mod frontend {
    use super::Origin;

    /// Endpoints are usable, but not for clients inside (a traffic policy `Local`): their packets vanish.
    pub const ELSEWHERE_INSIDE: u32 = 1;
    /// The same for clients outside.
    pub const ELSEWHERE_OUTSIDE: u32 = 2;
    /// Only sources in `SOURCE_RANGES` may come in (`loadBalancerSourceRanges`).
    pub const SOURCE_RANGES: u32 = 4;
    /// Its address is the node's own (a NodePort, or a virtual IP that is bound to a device): other ports are the node's.
    pub const OWN_ADDRESS: u32 = 8;
    /// Its traffic policy is `Local`: that for clients outside where it is no ClusterIP. The tables say what it comes to.
    pub const LOCAL: u32 = 16;
    /// Where a [`super::Kind`] stands.
    pub const KIND: u32 = 3 << KIND_SHIFT;
    pub(super) const KIND_SHIFT: u32 = 5;

    /// The bit that says so for clients of an origin.
    #[inline(always)]
    pub const fn elsewhere(origin: Origin) -> u32 {
        match origin {
            Origin::Inside => ELSEWHERE_INSIDE,
            Origin::Outside => ELSEWHERE_OUTSIDE,
        }
    }
}

entry! {
    /// What follows the prefix length in a key of the `SOURCE_RANGES` tries: sources that a frontend admits. The length
    /// counts the bits of both fields. The value is 1.
    pub struct RangeKey<A: Ip> {
        /// [`Frontend::service`].
        pub service: u32,
        /// First address of the range.
        pub addr: A,
    }
}

entry! {
    /// Key of the `AFFINITY` maps.
    pub struct AffinityKey<A: Ip> {
        /// The client's address.
        pub client: A,
        /// [`Frontend::stay`].
        pub service: u32,
    }
}

entry! {
    /// Value of the `AFFINITY` maps: where a client's next flow goes, too.
    pub struct Affinity {
        /// Id of the backend.
        pub backend: u32,
        /// When its newest flow began, in [`TICK`]s since boot.
        pub seen: u32,
    }
}

entry! {
    /// Value of the `BACKENDS` arrays, whose index is the backend's id. All zero: no backend has this id.
    pub struct Backend<A: Ip> {
        /// The address of the pod.
        pub addr: A,
        /// The port; never 0.
        pub port: Be16,
        /// Bits of [`backend`].
        pub flags: u16,
    }
}

/// Bits of [`Backend::flags`].
pub mod backend {
    /// It is on this node, so its answers come by without the node's address as source.
    pub const LOCAL: u16 = 1;
    /// Its address is one of the node's own: no device leads to it.
    pub const OWN: u16 = 2;
}

/// Longest name of a namespace, a Service or a port of one (RFC 1123 label, as the API server demands of each).
pub const LABEL: usize = 63;

entry! {
    /// Value of the `NAMES` hash map, whose key is [`Frontend::service`]: what people call this Service port.
    /// The kernel never reads it; it is pinned with the rest so that the CLI needs no agent. Padded with zeros.
    pub struct Name {
        /// Namespace.
        pub namespace: [u8; LABEL],
        /// Name of the Service.
        pub service: [u8; LABEL],
        /// Name of the port; empty where it has none.
        pub port: [u8; LABEL],
    }
}
