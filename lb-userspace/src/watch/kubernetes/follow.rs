//! One kind of object: listed, watched, and listed anew where that must be.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, Config, watcher};
use tokio::sync::mpsc;
use tracing::debug;

use super::Heard;
use super::line::Line;
use super::object::{Object, Watched};
use super::servers::{Servers, chain, text_of};
use crate::model::ObjectName;
use crate::watch::{Change, Problem, Reason};

/// How often a server is asked again for a kind that it does not know: an upgrade may bring it.
const UNKNOWN_KIND: Duration = Duration::from_secs(300);

/// Follows a kind for as long as anybody listens.
pub(super) async fn follow<W: Watched>(servers: Arc<Servers>, out: mpsc::Sender<Heard>) {
    let line = Arc::new(Line::new(W::KIND, out.clone()));
    let api: Api<Object<W>> = Api::all(servers.client(Some(line.clone())));
    let mut listing = Listing::<W>::default();
    let mut streaming = true;
    while !out.is_closed() {
        let mut events = pin!(watcher(api.clone(), config::<W>(streaming)));
        listing.names = None;
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    line.makes_sense().await;
                    if !listing.tell(event, &out).await {
                        return;
                    }
                    continue;
                }
                Err(error) => error,
            };
            debug!("{}s: {error}", W::KIND);
            let cure = Cure::of(&error, streaming);
            match &cure {
                // The door has told, or the next request will.
                Cure::Again | Cure::Anew(None) | Cure::Pages => {}
                Cure::Wait(_) if W::OPTIONAL && is_unknown(&error) => {
                    line.makes_sense().await;
                    let none = W::event(Change::Listed(HashSet::new()));
                    if out.send(Heard::News(none)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(UNKNOWN_KIND).await;
                    continue;
                }
                Cure::Wait(why) => line.failed(format!("{}: {why}", W::PLURAL)).await,
                Cure::Anew(Some(why)) => line.makes_no_sense(format!("{}: {why}", W::PLURAL)).await,
            }
            line.pause().await;
            match cure {
                Cure::Again | Cure::Wait(_) => {}
                Cure::Anew(_) => break,
                Cure::Pages => {
                    streaming = false;
                    break;
                }
            }
        }
    }
}

fn config<W: Watched>(streaming: bool) -> Config {
    let config = Config { label_selector: W::LABELS.map(ToOwned::to_owned), ..Config::default() };
    if streaming { config.streaming_lists() } else { config }
}

/// What helps against an error.
#[derive(Debug, PartialEq, Eq)]
enum Cure {
    /// The next request.
    Again,
    /// That the server, or its people, change their mind. Why it refuses.
    Wait(String),
    /// A new list. Why what came made no sense, where that is why.
    Anew(Option<String>),
    /// Lists in pages: this server has no streaming ones.
    Pages,
}

/// The status that a server answered with.
fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) => Some(status),
        WatchFailed(kube::Error::Api(status)) | WatchError(status) => Some(status),
        InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) | NoResourceVersion => None,
    }
}

