//! What Prometheus scrapes: the names that kube-proxy's users already graph, and our own, `sluice_…`.
//!
//! Counts and levels are read when they are asked for, from a [`Snapshot`] that costs a few system calls; nothing here
//! walks a table of flows. Only what a level cannot say is collected as it happens: [`Programming`] and [`Probes`].

mod agent;
mod kube_proxy;
mod probes;
mod process;
mod programming;
mod rows;
mod traffic;

use std::fmt;

use jiff::Timestamp;
use lb_common::verdict::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use crate::bpf::{Attachment, Fill};
use crate::compile::Elsewhere;
use crate::health::Progress;
use crate::show::TrafficRow;
use crate::store::StoreError;

pub use probes::Probes;
pub use programming::Programming;

/// The media type of what [`Metrics::render`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counts and levels of the agent, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Of the maps of IPv4, and of IPv6.
    pub progress: [Progress; 2],
    /// When news last came in that have to get into the maps.
    pub last_news: Option<Timestamp>,
    /// Services that changed.
    pub services: Changed,
    /// EndpointSlices that changed.
    pub endpoint_slices: Changed,
    /// Ports of Services whose traffic policy asks for endpoints on this node, where all are elsewhere.
    pub no_local_endpoints: Elsewhere,
    /// Whether the maps are complete, and programs attached.
    pub ready: bool,
    /// Services that are declared.
    pub declared: usize,
    /// Entries of maps that were written.
    pub writes: u64,
    /// What others had changed or detached, by what it was.
    pub repairs: Repairs,
    /// Reads and writes of maps that failed.
    pub store_errors: StoreErrors,
    /// How full the maps are.
    pub fill: Vec<Fill>,
    /// Programs at devices.
    pub attachments: Vec<Attachment>,
    /// Programs at sockets.
    pub socket_programs: usize,
    /// What is wrong with what was declared, or with devices, by sort.
    pub problems: Vec<(&'static str, u64)>,
    /// Whether the source can be read.
    pub source_well: bool,
    /// How often the source could be read again after a fault.
    pub source_recoveries: u64,
    /// Packets by what became of them.
    pub packets: Vec<(Reason, u64)>,
    /// What Service ports have carried, where that is asked for.
    pub traffic: Vec<TrafficRow>,
}

/// Objects of one kind that changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Since the agent started.
    pub total: u64,
    /// Of these, those that are not in the maps yet.
    pub pending: u64,
}

/// What others had changed, and was put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Entries of maps.
    pub entries: u64,
    /// Programs at devices.
    pub devices: u64,
    /// Programs at sockets.
    pub sockets: u64,
}

impl Repairs {
    /// All together.
    pub fn all(self) -> u64 {
        self.entries + self.devices + self.sockets
    }
}

/// Failures at maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreErrors {
    /// An entry had no room.
    pub full: u64,
    /// A map could not be read.
    pub read: u64,
    /// An entry could not be written.
    pub write: u64,
}

impl StoreErrors {
    /// One more.
    pub fn count(&mut self, error: &StoreError) {
        *match error {
            StoreError::Full { .. } => &mut self.full,
            StoreError::Read { .. } => &mut self.read,
            StoreError::Write { .. } => &mut self.write,
        } += 1;
    }
}

/// All metrics of an agent.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Those that are collected as it happens, and those that `look` finds when it is asked.
    pub fn new(
        programming: &Programming,
        probes: &Probes,
        look: impl Fn() -> Snapshot + Send + Sync + 'static,
    ) -> Self {
        let mut registry = Registry::default();
        programming.register(&mut registry);
        probes.register(&mut registry);
        agent::register_build(&mut registry);
        registry.register_collector(Box::new(Look(look)));
        registry.register_collector(Box::new(process::Process));
        Self(registry)
    }

    /// All of them now, in the text format of OpenMetrics 1.0.
    ///
    /// # Errors
    /// None that a string could have.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

struct Look<F>(F);

impl<F> fmt::Debug for Look<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").finish_non_exhaustive()
    }
}

impl<F: Fn() -> Snapshot + Send + Sync + 'static> Collector for Look<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (snapshot, mut rows) = ((self.0)(), rows::Rows(encoder));
        kube_proxy::encode(&snapshot, &mut rows)?;
        agent::encode(&snapshot, &mut rows)?;
        traffic::encode(&snapshot.traffic, &mut rows)
    }
}

#[cfg(test)]
mod tests;
