//! The socket path: a socket is connected straight to a backend, so that its packets need no translation at all.

pub mod table;

use crate::hash;
use crate::ip::{Be16, Ip};
use crate::packet::proto;
use crate::service::{Choice, Client, choose, find};
use crate::tables::{Backend, Filter, Frontend, Origin, SocketKey, SocketPeer, Tables, frontend};
use crate::verdict::Reason;

/// What becomes of a `connect` or `sendmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<A: Ip> {
    /// Not to a Service: leave it.
    Pass,
    /// Go there instead.
    To(Backend<A>),
    /// Refuse it: ECONNREFUSED.
    Refuse,
}

/// What a program can ask about a socket. Each answer is a call of the kernel's, so only who needs one asks.
pub trait Socket {
    /// `bpf_get_socket_cookie`, low word first.
    fn cookie(&self) -> [u32; 2];
    /// Whether it is of the node itself, and not of a pod.
    fn is_host(&self) -> bool;
}

/// A socket's call of an address.
#[derive(Clone, Copy, Debug)]
pub struct Call<A: Ip> {
    /// The address that the process named.
    pub addr: A,
    /// The port.
    pub port: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// Whether it is for more than a datagram: the socket connects, or has its peer already. (A socket of IPv6 whose peer
    /// is of IPv4 calls for each datagram.)
    pub lasting: bool,
    /// Whether sockets of pods are left alone.
    pub host_only: bool,
}

/// Decides where a socket that calls an address really goes. The same socket goes to the same backend as long as the set
/// of backends stays.
///
/// What a packet would be dropped for is left to the packets where they meet a program, as those of pods do, and so is all
/// that depends on the client's address, which a pod's socket does not have yet. Where the socket is of the node itself,
/// an error at once is better than a packet that nobody takes, and the client is the node's address.
///
/// A socket of datagrams that connects is led only if it is the node's. Led once, it would stay with a backend that
/// leaves: the agent closes such sockets of the node, and cannot reach those in the namespaces of pods. Their packets
/// meet a program, and each finds its backend.
#[inline(always)]
pub fn forward<A: Ip, T: Tables<A>>(
    tables: &mut T,
    socket: &impl Socket,
    call: &Call<A>,
    now: impl Fn() -> u32,
) -> Decision<A> {
    let &Call { addr, port, proto, lasting, host_only } = call;
    let to_service = |port| tables.filtered(Filter::Frontend.bit(&addr, port));
    if !to_service(Be16::new(0)) && !to_service(port) || tables.draining() {
        return Decision::Pass;
    }
    if (host_only || lasting && proto == proto::UDP) && !socket.is_host() {
        return Decision::Pass;
    }
    let cookie = socket.cookie();
    let choice = match find(tables, addr, port, proto) {
        Ok(frontend) if asks_who(&frontend) && !socket.is_host() => return Decision::Pass,
        Ok(frontend) => {
            let hash = hash::socket(cookie, &addr, port);
            let now = if frontend.affinity != 0 { now() } else { 0 };
            let choice = choose(tables, &frontend, &Client { addr: tables.node(), origin: Origin::Inside, hash, now });
            if lasting && matches!(choice, Choice::Backend { .. }) {
                tables.opened(frontend.service);
            }
            choice
        }
        Err(Reason::NotService) => return Decision::Pass,
        Err(reason) => Choice::Refuse(reason),
    };
    match choice {
        Choice::Drop(_) if !socket.is_host() => Decision::Pass,
        Choice::Refuse(_) | Choice::Drop(_) => {
            tables.count(Reason::SocketRefused);
            Decision::Refuse
        }
        Choice::Backend { backend, .. } => {
            tables.count(Reason::SocketTranslated);
            let key = key(cookie, backend.addr, backend.port);
            tables.remember(&key, &SocketPeer { addr, port });
            Decision::To(backend)
        }
    }
}

/// Whether a frontend treats clients by their address.
#[inline(always)]
const fn asks_who(frontend: &Frontend) -> bool {
    frontend.affinity != 0 || frontend.flags & frontend::SOURCE_RANGES != 0
}

/// The frontend that the socket meant, where `addr` and `port` are a backend it was led to.
#[inline(always)]
pub fn backward<A: Ip, T: Tables<A>>(tables: &T, cookie: [u32; 2], addr: A, port: Be16) -> Option<SocketPeer<A>> {
    tables.remembered(&key(cookie, addr, port))
}

#[inline(always)]
const fn key<A: Ip>(cookie: [u32; 2], addr: A, port: Be16) -> SocketKey<A> {
    SocketKey { cookie, addr, port }
}
