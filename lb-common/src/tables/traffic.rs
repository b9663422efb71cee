//! What Service ports carry.

use super::Entry;

entry! {
    /// Value of the `TRAFFIC` arrays: what one CPU has seen of a Service port. The index of what has two ways is 0 for packets
    /// to the backend, 1 for answers.
    pub struct Traffic {
        /// Packets that were translated, by way. An aggregate (GSO, GRO) is one.
        pub packets: [u64; 2],
        /// Their bytes, those of the IP header included, by way.
        pub bytes: [u64; 2],
        /// Flows of TCP and UDP that were opened, and sockets that were connected straight to a backend.
        pub connections: u64,
    }
}

impl Traffic {
    /// None.
    pub const NONE: Self = Self { packets: [0; 2], bytes: [0; 2], connections: 0 };

    /// Adds what another CPU has seen.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        let [there, back] = self.packets;
        let [bytes_there, bytes_back] = self.bytes;
        Self {
            packets: [there.wrapping_add(other.packets[0]), back.wrapping_add(other.packets[1])],
            bytes: [bytes_there.wrapping_add(other.bytes[0]), bytes_back.wrapping_add(other.bytes[1])],
            connections: self.connections.wrapping_add(other.connections),
        }
    }
}
