//! The sockets of this network namespace, as sock_diag(7) shows them: finds those that are connected, and closes them.
//! Knows nothing of Services and maps.

use std::io;
use std::net::SocketAddr;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;
use rtnetlink::sys::{Socket, SocketAddr as Kernel};

/// A socket of datagrams that has one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    family: u8,
    id: SocketId,
}

impl Connected {
    /// With whom: of IPv4 also where the socket is of IPv6 and the address mapped into it.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.id.destination_address.to_canonical(), self.id.destination_port)
    }

    /// Its number, which no other socket ever has (`bpf_get_socket_cookie`), low word first.
    pub fn cookie(&self) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h] = self.id.cookie;
        [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes)
    }

    fn request(&self) -> SockDiagMessage {
        request(self.family, self.id.clone())
    }
}

/// A conversation with the kernel about sockets.
pub struct Diag(Socket);

impl Diag {
    /// Begins one.
    ///
    /// # Errors
    /// The kernel has no sock_diag.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&Kernel::new(0, 0))?;
        Ok(Self(socket))
    }

    /// All sockets of UDP that are connected. Those that come or go meanwhile may be missed.
    ///
    /// # Errors
    /// The kernel cannot list them (`ENOENT`: it lacks `UDP_DIAG`).
    pub fn connected_datagrams(&mut self) -> io::Result<Vec<Connected>> {
        let mut found = Vec::new();
        for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            self.ask(request(family, any), NLM_F_DUMP, |answer| {
                if let SockDiagMessage::InetResponse(socket) = answer {
                    found.push(Connected { family, id: socket.header.socket_id });
                }
            })?;
        }
        Ok(found)
    }

    /// Ends the connection of a socket: its process no longer waits (`ECONNABORTED`), and cannot send without naming a
    /// peer (`EDESTADDRREQ`). Nothing happens where the socket has been closed already, or connected to another peer.
    ///
    /// # Errors
    /// The kernel cannot do it (`EOPNOTSUPP`: it lacks `INET_DIAG_DESTROY`), or the agent may not (`EPERM`).
    pub fn close(&mut self, socket: &Connected) -> io::Result<()> {
        match self.ask(SockDiagDestroy::new(socket.request()), NLM_F_ACK, drop) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    fn ask<M>(&mut self, request: M, flags: u16, mut each: impl FnMut(SockDiagMessage)) -> io::Result<()>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, request.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        loop {
            let (bytes, _) = self.0.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
                // Messages stand at multiples of four.
                let len = (message.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(len..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => each(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

fn request(family: u8, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        // What is true of a connection of TCP, sock_diag says of a connected socket of UDP.
        states: StateFlags::ESTABLISHED,
        socket_id,
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn connected_sockets_are_found_by_their_peers() {
        // A build sandbox may have no sock_diag; where it is, it must say what is true.
        let Ok(mut diag) = Diag::open() else { return };
        let Ok(before) = diag.connected_datagrams() else { return };
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{}", peer.port()).parse().unwrap();
        let sockets = [("127.0.0.1:0", peer), ("[::]:0", mapped)].map(|(from, to)| {
            let socket = UdpSocket::bind(from).unwrap();
            socket.connect(to).unwrap();
            socket
        });
        let found = |diag: &mut Diag| diag.connected_datagrams().unwrap().iter().filter(|s| s.peer() == peer).count();
        assert_eq!(found(&mut diag), 2, "{before:?}");
        drop(sockets);
        assert_eq!(found(&mut diag), 0);
    }
}
