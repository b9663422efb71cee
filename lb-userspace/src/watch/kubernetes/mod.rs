//! The Kubernetes API as a source: Services, EndpointSlices, Nodes and ServiceCIDRs. The types of kube end here.
//!
//! ```text
//! servers ◄─ door ◄─ watcher ◄─ follow ─┐   one of each kind
//!             │         objects ────────┼─► news, batched ─► messages
//!             └─ answered? ─► line ─────┘   faults ─► problems, health
//! ```

mod access;
mod events;
mod follow;
mod hub;
mod line;
mod object;
mod servers;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub use access::{Access, AccessError};
pub use events::Events;
pub use servers::Servers;

use super::{EndpointSliceManifest, Event, Feed, Health, NodeManifest, Problem, ServiceCidrManifest, ServiceManifest};
use follow::follow;
use hub::Hub;

/// Messages that may wait for the reconciler: what comes after becomes one.
const QUEUE: usize = 1;
/// What may wait to become part of a message.
const BATCH: usize = 1024;

/// What the tasks of the kinds have to say.
#[derive(Debug)]
enum Heard {
    /// What became of an object.
    News(Event),
    /// The objects of a kind that make no sense, all of them.
    Refused(&'static str, Vec<Problem>),
    /// A server answers for this kind.
    Well(&'static str),
    /// None does, and why.
    Failed(&'static str, String),
}

/// Follows the API for as long as anybody listens.
pub fn watch(servers: &Arc<Servers>) -> Feed {
    let (messages, receiver) = mpsc::channel(QUEUE);
    let (out, heard) = mpsc::channel(BATCH);
    let source = servers.in_use().to_owned();
    let (health, health_receiver) = watch::channel(Health { source, ..Health::default() });
    tokio::spawn(follow::<ServiceManifest>(servers.clone(), out.clone()));
    tokio::spawn(follow::<EndpointSliceManifest>(servers.clone(), out.clone()));
    tokio::spawn(follow::<NodeManifest>(servers.clone(), out.clone()));
    tokio::spawn(follow::<ServiceCidrManifest>(servers.clone(), out));
    let (hub, pulse) = (Hub::new(servers.clone(), messages, health), servers.clone().watch_over());
    tokio::spawn(async move {
        tokio::select! {
            () = hub.run(heard) => {}
            () = pulse => {}
        }
    });
    Feed { messages: receiver, health: health_receiver }
}

#[cfg(test)]
mod tests;