fn is_unknown(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

impl Cure {
    /// `streaming`: whether lists are asked for that stream.
    fn of(error: &watcher::Error, streaming: bool) -> Self {
        use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
        match (error, status(error).map(|status| status.code)) {
            // The version that a watch went on from is too old by now.
            (_, Some(410)) => Self::Anew(None),
            (WatchStartFailed(_), Some(400 | 422)) if streaming => Self::Pages,
            (InitialListFailed(_) | WatchStartFailed(_), Some(_)) => Self::Wait(why(error)),
            (InitialListFailed(error) | WatchStartFailed(error), None) => match error {
                kube::Error::Service(_) => Self::Again,
                error => Self::Anew(Some(text_of(error))),
            },
            // The connection broke.
            (WatchFailed(kube::Error::ReadEvents(_) | kube::Error::HyperError(_)), None) => Self::Again,
            (WatchError(_) | WatchFailed(_) | NoResourceVersion, _) => Self::Anew(Some(why(error))),
        }
    }
}

fn why(error: &watcher::Error) -> String {
    match status(error) {
        Some(status) => format!("{} {}", status.code, status.message),
        None => chain(error),
    }
}

/// What is known of a kind's objects between two lists.
struct Listing<W> {
    /// Names that the list has shown so far; none while no list comes in.
    names: Option<HashSet<ObjectName>>,
    refused: BTreeMap<ObjectName, Problem>,
    /// Whether that has changed since it was told.
    changed: bool,
    kind: std::marker::PhantomData<fn() -> W>,
}

impl<W> Default for Listing<W> {
    fn default() -> Self {
        Self { names: None, refused: BTreeMap::new(), changed: false, kind: std::marker::PhantomData }
    }
}

impl<W: Watched> Listing<W> {
    /// Tells what an event says; whether anybody listens.
    async fn tell(&mut self, event: watcher::Event<Object<W>>, out: &mpsc::Sender<Heard>) -> bool {
        let change = self.take(event);
        let mut heard = true;
        if let Some(change) = change {
            heard &= out.send(Heard::News(W::event(change))).await.is_ok();
        }
        if std::mem::take(&mut self.changed) {
            let all = self.refused.values().cloned().collect();
            heard &= out.send(Heard::Refused(W::KIND, all)).await.is_ok();
        }
        heard
    }

    fn take(&mut self, event: watcher::Event<Object<W>>) -> Option<Change<W::Model>> {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match event {
            Init => {
                self.names = Some(HashSet::new());
                None
            }
            InitApply(object) | Apply(object) => {
                let name = object.name();
                match object.body {
                    Ok(Some((_, model))) => {
                        self.changed |= self.refused.remove(&name).is_some();
                        self.list(name);
                        Some(Change::Apply(model))
                    }
                    Ok(None) => {
                        self.changed |= self.refused.remove(&name).is_some();
                        Some(Change::Delete(name))
                    }
                    Err(invalid) => {
                        let message = format!("{invalid}; what was known of it stays in force");
                        let problem = Problem::at(W::KIND, name.clone(), Reason::InvalidObject, message);
                        self.changed |= self.refused.get(&name) != Some(&problem);
                        self.refused.insert(name.clone(), problem);
                        self.list(name);
                        None
                    }
                }
            }
            Delete(object) => {
                let name = object.name();
                self.changed |= self.refused.remove(&name).is_some();
                Some(Change::Delete(name))
            }
            InitDone => {
                let names = self.names.take()?;
                let before = self.refused.len();
                self.refused.retain(|name, _| names.contains(name));
                self.changed |= self.refused.len() != before;
                Some(Change::Listed(names))
            }
        }
    }

    fn list(&mut self, name: ObjectName) {
        if let Some(names) = &mut self.names {
            names.insert(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refusal(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("no", "Some").with_code(code).boxed())
    }

    #[test]
    fn each_error_has_its_cure() {
        use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
        let nonsense = || kube::Error::SerdeError(serde_json::from_str::<u8>("<html>").unwrap_err());
        let unreachable = || kube::Error::Service("refused".into());
        let broken = || kube::Error::ReadEvents(std::io::ErrorKind::ConnectionReset.into());
        let rows = [
            ("too old", WatchStartFailed(refusal(410)), false, "Anew(None)"),
            ("too old", WatchError(Status::failure("", "Expired").with_code(410).boxed()), false, "Anew(None)"),
            ("no streaming lists", WatchStartFailed(refusal(422)), true, "Pages"),
            ("no streaming lists", WatchStartFailed(refusal(400)), true, "Pages"),
            ("a watch that is refused", WatchStartFailed(refusal(400)), false, "Wait(\"400 no\")"),
            ("no rights", WatchStartFailed(refusal(403)), true, "Wait(\"403 no\")"),
            ("no rights", InitialListFailed(refusal(401)), false, "Wait(\"401 no\")"),
            ("nobody there", WatchStartFailed(unreachable()), true, "Again"),
            ("nobody there", InitialListFailed(unreachable()), false, "Again"),
            ("the connection broke", WatchFailed(broken()), false, "Again"),
            ("HTML", InitialListFailed(nonsense()), false, "Anew(Some(\"Error deserializing"),
            ("HTML", WatchFailed(nonsense()), false, "Anew(Some(\"watch stream failed: Error deserializing"),
            ("an error amid a watch", WatchFailed(refusal(500)), false, "Anew(Some(\"500 no\"))"),
            ("an object without a version", NoResourceVersion, false, "Anew(Some(\"no metadata.resourceVersion"),
        ];
        for (what, error, streaming, expected) in rows {
            let cure = format!("{:?}", Cure::of(&error, streaming));
            assert!(cure.starts_with(expected), "{what}: {cure}");
        }
    }
}
