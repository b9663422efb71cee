//! From backends to their ids and their Maglev table, and back.

use std::sync::Arc;

use lb_common::maglev::{self, Candidate};
use lb_common::mem::Slots;
use lb_common::tables::{Backend, Table};

use super::{Compiled, Compiler};

/// Backends that a port leads to.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    /// Their ids, in the order of their addresses and ports.
    set: Arc<[u32]>,
    /// Their table.
    pub(super) table: Table,
}

/// A map is full.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoRoom {
    #[error("no room for its {wanted} backends: all {capacity} are taken; enlarge --max-backends")]
    Backends { wanted: usize, capacity: u32 },
    #[error("no room for a table of {wanted} slots among {capacity}; enlarge --max-slots")]
    Slots { wanted: u32, capacity: u32 },
}

impl Compiler {
    /// Ids and a table for backends, sorted and each once.
    pub(super) fn acquire<A: Compiled>(&mut self, backends: &[Backend<A>]) -> Result<Bound, NoRoom> {
        let set = self.acquire_ids(backends)?;
        self.acquire_run(backends, &set).inspect_err(|_| self.release_ids(backends))
    }

    /// One more user for what is in use already.
    pub(super) fn acquire_again<A: Compiled>(&mut self, bound: &Bound) -> Result<Bound, NoRoom> {
        let backends = self.backends_of::<A>(bound);
        self.acquire(&backends)
    }

    /// One user less.
    pub(super) fn release<A: Compiled>(&mut self, bound: &Bound) {
        let backends = self.backends_of::<A>(bound);
        if let Some(at) = self.runs.release(A::FAMILY, &bound.set) {
            self.draft.remove_run(at);
        }
        self.release_ids(&backends);
    }

    fn backends_of<A: Compiled>(&self, bound: &Bound) -> Vec<Backend<A>> {
        let known = &A::side(self.draft.image()).backends;
        bound.set.iter().filter_map(|id| known.get(id).copied()).collect()
    }

    fn acquire_ids<A: Compiled>(&mut self, backends: &[Backend<A>]) -> Result<Arc<[u32]>, NoRoom> {
        let mut set = Vec::with_capacity(backends.len());
        for backend in backends {
            match A::half(&mut self.halves).backends.acquire(backend) {
                Ok(id) => {
                    set.push(id);
                    self.draft.put_backend(id, *backend);
                }
                Err(full) => {
                    self.release_ids(&backends[..set.len()]);
                    return Err(NoRoom::Backends { wanted: backends.len(), capacity: full.capacity });
                }
            }
        }
        Ok(set.into())
    }

    fn release_ids<A: Compiled>(&mut self, backends: &[Backend<A>]) {
        let pool = &mut A::half(&mut self.halves).backends;
        backends.iter().for_each(|backend| pool.release(backend));
    }

    fn acquire_run<A: Compiled>(&mut self, backends: &[Backend<A>], set: &Arc<[u32]>) -> Result<Bound, NoRoom> {
        let len = maglev::table_len(set.len() as u32);
        if len == 0 {
            return Ok(Bound { set: set.clone(), table: Table::EMPTY });
        }
        let run = self
            .runs
            .acquire(A::FAMILY, set, len, || table(backends, set, len))
            .map_err(|full| NoRoom::Slots { wanted: len, capacity: full.capacity })?;
        self.draft.put_run(run.at, run.slots);
        Ok(Bound { set: set.clone(), table: Table { at: run.at, len } })
    }
}

fn table<A: Compiled>(backends: &[Backend<A>], set: &[u32], len: u32) -> Slots {
    let of = |(backend, id): (&Backend<A>, &u32)| Candidate::new(*id, &backend.addr, backend.port, len);
    let mut candidates: Vec<_> = backends.iter().zip(set).map(of).collect();
    let mut slots = vec![0; len as usize];
    maglev::fill(&mut candidates, &mut slots);
    slots.into()
}
