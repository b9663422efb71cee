//! The lab, the integration tests on it (folder `tests/`), and the demo.
//!
//! The lab is a small world of network namespaces: a node, pods, a client outside. It owns every device, namespace,
//! cgroup and mount it uses, and removes them. It knows Sluice only as a binary and its command line: what the
//! tests see is what a user sees.

pub mod bench;
pub mod demo;
pub mod differential;
pub mod fuzz;
pub mod kernel;
pub mod lab;
pub mod packets;
pub mod plane;
pub mod routes;
