//! Sources of what was declared: manifests in a folder, or the Kubernetes API. They yield [`Message`]s of plain
//! [`crate::model`] values. Kubernetes' own types end here; nothing here knows of tables.

mod endpoint_slice;
mod external;
mod fields;
pub mod files;
pub mod kubernetes;
mod node;
mod object;
pub mod pod;
mod problem;
pub mod select;
mod service;
mod service_cidr;

use std::collections::HashSet;
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, watch};

use crate::model::{EndpointSlice, Node, ObjectName, Service, ServiceCidr};

pub use endpoint_slice::EndpointSlice as EndpointSliceManifest;
pub use fields::{Invalid, Metadata};
pub use node::Node as NodeManifest;
pub use problem::{About, Problem, Reason};
pub use service::Service as ServiceManifest;
pub use service_cidr::ServiceCidr as ServiceCidrManifest;

/// What became of objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// It is new, or no longer what it was.
    Apply(T),
    /// It is gone.
    Delete(ObjectName),
    /// These are all there are: what is not among them is gone.
    Reset(Vec<T>),
    /// All there are have these names. What they are was told before, one by one; of one that was not, or that makes no
    /// sense, the last good state stays.
    Listed(HashSet<ObjectName>),
}

/// News of one kind of object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Of Services.
    Service(Change<Service>),
    /// Of EndpointSlices.
    EndpointSlice(Change<EndpointSlice>),
    /// Of Nodes.
    Node(Change<Node>),
    /// Of ServiceCIDRs.
    ServiceCidr(Change<ServiceCidr>),
}

/// A source at work. It ends when its messages are dropped.
#[derive(Debug)]
pub struct Feed {
    /// What it has to say.
    pub messages: mpsc::Receiver<Arrived>,
    /// How it is doing.
    pub health: watch::Receiver<Health>,
}

/// How a source is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Where it learns what is declared: a folder, or the server in use.
    pub source: String,
    /// Why it learns nothing now; none where all is well.
    pub fault: Option<String>,
    /// Since when it is so; none as long as it tries for the first time.
    pub since: Option<SystemTime>,
    /// How often it was well again after a fault.
    pub recoveries: u64,
}

/// What a source sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// News that belong together: they take effect at once.
    Events(Vec<Event>),
    /// All that is wrong with the source now. An empty list says that it is well again.
    Problems(Vec<Problem>),
}

impl Message {
    /// This message, come in now.
    pub fn now(self) -> Arrived {
        Arrived { at: Instant::now(), message: self }
    }
}

/// A message, and when it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// When the source had it.
    pub at: Instant,
    /// What it says.
    pub message: Message,
}
