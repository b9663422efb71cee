//! The agent of Sluice as a library: from what was declared to what stands in the kernel's maps.
//!
//! ```text
//! watch ─► state (model) ─► compile (endpoints, ids) ─► plan ─► store
//!          └──────────────────── reconcile ────────────────────┘
//! ```
#![deny(unsafe_code)]

pub mod affinity;
pub mod agent;
pub mod bpf;
pub mod cli;
pub mod compile;
pub mod devices;
pub mod diag;
pub mod endpoints;
pub mod flows;
pub mod health;
pub mod http;
pub mod ids;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod reconcile;
pub mod show;
pub mod state;
pub mod store;
pub mod watch;
