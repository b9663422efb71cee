//! What is remembered of sockets whose datagrams and connections go straight to a backend.

use super::Entry;
use crate::ip::{Be16, Ip};

/// A datagram's or a connection's real peer, as one socket sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketKey<A: Ip> {
    /// `bpf_get_socket_cookie`, low word first.
    pub cookie: [u32; 2],
    /// The backend's address.
    pub addr: A,
    /// The backend's port.
    pub port: Be16,
}

/// The frontend that the socket believes to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketPeer<A: Ip> {
    /// The virtual IP.
    pub addr: A,
    /// Its port.
    pub port: Be16,
}

entry! {
    /// A [`SocketKey`] and its [`SocketPeer`], as they stand in the socket map. All zero: none.
    pub struct SocketEntry<A: Ip> {
        /// The socket's cookie.
        pub cookie: [u32; 2],
        /// The backend's address.
        pub backend: A,
        /// The virtual IP.
        pub frontend: A,
        /// The backend's port.
        pub backend_port: Be16,
        /// The frontend's port.
        pub frontend_port: Be16,
        /// Over all of the above ([`crate::socket::table`]).
        pub check: u32,
    }
}

/// Entries of a bucket.
pub const SOCKET_PLACES: usize = 4;

entry! {
    /// Element of the `SOCKETS` arrays.
    pub struct SocketBucket<A: Ip> {
        /// The one that was called last first.
        pub entries: [SocketEntry<A>; SOCKET_PLACES],
    }
}
