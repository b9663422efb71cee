//! How the loop is doing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::compile::{Elsewhere, HealthChecks};
use crate::metrics::StoreErrors;
use crate::model::Cidr;
use crate::state::Changed;
use crate::watch::Problem;

/// How the loop is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The first list of every kind has come in.
    pub ready: bool,
    /// Since when news wait to get into the maps; none where the maps are as they shall be.
    pub behind_since: Option<Instant>,
    /// When the maps were last found or made as they shall be.
    pub in_step_at: Option<Instant>,
    /// When news last came in that have to get into the maps.
    pub news_at: Option<Instant>,
    /// Objects that changed.
    pub changed: Changed,
    /// Of these, those whose change is in the maps.
    pub programmed: Changed,
    /// Rounds that wrote something.
    pub generation: u64,
    /// Entries written in all.
    pub writes: u64,
    /// Entries that someone else had changed, and that were repaired.
    pub repairs: u64,
    /// Reads and writes of maps that failed.
    pub errors: StoreErrors,
    /// Ports of Services whose traffic policy asks for endpoints on this node, where all are elsewhere.
    pub elsewhere: Elsewhere,
    /// What this node tells load balancers.
    pub checks: Arc<HealthChecks>,
    /// What is in each map that fills.
    pub levels: Vec<(&'static str, u64)>,
    /// Why the last round failed; none where it went well.
    pub error: Option<String>,
    /// What is wrong with what was declared: of the sources, then of Services.
    pub problems: Vec<Problem>,
    /// The ranges that virtual IPs are taken from; none as long as they are not known.
    pub service_cidrs: Option<Arc<BTreeSet<Cidr>>>,
    /// Services declared.
    pub services: usize,
    /// Whether this node is being deleted, or about to be, as its Node object says.
    pub node_leaving: bool,
}

impl Status {
    /// Whether more changed since `before` than counters and times, which each write moves on.
    pub fn is_news(&self, before: &Self) -> bool {
        let of = |status: &Self| (status.ready, status.in_step_at.is_some(), status.services, status.repairs);
        of(self) != of(before) || self.error != before.error || self.problems != before.problems
    }
}
