//! The devices of this node: which of them carry packets of Services, and what the node's own addresses are. Follows
//! the kernel through netlink; knows nothing of programs.

mod classify;
mod netlink;
mod world;

pub use classify::{Device, Globs, Nodes, Role, Survey, survey};
pub use netlink::{Watcher, watch};
pub use world::{Address, Link, Route, World};
