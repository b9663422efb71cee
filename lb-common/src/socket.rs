//! The socket path: a socket is connected straight to a backend, so that its packets need no translation at all.

use crate::hash;
use crate::ip::{Be16, Ip};
use crate::service::{Choice, choose};
use crate::tables::{Backend, Filter, Origin, SocketKey, SocketPeer, Tables};
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

/// Decides where a socket that calls `addr` and `port` really goes. The same socket goes to the same backend as long
/// as the set of backends stays.
///
/// What a packet would be dropped for is left to the packets where they meet a program, as those of pods do. `host`
/// tells whether the socket is of the node itself: then an error at once is better than a packet that nobody takes.
#[inline(always)]
pub fn forward<A: Ip, T: Tables<A>>(
    tables: &mut T,
    cookie: [u32; 2],
    addr: A,
    port: Be16,
    proto: u8,
    host: impl FnOnce() -> bool,
) -> Decision<A> {
    if !tables.filtered(Filter::Frontend.bit(&addr, Be16::new(0))) || tables.draining() {
        return Decision::Pass;
    }
    match choose(tables, addr, port, proto, Origin::Inside, hash::socket(cookie, &addr, port)) {
        Choice::NotService => Decision::Pass,
        Choice::Drop(_) if !host() => Decision::Pass,
        Choice::Refuse(_) | Choice::Drop(_) => {
            tables.count(Reason::SocketRefused);
            Decision::Refuse
        }
        Choice::Backend { backend, .. } => {
            tables.count(Reason::SocketTranslated);
            let key = key(cookie, backend.addr, backend.port);
            let peer = SocketPeer { addr, port, zero: 0 };
            // Look first: a sender of many datagrams would write the same entry for each.
            if tables.remembered(&key) != Some(peer) {
                tables.remember(&key, &peer);
            }
            Decision::To(backend)
        }
    }
}

/// The frontend that the socket meant, where `addr` and `port` are a backend it was led to.
#[inline(always)]
pub fn backward<A: Ip, T: Tables<A>>(tables: &T, cookie: [u32; 2], addr: A, port: Be16) -> Option<SocketPeer<A>> {
    tables.remembered(&key(cookie, addr, port))
}

#[inline(always)]
const fn key<A: Ip>(cookie: [u32; 2], addr: A, port: Be16) -> SocketKey<A> {
    SocketKey { cookie, addr, port, zero: 0 }
}
