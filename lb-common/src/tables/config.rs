//! What the programs must know of the node.

use super::Entry;
use crate::ip::{V4, V6};

entry! {
    /// The one value of the `CONFIG` array: what the programs must know of the node.
    pub struct Config {
        /// The node's IPv6 address, all zero for none.
        pub node_v6: V6,
        /// The node's IPv4 address, all zero for none. Masqueraded packets come from it.
        pub node_v4: V4,
        /// Cookie of the node's network namespace, low word first.
        pub netns: [u32; 2],
        /// Bits of [`socket_path`].
        pub socket_path: u32,
        /// Until when, in [`super::TICK`]s since boot, a TCP segment in mid-stream that belongs to no flow goes on as it came:
        /// it is of a connection that another proxy has translated from the first packet on.
        pub strangers_until: u32,
        /// 1 while no new flow is taken on, so that another proxy can; else 0.
        pub draining: u32,
    }
}

impl Config {
    /// A node without addresses.
    pub const EMPTY: Self = Self {
        node_v6: V6([0; 4]),
        node_v4: V4([0]),
        netns: [0; 2],
        socket_path: socket_path::OFF,
        strangers_until: 0,
        draining: 0,
    };
}

/// Whose sockets the cgroup hooks translate.
pub mod socket_path {
    /// Nobody's.
    pub const OFF: u32 = 0;
    /// Those of processes in the node's own network namespace.
    pub const HOST: u32 = 1;
    /// All: pods, too.
    pub const ALL: u32 = 2;
}
