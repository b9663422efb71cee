//! What all files together declare, kept in step file by file: a change costs what it touches, however much there is.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::folder::Name;
use super::manifest::Object;
use super::selection::Selection;
use crate::model::{EndpointSlice, Node, ObjectName, Service, ServiceCidr};
use crate::watch::pod::Pod;
use crate::watch::{Change, Event, Problem};

/// Kind and name.
type Key = (&'static str, ObjectName);

/// The objects of all files.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    files: BTreeMap<Name, BTreeSet<Key>>,
    objects: Objects,
    /// Defined by several files.
    contested: BTreeSet<Key>,
    /// What may have changed since events were last taken, as it was then.
    before: BTreeMap<Key, Option<Object>>,
    selection: Selection,
}

/// Each object as the files define it. Where several do, the first of them by name has it.
#[derive(Debug, Default)]
pub(super) struct Objects(BTreeMap<Key, BTreeMap<Name, Object>>);

impl Objects {
    /// A Service.
    pub(super) fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.get(&("Service", name.clone())).and_then(service)
    }

    /// A Pod.
    pub(super) fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.get(&("Pod", name.clone())).and_then(pod)
    }

    fn get(&self, key: &Key) -> Option<&Object> {
        self.0.get(key)?.values().next()
    }

    fn all(&self) -> impl Iterator<Item = &Object> {
        self.0.values().filter_map(|definitions| definitions.values().next())
    }
}

impl Catalog {
    /// A file holds these objects and no others. Of two of one name the first counts: what is to be said of the second.
    pub(super) fn put(&mut self, file: &Name, objects: Vec<Object>) -> Vec<String> {
        let mut doubles = Vec::new();
        let mut new = BTreeMap::new();
        for object in objects {
            let key = (object.kind(), object.name().clone());
            match new.contains_key(&key) {
                true => doubles.push(defined_already(&key, "above")),
                false => drop(new.insert(key, object)),
            }
        }
        let keys = new.keys().cloned().collect();
        for key in self.files.insert(file.clone(), keys).unwrap_or_default() {
            if !new.contains_key(&key) {
                self.set(file, key, None);
            }
        }
        for (key, object) in new {
            self.set(file, key, Some(object));
        }
        doubles
    }

    /// A file is gone.
    pub(super) fn remove(&mut self, file: &Name) {
        for key in self.files.remove(file).unwrap_or_default() {
            self.set(file, key, None);
        }
    }

    fn set(&mut self, file: &Name, key: Key, object: Option<Object>) {
        let definitions = self.objects.0.entry(key.clone()).or_default();
        if definitions.get(file) == object.as_ref() {
            return;
        }
        self.before.entry(key.clone()).or_insert_with(|| definitions.values().next().cloned());
        match object {
            Some(object) => drop(definitions.insert(file.clone(), object)),
            None => drop(definitions.remove(file)),
        }
        match definitions.len() {
            0 => drop(self.objects.0.remove(&key)),
            1 => drop(self.contested.remove(&key)),
            _ => drop(self.contested.insert(key)),
        }
    }

    /// What changed since this was last asked.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for (key, before) in std::mem::take(&mut self.before) {
            let now = self.objects.get(&key);
            if before.as_ref() == now {
                continue;
            }
            // An object of a name is of one kind for ever.
            match now.or(before.as_ref()) {
                Some(Object::Pod(_)) => {
                    self.selection.pod(before.as_ref().and_then(pod), now.and_then(pod), &self.objects);
                }
                Some(Object::Service(_)) => {
                    let now = now.and_then(service);
                    events.push(Event::Service(change(&key.1, now)));
                    self.selection.service(&key.1, now);
                }
                Some(Object::EndpointSlice(_)) => {
                    events.push(Event::EndpointSlice(change(&key.1, now.and_then(slice))));
                }
                Some(Object::Node(_)) => events.push(Event::Node(change(&key.1, now.and_then(node)))),
                Some(Object::ServiceCidr(_)) => {
                    events.push(Event::ServiceCidr(change(&key.1, now.and_then(service_cidr))));
                }
                None => {}
            }
        }
        events.extend(self.selection.take_changes(&self.objects).into_iter().map(Event::EndpointSlice));
        events
    }

    /// Everything there is.
    pub(super) fn all(&self) -> Vec<Event> {
        let ranges = self.objects.all().filter_map(service_cidr).cloned().collect();
        let nodes = self.objects.all().filter_map(node).cloned().collect();
        let slices = self.objects.all().filter_map(slice).chain(self.selection.slices()).cloned().collect();
        let services = self.objects.all().filter_map(service).cloned().collect();
        vec![
            Event::ServiceCidr(Change::Reset(ranges)),
            Event::Node(Change::Reset(nodes)),
            Event::EndpointSlice(Change::Reset(slices)),
            Event::Service(Change::Reset(services)),
        ]
    }

    /// Objects that several files define.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.contested.iter().flat_map(|key| {
            let mut files = self.objects.0.get(key).into_iter().flat_map(BTreeMap::keys);
            let first = files.next().map(|file| format!("in {}", file.display())).unwrap_or_default();
            files.map(move |file| Problem::new(file.display().to_string(), defined_already(key, &first)))
        })
    }
}

fn defined_already((kind, name): &Key, place: &str) -> String {
    format!("{kind} {name} is defined {place} already; that one counts")
}

fn change<T: Clone>(name: &ObjectName, now: Option<&T>) -> Change<T> {
    match now {
        Some(now) => Change::Apply(now.clone()),
        None => Change::Delete(name.clone()),
    }
}

fn service(object: &Object) -> Option<&Service> {
    if let Object::Service(service) = object { Some(service) } else { None }
}

fn slice(object: &Object) -> Option<&EndpointSlice> {
    if let Object::EndpointSlice(slice) = object { Some(slice) } else { None }
}

fn pod(object: &Object) -> Option<&Pod> {
    if let Object::Pod(pod) = object { Some(pod) } else { None }
}

fn node(object: &Object) -> Option<&Node> {
    if let Object::Node(node) = object { Some(node) } else { None }
}

fn service_cidr(object: &Object) -> Option<&ServiceCidr> {
    if let Object::ServiceCidr(range) = object { Some(range) } else { None }
}

#[cfg(test)]
mod tests;
