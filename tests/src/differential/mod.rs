//! Sluice beside the real kube-proxy: twin worlds on one API server.

mod api;
mod cluster;

pub use api::{Api, Kind};
pub use cluster::{Backend, Client, Cluster, PORTS, Side, Subject};
