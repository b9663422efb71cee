//! Events on objects that could not be programmed, as `kubectl describe` shows them. They are news for people: what
//! cannot be posted is dropped, and nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, ObjectList};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tracing::debug;

use super::Servers;
use crate::model::ObjectName;
use crate::watch::{About, Problem};

/// Problems that may wait to be posted.
const QUEUE: usize = 64;
/// The least time between two: each node has an agent that may post the same.
const PAUSE: Duration = Duration::from_secs(1);

/// Where to hand in problems.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Problem>);

impl Events {
    /// Posts for as long as anybody hands in something.
    pub fn new(servers: &Arc<Servers>, node: &str) -> Self {
        let (sender, mut problems) = mpsc::channel::<Problem>(QUEUE);
        let client = servers.client(None);
        let reporter = Reporter { controller: "sluice".to_owned(), instance: Some(node.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        tokio::spawn(async move {
            while let Some(problem) = problems.recv().await {
                if let Err(error) = post(&client, &recorder, &problem).await {
                    debug!("cannot post an Event on {}: {error}", problem.about);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self(sender)
    }

    /// Posts a problem of an object some time soon. While too many wait, it is dropped.
    pub fn post(&self, problem: &Problem) {
        if matches!(problem.about, About::Object { .. }) && self.0.try_send(problem.clone()).is_err() {
            debug!("too many Events wait: none is posted on {}", problem.about);
        }
    }
}

async fn post(client: &Client, recorder: &Recorder, problem: &Problem) -> kube::Result<()> {
    let About::Object { kind, name } = &problem.about else { return Ok(()) };
    let Some(object) = reference(client, kind, name).await? else { return Ok(()) };
    let event = Event {
        type_: EventType::Warning,
        reason: problem.reason.label().to_owned(),
        note: Some(problem.message.clone()),
        action: "Programming".to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &object).await
}

/// The object as it is now: who looks for Events of an object looks by its uid. None where it is gone. Listed, not got:
/// that needs no further right.
async fn reference(client: &Client, kind: &str, name: &ObjectName) -> kube::Result<Option<ObjectReference>> {
    let ObjectName { namespace, name } = name;
    let (client, only) = (client.clone(), ListParams::default().fields(&format!("metadata.name={name}")));
    Ok(match kind {
        "Service" => found(Api::<Service>::namespaced(client, namespace).list_metadata(&only).await?),
        "EndpointSlice" => found(Api::<EndpointSlice>::namespaced(client, namespace).list_metadata(&only).await?),
        "Node" => found(Api::<Node>::all(client).list_metadata(&only).await?),
        _ => None,
    })
}

fn found<K: Resource<DynamicType = ()> + Clone>(objects: ObjectList<PartialObjectMeta<K>>) -> Option<ObjectReference> {
    let meta = objects.items.into_iter().next()?.metadata;
    Some(ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace,
        name: meta.name,
        uid: meta.uid,
        ..ObjectReference::default()
    })
}
