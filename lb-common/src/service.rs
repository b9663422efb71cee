//! From a virtual address to a backend.

use crate::ip::{Be16, Ip};
use crate::tables::{Backend, Frontend, FrontendKey, Tables};
use crate::verdict::Reason;

/// What a frontend says to a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<A: Ip> {
    /// The address is nobody's.
    NotService,
    /// Refuse the flow.
    Refuse(Reason),
    /// The tables are about to change; the packet will be sent again.
    Lost(Reason),
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
pub fn choose<A: Ip, T: Tables<A>>(tables: &T, addr: A, port: Be16, proto: u8, hash: u32) -> Choice<A> {
    let Some(frontend) = tables.frontend(&FrontendKey::new(addr, port, proto)) else {
        return match tables.frontend(&FrontendKey::whole(addr)) {
            Some(_) => Choice::Refuse(Reason::NoSuchPort),
            None => Choice::NotService,
        };
    };
    if frontend.len == 0 {
        return Choice::Refuse(Reason::NoEndpoints);
    }
    let found = tables.slot(frontend.slots + hash % frontend.len).and_then(|id| Some((id, tables.backend(id)?)));
    match found {
        Some((id, backend)) => Choice::Backend { frontend, id, backend },
        None => Choice::Lost(Reason::NoBackend),
    }
}
