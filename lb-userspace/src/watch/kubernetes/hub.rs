//! Makes messages of what the kinds say, and one account of how the way to the servers is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::info;

use super::{BATCH, Heard, Servers};
use crate::watch::{Arrived, Event, Health, Message, Problem, Reason};

/// Events that may wait for a reconciler that is busy, or is still to begin: enough for the lists of a large cluster. When
/// there are more, the servers have to wait.
const WAITING: usize = 1 << 18;

/// What all kinds together have to say.
pub(super) struct Hub {
    servers: Arc<Servers>,
    messages: mpsc::Sender<Arrived>,
    health: watch::Sender<Health>,
    faults: Faults,
    refused: BTreeMap<&'static str, Vec<Problem>>,
    problems: Vec<Problem>,
}

impl Hub {
    pub(super) fn new(servers: Arc<Servers>, messages: mpsc::Sender<Arrived>, health: watch::Sender<Health>) -> Self {
        Self { servers, messages, health, faults: Faults::default(), refused: BTreeMap::new(), problems: Vec::new() }
    }

    /// Until nobody listens any more.
    pub(super) async fn run(mut self, mut heard: mpsc::Receiver<Heard>) {
        let (mut batch, mut events, mut at) = (Vec::new(), Vec::new(), Instant::now());
        let messages = self.messages.clone();
        // What is here goes on as soon as it is taken, as one: so a lone change waits for nothing, and a storm comes in
        // batches.
        loop {
            tokio::select! {
                count = heard.recv_many(&mut batch, BATCH), if events.len() < WAITING => {
                    if count == 0 {
                        return;
                    }
                    if events.is_empty() {
                        at = Instant::now();
                    }
                    let mut well = true;
                    for heard in batch.drain(..) {
                        well &= matches!(heard, Heard::News(_));
                        self.take(heard, &mut events);
                    }
                    if !well && !self.publish().await {
                        return;
                    }
                }
                place = messages.reserve(), if !events.is_empty() => {
                    let Ok(place) = place else { return };
                    place.send(Arrived { at, message: Message::Events(std::mem::take(&mut events)) });
                }
            }
        }
    }

    fn take(&mut self, heard: Heard, events: &mut Vec<Event>) {
        match heard {
            Heard::News(event) => events.push(event),
            Heard::Refused(kind, problems) => drop(self.refused.insert(kind, problems)),
            Heard::Well(kind) => self.faults.well(kind),
            Heard::Failed(kind, why) => self.faults.failed(kind, why, SystemTime::now()),
        }
    }

    /// Tells what is wrong, and how the source is, where that has changed.
    async fn publish(&mut self) -> bool {
        let now = SystemTime::now();
        let (source, fault) = (self.servers.in_use(), self.faults.text());
        self.health.send_if_modified(|health| {
            let turned = health.since.is_none() || health.fault.is_some() != fault.is_some();
            let changed = turned || health.source != source || health.fault != fault;
            if turned && fault.is_none() && health.since.is_some() {
                info!("the Kubernetes API answers again");
                health.recoveries += 1;
            }
            if turned {
                health.since = Some(self.faults.since().unwrap_or(now));
            }
            source.clone_into(&mut health.source);
            health.fault.clone_from(&fault);
            changed
        });
        let mut problems = self.faults.problems();
        problems.extend(self.refused.values().flatten().cloned());
        if problems == self.problems {
            return true;
        }
        self.problems.clone_from(&problems);
        self.messages.send(Message::Problems(problems).now()).await.is_ok()
    }
}

/// Why nothing is heard of a kind, and since when.
#[derive(Debug, Default)]
struct Faults(BTreeMap<&'static str, (SystemTime, String)>);

impl Faults {
    fn well(&mut self, kind: &'static str) {
        self.0.remove(kind);
    }

    fn failed(&mut self, kind: &'static str, why: String, now: SystemTime) {
        let (_, text) = self.0.entry(kind).or_insert_with(|| (now, String::new()));
        *text = why;
    }

    /// Since when anything is wrong.
    fn since(&self) -> Option<SystemTime> {
        self.0.values().map(|(since, _)| *since).min()
    }

    /// What is wrong, and since when: what all kinds suffer from alike, once.
    fn by_cause(&self) -> BTreeMap<&str, SystemTime> {
        let mut causes = BTreeMap::new();
        for (since, why) in self.0.values() {
            let first: &mut SystemTime = causes.entry(why.as_str()).or_insert(*since);
            *first = (*first).min(*since);
        }
        causes
    }

    fn text(&self) -> Option<String> {
        let texts: Vec<_> = self.by_cause().into_keys().map(ToOwned::to_owned).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    fn problems(&self) -> Vec<Problem> {
        let problem = |(why, since)| {
            let message = format!("no news since {}, the node serves on as it was: {why}", shown(since));
            Problem::of(Reason::SourceUnavailable, "Kubernetes API", message)
        };
        self.by_cause().into_iter().map(problem).collect()
    }
}

/// To the second, in UTC.
fn shown(time: SystemTime) -> String {
    let seconds = Timestamp::try_from(time).and_then(|time| Timestamp::from_second(time.as_second()));
    seconds.map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_all_kinds_suffer_from_is_one_problem_since_the_first_of_them() {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let mut faults = Faults::default();
        let shown = |faults: &Faults| faults.problems().iter().map(ToString::to_string).collect::<Vec<_>>();
        faults.failed("Service", "refused".to_owned(), at(61));
        faults.failed("Node", "refused".to_owned(), at(60));
        let refused =
            "Kubernetes API: no news since 1970-01-01T00:01:00Z, the node serves on as it was: refused".to_owned();
        assert_eq!(shown(&faults), vec![refused.clone()]);
        faults.failed("Service", "nodes: 403 no".to_owned(), at(70));
        assert_eq!(faults.text().as_deref(), Some("nodes: 403 no; refused"));
        assert_eq!(shown(&faults)[1], refused, "the time of a kind is that of its first fault");
        assert!(shown(&faults)[0].contains("00:01:01Z"), "{:?}", shown(&faults));
        faults.well("Service");
        assert_eq!((shown(&faults), faults.since()), (vec![refused], Some(at(60))));
        faults.well("Node");
        assert_eq!((shown(&faults), faults.text()), (vec![], None));
    }
}
