//! What is remembered of sockets whose datagrams and connections go straight to a backend.

use super::Entry;
use crate::ip::{Be16, Ip};

entry! {
    /// Key of the socket map: a datagram's or a connection's real peer, as one socket sees it.
    pub struct SocketKey<A: Ip> {
        /// `bpf_get_socket_cookie`, low word first.
        pub cookie: [u32; 2],
        /// The backend's address.
        pub addr: A,
        /// The backend's port.
        pub port: Be16,
        /// Always 0.
        pub zero: u16,
    }
}

entry! {
    /// Value of the socket map: the frontend that the socket believes to talk to.
    pub struct SocketPeer<A: Ip> {
        /// The virtual IP.
        pub addr: A,
        /// Its port.
        pub port: Be16,
        /// Always 0.
        pub zero: u16,
    }
}
