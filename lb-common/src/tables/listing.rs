//! What the agent asks of the programs that look into the tables of flows for it, and what these answer: a "packet" that
//! begins with a [`Head`], and then has entries of flows.
//!
//! The agent could map the tables into its memory. But each page of them would cost it half a microsecond and count as its
//! own, and a table that is empty has as many as one that is full.

use super::{Entry, Flow, FlowKey};
use crate::flow::table::{Memory, Snapshot};
use crate::ip::Ip;

/// The programs, by family: one lists entries, the other looks for some of them.
pub const PROGRAMS: [[&str; 2]; 2] = [["list_v4", "seek_v4"], ["list_v6", "seek_v6"]];
/// The programs that move entries from a table to the larger one that takes its place, by family.
pub const MOVERS: [&str; 2] = ["move_v4", "move_v6"];
/// Entries that a program has moved when it ends its run, or a few more.
pub const MOVES: u32 = 128;
/// Buckets that a program which lists looks into in one run, at most: its CPU handles no packets meanwhile.
pub const BUCKETS: u32 = 64 * 64;
/// Entries that a program looks for in one run, at most.
pub const SOUGHT: u32 = 256;

entry! {
    /// What the entries behind it are.
    pub struct Head {
        /// For a program that lists: the first bucket to be looked into, in the order of
        /// [`in_turn`](crate::flow::table::in_turn); its answer, the first that was not. For one that moves
        /// entries the same, counted from the first bucket of the table that they are moved from.
        pub bucket: u32,
        /// Entries behind this. A program that lists finds as many as there is room for. The answer of one that moves entries
        /// has none behind this: so many have moved.
        pub entries: u32,
        /// For one that looks for entries: whether they are to be removed. The answer of one that moves them: how many it could
        /// not move now, since another CPU was at their buckets, or there was no room.
        pub removes: u32,
        /// Of the answer of a program that lists: how many buckets there are.
        pub buckets: u32,
    }
}

impl Head {
    /// About nothing.
    pub const EMPTY: Self = Self { bucket: 0, entries: 0, removes: 0, buckets: 0 };
}

entry! {
    /// An entry of a flow, found or looked for.
    pub struct Listed<A: Ip> {
        /// Its key.
        pub key: FlowKey<A>,
        /// The rest of it.
        pub flow: Flow<A>,
        /// Whether it was found or, where it was to be removed, whether it was.
        pub found: u32,
        /// Always 0.
        pub zero: u32,
    }
}

impl<A: Ip> Listed<A> {
    /// One that is found, or looked for.
    #[inline(always)]
    pub const fn new(key: FlowKey<A>, flow: Flow<A>, found: bool) -> Self {
        Self { key, flow, found: found as u32, zero: 0 }
    }

    /// Answers with the `entry` of this key. One that `removes` takes it away, but only as it was known: it may have had a
    /// packet since, and a new flow may have the same addresses and ports.
    #[inline(always)]
    pub fn answer<M: Memory>(&mut self, memory: &M, entry: Option<&mut Snapshot<A>>, removes: bool) {
        self.found = 0;
        let Some(entry) = entry else { return };
        if !removes {
            self.flow.copy(&entry.flow);
            self.found = 1;
        } else if entry.flow.seen == self.flow.seen && entry.flow.state == self.flow.state {
            // The packet path may be first: then there is nothing to remove.
            self.found = entry.remove(memory).into();
        }
    }
}
