//! What is wrong, about what, and of which sort.

use std::fmt;

use crate::model::ObjectName;

/// Something that people must know of and repair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// What it is about.
    pub about: About,
    /// Of which sort it is.
    pub reason: Reason,
    /// What is wrong.
    pub message: String,
}

/// What a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// An object of the cluster.
    Object {
        /// Its kind, such as `Service`.
        kind: &'static str,
        /// Its name.
        name: ObjectName,
    },
    /// A file, a device, a server: as people call it.
    Other(String),
}

/// Sorts of problems, as they stand in Events and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A manifest makes no sense, or cannot be read.
    InvalidManifest,
    /// An object of the cluster makes no sense.
    InvalidObject,
    /// Another Service has the virtual IP and port.
    ClusterIpClash,
    /// Another Service has the NodePort, or the port of an address that is no ClusterIP.
    PortClash,
    /// The address cannot be a Service's.
    AddressRefused,
    /// A map is full.
    NoRoom,
    /// The source cannot be read.
    SourceUnavailable,
    /// Programs cannot be attached.
    NotAttached,
    /// A port of the agent's own is taken.
    NotListening,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::InvalidManifest,
        Self::InvalidObject,
        Self::ClusterIpClash,
        Self::PortClash,
        Self::AddressRefused,
        Self::NoRoom,
        Self::SourceUnavailable,
        Self::NotAttached,
        Self::NotListening,
    ];

    /// The word for it, as Kubernetes writes reasons of Events.
    pub const fn label(self) -> &'static str {
        match self {
            Self::InvalidManifest => "InvalidManifest",
            Self::InvalidObject => "InvalidObject",
            Self::ClusterIpClash => "ClusterIPClash",
            Self::PortClash => "PortClash",
            Self::AddressRefused => "AddressRefused",
            Self::NoRoom => "NoRoom",
            Self::SourceUnavailable => "SourceUnavailable",
            Self::NotAttached => "NotAttached",
            Self::NotListening => "NotListening",
        }
    }
}

impl Problem {
    /// Of a manifest.
    pub fn new(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::of(Reason::InvalidManifest, about, message)
    }

    /// Of something that is no object.
    pub fn of(reason: Reason, about: impl Into<String>, message: impl Into<String>) -> Self {
        Self { about: About::Other(about.into()), reason, message: message.into() }
    }

    /// Of an object of the cluster.
    pub fn at(kind: &'static str, name: ObjectName, reason: Reason, message: impl Into<String>) -> Self {
        Self { about: About::Object { kind, name }, reason, message: message.into() }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { kind, name } => write!(f, "{kind} {name}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.message)
    }
}
