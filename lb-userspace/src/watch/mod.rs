//! Sources of what was declared: manifests in a folder, later the Kubernetes API. They yield [`Message`]s of plain
//! [`crate::model`] values. Kubernetes' own types end here; nothing here knows of tables.

mod endpoint_slice;
mod fields;
pub mod files;
mod node;
mod object;
pub mod pod;
pub mod select;
mod service;

use std::fmt;
use std::time::Instant;

use crate::model::{EndpointSlice, Node, ObjectName, Service};

pub use endpoint_slice::EndpointSlice as EndpointSliceManifest;
pub use fields::{Invalid, Metadata};
pub use node::Node as NodeManifest;
pub use service::Service as ServiceManifest;

/// What became of objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// It is new, or no longer what it was.
    Apply(T),
    /// It is gone.
    Delete(ObjectName),
    /// These are all there are: what is not among them is gone.
    Reset(Vec<T>),
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

/// Something that people must know of and repair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// What it is about: an object or a file.
    pub about: String,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    /// From its two parts.
    pub fn new(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self { about: about.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.message)
    }
}
