//! One write to the maps.

use std::fmt;

use lb_common::ip::{Family, Ip, V4, V6};
use lb_common::mem::Slots;
use lb_common::tables::{Backend, Config, Frontend, FrontendKey, Name, RangeKey, map};

use crate::model::Protocol;

/// One write to the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes what the programs must know of the node.
    Config(Config),
    /// Writes a Maglev table.
    Run {
        /// Index of its first slot in `SLOTS`.
        at: u32,
        /// The table.
        slots: Slots,
    },
    /// Names a Service port.
    Name {
        /// Its id.
        id: u32,
        /// Its name, which is far larger than all else.
        name: Box<Name>,
    },
    /// Removes a name.
    RemoveName {
        /// The id of the Service port.
        id: u32,
    },
    /// Sets or clears a bit of the half of the filter that holds addresses of frontends.
    Filter {
        /// The bit.
        bit: u32,
        /// What it becomes.
        set: bool,
    },
    /// A write to the maps of IPv4.
    V4(FamilyOp<V4>),
    /// A write to the maps of IPv6.
    V6(FamilyOp<V6>),
}

/// One write to the maps of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyOp<A: Ip> {
    /// Writes a backend.
    Backend {
        /// Its id.
        id: u32,
        /// Where it is.
        backend: Backend<A>,
    },
    /// Removes a backend: its entry becomes zero.
    RemoveBackend {
        /// Its id.
        id: u32,
    },
    /// Adds a frontend, or moves it to another table in one step.
    Frontend {
        /// The address and port.
        key: FrontendKey<A>,
        /// Its Service port and table.
        frontend: Frontend,
    },
    /// Removes a frontend.
    RemoveFrontend {
        /// The address and port.
        key: FrontendKey<A>,
    },
    /// Lets the clients of a range call a Service port.
    Range {
        /// The Service port, and the first address of the range.
        key: RangeKey<A>,
        /// The length of its prefix, which counts the Service port's bits, too.
        len: u32,
    },
    /// Lets them no longer.
    RemoveRange {
        /// The Service port, and the first address of the range.
        key: RangeKey<A>,
        /// The length of its prefix.
        len: u32,
    },
}

impl Op {
    /// The kernel's name of the map it writes to.
    pub const fn map(&self) -> &'static str {
        match self {
            Self::Config(_) => map::CONFIG,
            Self::Run { .. } => map::SLOTS,
            Self::Name { .. } | Self::RemoveName { .. } => map::NAMES,
            Self::Filter { .. } => map::FILTER,
            Self::V4(op) => op.map(),
            Self::V6(op) => op.map(),
        }
    }

    /// The option of the agent that makes room in that map.
    pub const fn option(&self) -> &'static str {
        match self {
            Self::Run { .. } => "--max-slots",
            Self::V4(op) => op.option(),
            Self::V6(op) => op.option(),
            _ => "--max-services",
        }
    }

    /// Whether datagrams of a frontend, or clients that stay with a backend of it, may have to go elsewhere after it.
    pub const fn turns_clients(&self) -> bool {
        match self {
            Self::V4(op) => op.turns_clients(),
            Self::V6(op) => op.turns_clients(),
            Self::Config(_) | Self::Run { .. } | Self::Name { .. } | Self::RemoveName { .. } | Self::Filter { .. } => {
                false
            }
        }
    }

    /// Whether it only takes something away, so that a full map is no obstacle.
    pub const fn is_removal(&self) -> bool {
        match self {
            Self::RemoveName { .. } | Self::Filter { set: false, .. } => true,
            Self::V4(op) => op.is_removal(),
            Self::V6(op) => op.is_removal(),
            Self::Config(_) | Self::Run { .. } | Self::Name { .. } | Self::Filter { set: true, .. } => false,
        }
    }
}

impl<A: Ip> FamilyOp<A> {
    const fn map(&self) -> &'static str {
        let family = match A::FAMILY {
            Family::V4 => 0,
            Family::V6 => 1,
        };
        match self {
            Self::Backend { .. } | Self::RemoveBackend { .. } => map::BACKENDS[family],
            Self::Frontend { .. } | Self::RemoveFrontend { .. } => map::FRONTENDS[family],
            Self::Range { .. } | Self::RemoveRange { .. } => map::SOURCE_RANGES[family],
        }
    }

    const fn option(&self) -> &'static str {
        match self {
            Self::Backend { .. } | Self::RemoveBackend { .. } => "--max-backends",
            Self::Frontend { .. } | Self::RemoveFrontend { .. } => "--max-services",
            Self::Range { .. } | Self::RemoveRange { .. } => "--max-source-ranges",
        }
    }

    const fn turns_clients(&self) -> bool {
        match self {
            Self::Frontend { key, frontend } => key.proto == Protocol::Udp.number() || frontend.affinity > 0,
            // What it asked for is not known any more.
            Self::RemoveFrontend { .. } => true,
            Self::Backend { .. } | Self::RemoveBackend { .. } | Self::Range { .. } | Self::RemoveRange { .. } => false,
        }
    }

    const fn is_removal(&self) -> bool {
        matches!(self, Self::RemoveBackend { .. } | Self::RemoveFrontend { .. } | Self::RemoveRange { .. })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(_) => f.write_str("the node's addresses"),
            Self::Run { at, slots } => write!(f, "the {} slots from {at}", slots.len()),
            Self::Name { id, .. } | Self::RemoveName { id } => write!(f, "the name of Service port {id}"),
            Self::Filter { bit, .. } => write!(f, "bit {bit}"),
            Self::V4(op) => op.fmt(f),
            Self::V6(op) => op.fmt(f),
        }
    }
}

impl<A: Ip> fmt::Display for FamilyOp<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend { id, .. } | Self::RemoveBackend { id } => write!(f, "backend {id}"),
            Self::Frontend { key, .. } | Self::RemoveFrontend { key } => {
                write!(f, "frontend {:?} port {:?} protocol {}", key.addr, key.port, key.proto)
            }
            Self::Range { key, len } | Self::RemoveRange { key, len } => {
                let len = len.saturating_sub(u32::BITS);
                write!(f, "source range {:?}/{len} of Service port {}", key.addr, key.service)
            }
        }
    }
}
