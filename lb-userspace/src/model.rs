//! What people declared, as plain values: Services, EndpointSlices, Nodes.
//!
//! Knows no Kubernetes types, no tables and no I/O. Holds only what a decision needs, since a node keeps every
//! Service of its cluster in memory.

mod cidr;
mod service;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use lb_common::ip::Family;

pub use cidr::{Cidr, NoCidr};
pub use service::{Protocol, Service, ServicePort, ServiceType, SourceRanges, TargetPort, TrafficPolicy};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace; empty for objects without one.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// From its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{}", self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service port that it belongs to.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number at the pod.
    pub port: u16,
}

/// Whom an endpoint should serve, as its slice's author sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Nodes.
    pub nodes: Vec<Arc<str>>,
    /// Zones.
    pub zones: Vec<Arc<str>>,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address; Kubernetes' consumers use the first one only.
    pub address: IpAddr,
    /// It takes new connections.
    pub ready: bool,
    /// It would, were it not for its going away.
    pub serving: bool,
    /// It is going away.
    pub terminating: bool,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// Whom it should serve, where somebody said so.
    pub hints: Option<Box<Hints>>,
}

/// A part of a Service's endpoints, all of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The Service it belongs to, in the same namespace.
    pub service: Arc<str>,
    /// The family of its addresses.
    pub family: Family,
    /// Its ports, for each endpoint alike.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// What made its author write it.
    pub trigger: Trigger,
}

/// When the pod or Service changed because of which a slice was written, as its author says
/// (`endpoints.kubernetes.io/last-change-trigger-time`): what programming latency is counted from.
///
/// It is no part of what a slice says: any two are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trigger(pub Option<SystemTime>);

impl PartialEq for Trigger {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Trigger {}

impl EndpointSlice {
    /// The full name of the Service it belongs to.
    pub fn owner(&self) -> ObjectName {
        ObjectName { namespace: self.name.namespace.clone(), name: self.service.clone() }
    }
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: ObjectName,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Its addresses inside the cluster.
    pub addresses: Vec<IpAddr>,
    /// Its addresses outside of it.
    pub external: Vec<IpAddr>,
    /// Where the addresses of its pods are from.
    pub pod_cidrs: Vec<Cidr>,
    /// Whether it is being deleted, or is to be by the cluster's autoscaler.
    pub leaving: bool,
}

impl Node {
    /// A node of which nothing else is known.
    pub fn new(name: ObjectName) -> Self {
        Self { name, zone: None, addresses: vec![], external: vec![], pod_cidrs: vec![], leaving: false }
    }
}

/// A range that virtual IPs are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name.
    pub name: ObjectName,
    /// One range of each family.
    pub cidrs: Vec<Cidr>,
}
