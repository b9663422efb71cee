//! From a virtual address to a backend.

use crate::ip::{Be16, Ip};
use crate::tables::{Backend, Frontend, FrontendKey, Origin, Tables};
use crate::verdict::Reason;

/// What a frontend says to a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<A: Ip> {
    /// The address is nobody's.
    NotService,
    /// Refuse the flow.
    Refuse(Reason),
    /// Say nothing: endpoints are elsewhere, or the tables are about to change and the packet will be sent again.
    Drop(Reason),
    /// This backend.
    Backend {
        /// The frontend that was met.
        frontend: Frontend,
        /// The backend's id.
        id: u32,
        /// The backend.
        backend: Backend<A>,
    },
}

/// Finds the frontend of an address and port, and the backend in the slot of its table that `hash` chooses.
#[inline(always)]
pub fn choose<A: Ip, T: Tables<A>>(tables: &T, addr: A, port: Be16, proto: u8, origin: Origin, hash: u32) -> Choice<A> {
    let Some(found) = tables.frontend(&FrontendKey::new(addr, port, proto)) else {
        return match tables.frontend(&FrontendKey::whole(addr)) {
            Some(_) => Choice::Refuse(Reason::NoSuchPort),
            None => Choice::NotService,
        };
    };
    let table = found.table(origin);
    if table.len == 0 {
        return match found.is_elsewhere(origin) {
            true => Choice::Drop(Reason::NoLocalEndpoints),
            false => Choice::Refuse(Reason::NoEndpoints),
        };
    }
    let slot = tables.slot(table.at + hash % table.len);
    match slot.and_then(|id| Some((id, tables.backend(id)?))) {
        Some((id, backend)) => Choice::Backend { frontend: found, id, backend },
        None => Choice::Drop(Reason::NoBackend),
    }
}
