//! From a virtual address to a backend: who may call it, and where a client's new flow goes.

use crate::ip::{Be16, Ip};
use crate::tables::{Affinity, AffinityKey, Backend, Frontend, FrontendKey, Origin, Tables, frontend};
use crate::verdict::Reason;

/// Who opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<A: Ip> {
    /// Its address.
    pub addr: A,
    /// Where it is.
    pub origin: Origin,
    /// What chooses the slot of a Maglev table: the same for each packet of the flow.
    pub hash: u32,
    /// The time, in [`crate::tables::TICK`]s since boot.
    pub now: u32,
}

/// What a frontend says to a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<A: Ip> {
    /// Refuse the flow.
    Refuse(Reason),
    /// Say nothing: the client may not call, endpoints are elsewhere, or the tables are about to change and the packet
    /// will be sent again.
    Drop(Reason),
    /// This backend.
    Backend {
        /// The backend's id.
        id: u32,
        /// The backend.
        backend: Backend<A>,
    },
}

/// The frontend of an address and port.
///
/// # Errors
/// [`Reason::NotService`] where the address is nobody's, [`Reason::NoSuchPort`] where its Service does not have the port.
#[inline(always)]
pub fn find<A: Ip, T: Tables<A>>(tables: &T, addr: A, port: Be16, proto: u8) -> Result<Frontend, Reason> {
    let found = tables.frontend(&FrontendKey::new(addr, port, proto));
    found.ok_or_else(|| match tables.frontend(&FrontendKey::whole(addr)) {
        Some(_) => Reason::NoSuchPort,
        None => Reason::NotService,
    })
}

/// Whether a client may call a frontend at all.
#[inline(always)]
pub fn admits<A: Ip, T: Tables<A>>(tables: &T, frontend: &Frontend, client: A) -> bool {
    frontend.flags & frontend::SOURCE_RANGES == 0 || tables.in_source_range(frontend.service, client)
}

/// The backend for a client's new flow: the one that it was led to before, where the Service asks for that, else the one
/// in the slot that its hash chooses.
#[inline(always)]
pub fn choose<A: Ip, T: Tables<A>>(tables: &mut T, frontend: &Frontend, client: &Client<A>) -> Choice<A> {
    if !admits(tables, frontend, client.addr) {
        return Choice::Drop(Reason::SourceRange);
    }
    let table = frontend.table(client.origin);
    if table.len == 0 {
        return match frontend.is_elsewhere(client.origin) {
            true => Choice::Drop(Reason::NoLocalEndpoints),
            false => Choice::Refuse(Reason::NoEndpoints),
        };
    }
    let sticky = frontend.affinity != 0;
    let known = if sticky { known(tables, frontend, client) } else { None };
    let of = |id| Some((id, tables.backend(id)?));
    let chosen = known.and_then(of).or_else(|| tables.slot(table.at + client.hash % table.len).and_then(of));
    let Some((id, backend)) = chosen else { return Choice::Drop(Reason::NoBackend) };
    if sticky {
        stay(tables, frontend, client, id);
    }
    Choice::Backend { id, backend }
}

/// Id of the backend that a client was led to, if that is not too long ago.
#[inline(always)]
fn known<A: Ip, T: Tables<A>>(tables: &T, frontend: &Frontend, client: &Client<A>) -> Option<u32> {
    let Affinity { backend, seen } =
        tables.affinity(&AffinityKey { client: client.addr, service: frontend.stay(client.origin) })?;
    // The clocks of two CPUs may differ by a moment.
    (client.now.saturating_sub(seen) <= frontend.affinity).then_some(backend)
}

/// Remembers where a client was led to, and when.
#[inline(always)]
fn stay<A: Ip, T: Tables<A>>(tables: &mut T, frontend: &Frontend, client: &Client<A>, backend: u32) {
    let key = AffinityKey { client: client.addr, service: frontend.stay(client.origin) };
    tables.set_affinity(&key, &Affinity { backend, seen: client.now });
}
