//! Packets that come in fragments: of each the ports, which only the first has.

use super::Entry;
use crate::ip::{Be16, Ip};

entry! {
    /// Key of the `FRAGMENTS` maps: what the fragments of one packet have in common (RFC 791, RFC 8200).
    pub struct FragmentKey<A: Ip> {
        /// Source address.
        pub src: A,
        /// Destination address.
        pub dst: A,
        /// Identification, as on the wire; 0 for the newest packet of these addresses.
        pub id: u32,
        /// IP protocol number; 0 for IPv6, whose packets are told apart without.
        pub proto: u8,
        /// 1 for the newest packet of these addresses, else 0.
        pub newest: u8,
        /// Always 0.
        pub zero: u16,
    }
}

impl<A: Ip> FragmentKey<A> {
    /// The key of the newest packet between the same addresses.
    #[inline(always)]
    pub const fn newest(&self) -> Self {
        Self { id: 0, newest: 1, ..*self }
    }
}

entry! {
    /// Value of the `FRAGMENTS` maps: what the first fragment said.
    pub struct FragmentPorts {
        /// Source port.
        pub sport: Be16,
        /// Destination port.
        pub dport: Be16,
        /// IP protocol number, never 0.
        pub proto: u32,
    }
}

impl FragmentPorts {
    /// Those of no packet.
    pub const NONE: Self = Self { sport: Be16::new(0), dport: Be16::new(0), proto: 0 };
}
