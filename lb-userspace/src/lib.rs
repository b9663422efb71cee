//! The agent of Sluice as a library: from what was declared to what stands in the kernel's maps.
//!
//! ```text
//! watch ─► state (model) ─► compile (endpoints, ids) ─► plan ─► store
//!          └──────────────────── reconcile ────────────────────┘
//! ```
#![deny(unsafe_code)]

pub mod endpoints;
pub mod model;
pub mod plan;
pub mod state;
pub mod store;
pub mod watch;
