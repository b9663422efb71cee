//! Takes numbers over from maps that another agent left: so a restart with unchanged input writes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use lb_common::ip::{V4, V6};
use lb_common::maglev;
use lb_common::mem::Image;
use lb_common::tables::Frontend;

use super::{Compiled, Compiler, Limits};
use crate::ids::Rest;

impl Compiler {
    /// For maps that have entries: their numbers are kept for what they stand for now.
    ///
    /// Its image has the names and backends of `actual`, which nobody uses yet and which therefore rest before they
    /// go; and no frontends. Places of tables that the last agent had just given up are unknown, and free: a packet is
    /// through long before a process has started. Compile all Services, then compare the image with `actual`.
    pub fn recover(limits: Limits, rest: Rest, actual: &Image) -> Self {
        let mut this = Self::new(limits, rest);
        this.draft.set_config(actual.config);
        for (id, name) in &actual.names {
            if this.names.recover(*id, *name) {
                this.draft.put_name(*id, *name);
            }
        }
        this.recover_half::<V4>(actual);
        this.recover_half::<V6>(actual);
        this
    }

    fn recover_half<A: Compiled>(&mut self, actual: &Image) {
        let side = A::side(actual);
        for (id, backend) in &side.backends {
            if A::half(&mut self.halves).backends.recover(*id, *backend) {
                self.draft.put_backend(*id, *backend);
            }
        }
        // Frontends that share a table share its place: each place once.
        let mut places = HashMap::new();
        for table in side.frontends.values().flat_map(Frontend::tables) {
            let len: &mut u32 = places.entry(table.at).or_default();
            *len = table.len.max(*len);
        }
        let mut places: Vec<_> = places.into_iter().collect();
        places.sort_unstable();
        for (at, len) in places {
            let set = self.set_of::<A>(actual, at, len);
            if !set.is_some_and(|set| self.runs.recover(A::FAMILY, &set, at, len)) {
                self.runs.avoid(at, len);
            }
        }
    }

    /// The set of backends of a table, in the order of their addresses; none where the table makes no sense.
    fn set_of<A: Compiled>(&self, actual: &Image, at: u32, len: u32) -> Option<Arc<[u32]>> {
        let slots = actual.runs.get(&at).filter(|slots| slots.len() == len as usize)?;
        let known = &A::side(self.draft.image()).backends;
        let mut set = Vec::with_capacity(slots.ids().len());
        for id in slots.ids() {
            set.push((*known.get(id)?, *id));
        }
        set.sort_unstable();
        (maglev::table_len(set.len() as u32) == len).then(|| set.into_iter().map(|(_, id)| id).collect())
    }
}
