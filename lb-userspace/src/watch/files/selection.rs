//! Which Pods are behind which Services, found by their labels: a Pod meets the few Services that may select it, and a
//! Service the Pods with the rarest label that it asks for. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::catalog::Objects;
use crate::model::{EndpointSlice, ObjectName, Service};
use crate::watch::pod::Pod;
use crate::watch::{Change, select};

/// The Services' slices, made of Pods.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Pods under each of their labels.
    pods: Labelled,
    /// Services under one label of their selector, which a Pod of theirs must have.
    services: Labelled,
    /// Which label that is.
    filed: HashMap<ObjectName, String>,
    slices: BTreeMap<ObjectName, Vec<EndpointSlice>>,
    /// Services whose slices may have to be made anew.
    touched: BTreeSet<ObjectName>,
}

/// Names under labels.
#[derive(Debug, Default)]
struct Labelled(HashMap<String, BTreeSet<ObjectName>>);

impl Selection {
    /// A Pod is now another, or there, or gone.
    pub(super) fn pod(&mut self, before: Option<&Pod>, now: Option<&Pod>, objects: &Objects) {
        if let Some(pod) = before {
            labels(pod).for_each(|label| self.pods.remove(&label, &pod.name));
            self.touch(pod, objects);
        }
        if let Some(pod) = now {
            labels(pod).for_each(|label| self.pods.insert(label, &pod.name));
            self.touch(pod, objects);
        }
    }

    /// A Service is now another, or there, or gone.
    pub(super) fn service(&mut self, name: &ObjectName, now: Option<&Service>) {
        self.touched.insert(name.clone());
        if let Some(label) = self.filed.remove(name) {
            self.services.remove(&label, name);
        }
        // Many Services may ask for one label and tell their Pods apart by another.
        let rarest = now.and_then(|service| selected(service).min_by_key(|label| self.services.of(label).len()));
        if let Some(label) = rarest {
            self.filed.insert(name.clone(), label.clone());
            self.services.insert(label, name);
        }
    }

    /// Slices that changed since this was last asked.
    pub(super) fn take_changes(&mut self, objects: &Objects) -> Vec<Change<EndpointSlice>> {
        let mut changes = Vec::new();
        for name in std::mem::take(&mut self.touched) {
            let now = objects.service(&name).map(|service| self.make(service, objects)).unwrap_or_default();
            let before = self.slices.remove(&name).unwrap_or_default();
            let new = now.iter().enumerate().filter(|(i, slice)| before.get(*i) != Some(slice));
            changes.extend(new.map(|(_, slice)| Change::Apply(slice.clone())));
            changes.extend(before.into_iter().skip(now.len()).map(|slice| Change::Delete(slice.name)));
            if !now.is_empty() {
                self.slices.insert(name, now);
            }
        }
        changes
    }

    /// All slices, as changes last told of them.
    pub(super) fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.values().flatten()
    }

    fn make(&self, service: &Service, objects: &Objects) -> Vec<EndpointSlice> {
        let candidates = selected(service).map(|label| self.pods.of(&label)).min_by_key(|pods| pods.len());
        select::slices(service, candidates.into_iter().flatten().filter_map(|name| objects.pod(name)))
    }

    fn touch(&mut self, pod: &Pod, objects: &Objects) {
        for label in labels(pod) {
            let candidates = self.services.of(&label).iter();
            let selecting =
                candidates.filter(|name| objects.service(name).is_some_and(|service| select::selects(service, pod)));
            self.touched.extend(selecting.cloned());
        }
    }
}

impl Labelled {
    fn of(&self, label: &str) -> &BTreeSet<ObjectName> {
        const NONE: &BTreeSet<ObjectName> = &BTreeSet::new();
        self.0.get(label).unwrap_or(NONE)
    }

    fn insert(&mut self, label: String, name: &ObjectName) {
        self.0.entry(label).or_default().insert(name.clone());
    }

    fn remove(&mut self, label: &str, name: &ObjectName) {
        if let Some(names) = self.0.get_mut(label) {
            names.remove(name);
            if names.is_empty() {
                self.0.remove(label);
            }
        }
    }
}

/// The labels of a Pod.
fn labels(pod: &Pod) -> impl Iterator<Item = String> {
    pod.labels.iter().map(|(key, value)| label(&pod.name.namespace, key, value))
}

/// The labels that a Service wants its Pods to have.
fn selected(service: &Service) -> impl Iterator<Item = String> {
    service.selector.iter().map(|(key, value)| label(&service.name.namespace, key, value))
}

/// A label in its namespace, since a Service selects in its own only.
fn label(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}
