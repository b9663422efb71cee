//! From what a folder declares to news of it. Pure.

use std::collections::BTreeMap;

use super::folder::Declared;
use crate::model::ObjectName;
use crate::watch::{Change, Event, Message, Problem};

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Published {
    declared: Option<Declared>,
    problems: Vec<Problem>,
}

impl Published {
    /// Whether anything was ever told.
    pub(super) fn any(&self) -> bool {
        self.declared.is_some()
    }

    /// What is to be told now.
    pub(super) fn news(&mut self, declared: Option<Declared>, problems: Vec<Problem>) -> Vec<Message> {
        let mut messages = Vec::new();
        if problems != self.problems {
            messages.push(Message::Problems(problems.clone()));
            self.problems = problems;
        }
        if let Some(declared) = declared {
            let events = match &self.declared {
                None => all(&declared),
                Some(before) => differences(before, &declared),
            };
            if !events.is_empty() {
                messages.push(Message::Events(events));
            }
            self.declared = Some(declared);
        }
        messages
    }
}

fn all(declared: &Declared) -> Vec<Event> {
    vec![
        Event::Node(Change::Reset(declared.nodes.values().cloned().collect())),
        Event::EndpointSlice(Change::Reset(declared.slices.values().cloned().collect())),
        Event::Service(Change::Reset(declared.services.values().cloned().collect())),
    ]
}

fn differences(before: &Declared, now: &Declared) -> Vec<Event> {
    let mut events = Vec::new();
    events.extend(changed(&before.nodes, &now.nodes).map(Event::Node));
    events.extend(changed(&before.slices, &now.slices).map(Event::EndpointSlice));
    events.extend(changed(&before.services, &now.services).map(Event::Service));
    events
}

fn changed<'a, T: PartialEq + Clone>(
    before: &'a BTreeMap<ObjectName, T>,
    now: &'a BTreeMap<ObjectName, T>,
) -> impl Iterator<Item = Change<T>> + 'a {
    let gone = before.keys().filter(|name| !now.contains_key(name)).cloned().map(Change::Delete);
    let new = now.iter().filter(|(name, object)| before.get(name) != Some(object));
    gone.chain(new.map(|(_, object)| Change::Apply(object.clone())))
}
