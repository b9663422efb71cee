//! Sluice beside the real kube-proxy: twin worlds on one API server, with random Services, random changes, and the same
//! questions to both. Who answers, who is refused, who hears nothing, and as whom the backend sees the client must be
//! the same, but for what [`ALLOWANCES`] lists. So must be what becomes of connections and sockets from before a change,
//! and clients with session affinity stay in each world with whom they have.

mod affinity;
mod allowed;
mod api;
mod cluster;
mod compare;
mod generate;
mod lasting;
mod model;
mod question;
mod report;
mod run;
mod serving;

pub use allowed::{ALLOWANCES, Allowance};
pub use api::{Api, Kind};
pub use cluster::{Backend, Client, Cluster, PORTS, Side, Subject};
pub use generate::Feature;
pub use question::Frontend;
pub use report::{Finding, Report};
pub use run::{Options, run};

/// What Sluice knows, so what clusters make use of. The one place to widen as it learns.
pub const FEATURES: &[Feature] = &Feature::ALL;
