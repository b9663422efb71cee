//! What a cluster is given: the image in a real container, and the manifests before a real API server.
//!
//! The container and the processes of these tests get what `deploy/kustomize` says, read from it: a capability or a mount
//! that lacks there lacks here.

mod container;
mod containerd;
mod manifests;
mod pod;
mod rbac;
mod rights;
mod takeover;
