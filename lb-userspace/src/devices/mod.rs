//! The devices of this node: which of them carry packets of Services, and what the node's own addresses are; and the one
//! device that is the agent's own. Follows the kernel through netlink; knows nothing of programs.

mod classify;
mod doubted;
mod netlink;
mod service;
mod ways;
mod world;

pub use classify::{Device, Globs, Nodes, Role, Survey, survey};
pub use netlink::{Watcher, watch};
pub use service::{ServiceDevice, ServiceLink, remove_service_devices};
pub use world::{Address, Link, Route, ServiceRoute, World};
