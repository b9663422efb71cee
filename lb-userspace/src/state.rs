//! The only truth about what was declared: every Service, EndpointSlice, Node and ServiceCIDR, fed by events.
//!
//! Remembers which Services an event touched, so that the rest need no second thought.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use lb_common::ip::Family;

use crate::model::{Cidr, EndpointSlice, Node, ObjectName, Service, ServiceCidr};
use crate::watch::{Change, Event};

/// What changed since [`State::take_changes`] was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that changed, or whose endpoints did.
    pub services: BTreeSet<ObjectName>,
    /// Whether a Node changed.
    pub nodes: bool,
    /// When it happened what made others write the EndpointSlices that changed, and of which family these are.
    pub triggers: Vec<(Family, SystemTime)>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.nodes
    }
}

/// Objects that changed, each as often as it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Services.
    pub services: u64,
    /// EndpointSlices.
    pub slices: u64,
}

/// All that was declared.
#[derive(Debug, Default)]
pub struct State {
    services: BTreeMap<ObjectName, Service>,
    /// By Service, sorted by the slice's own name. Mostly there is one, for which a map would have room for eleven.
    slices: BTreeMap<ObjectName, Vec<EndpointSlice>>,
    /// Slice → Service: a slice may change its label.
    owners: HashMap<ObjectName, Arc<str>>,
    nodes: BTreeMap<ObjectName, Node>,
    service_cidrs: BTreeMap<ObjectName, ServiceCidr>,
    /// One copy of each node's and zone's name, however many endpoints carry it.
    texts: HashSet<Arc<str>>,
    changes: Changes,
    changed: Changed,
    complete: Complete,
}

/// Which kinds' lists have come in whole.
#[derive(Debug, Default)]
struct Complete {
    services: bool,
    slices: bool,
    nodes: bool,
    service_cidrs: bool,
}

impl State {
    /// Whether the first list of every kind has come, so that what is missing is really gone. ServiceCIDRs are not waited
    /// for: not every source has them, and nothing is removed for want of them.
    pub fn ready(&self) -> bool {
        self.complete.services && self.complete.slices && self.complete.nodes
    }

    /// Takes in an event.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Service(Change::Apply(service)) => self.put_service(service),
            Event::Service(Change::Delete(name)) => self.remove_service(&name),
            Event::Service(Change::Reset(services)) => {
                self.list_services(&services.iter().map(|service| service.name.clone()).collect());
                services.into_iter().for_each(|service| self.put_service(service));
            }
            Event::Service(Change::Listed(names)) => self.list_services(&names),
            Event::EndpointSlice(Change::Apply(slice)) => self.put_slice(slice),
            Event::EndpointSlice(Change::Delete(name)) => self.remove_slice(&name),
            Event::EndpointSlice(Change::Reset(slices)) => {
                self.list_slices(&slices.iter().map(|slice| slice.name.clone()).collect());
                slices.into_iter().for_each(|slice| self.put_slice(slice));
            }
            Event::EndpointSlice(Change::Listed(names)) => self.list_slices(&names),
            Event::Node(Change::Apply(node)) => self.put_node(node),
            Event::Node(Change::Delete(name)) => self.changes.nodes |= self.nodes.remove(&name).is_some(),
            Event::Node(Change::Reset(nodes)) => {
                self.list_nodes(&nodes.iter().map(|node| node.name.clone()).collect());
                nodes.into_iter().for_each(|node| self.put_node(node));
            }
            Event::Node(Change::Listed(names)) => self.list_nodes(&names),
            Event::ServiceCidr(change) => self.change_service_cidrs(change),
        }
    }

    /// Every Service, by name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.services.values()
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// The EndpointSlices of a Service, by name.
    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> + Clone + use<'_> {
        self.slices.get(service).into_iter().flatten()
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(&ObjectName::new("", name))
    }

    /// The ranges that virtual IPs are taken from; none as long as their list has not come in whole.
    pub fn service_cidrs(&self) -> Option<BTreeSet<Cidr>> {
        let all = || self.service_cidrs.values().flat_map(|object| object.cidrs.iter().copied()).collect();
        self.complete.service_cidrs.then(all)
    }

    /// How many objects changed in all.
    pub fn changed(&self) -> Changed {
        self.changed
    }

    /// What changed since this was last asked.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Whether anything changed since then.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// These Services are all there are.
    fn list_services(&mut self, names: &HashSet<ObjectName>) {
        let gone: Vec<_> = self.services.keys().filter(|name| !names.contains(name)).cloned().collect();
        gone.iter().for_each(|name| self.remove_service(name));
        self.complete.services = true;
    }

    /// These EndpointSlices are all there are.
    fn list_slices(&mut self, names: &HashSet<ObjectName>) {
        let gone: Vec<_> = self.owners.keys().filter(|name| !names.contains(name)).cloned().collect();
        gone.iter().for_each(|name| self.remove_slice(name));
        self.complete.slices = true;
    }

    /// These Nodes are all there are.
    fn list_nodes(&mut self, names: &HashSet<ObjectName>) {
        let before = self.nodes.len();
        self.nodes.retain(|name, _| names.contains(name));
        self.changes.nodes |= self.nodes.len() != before;
        self.complete.nodes = true;
    }

    fn change_service_cidrs(&mut self, change: Change<ServiceCidr>) {
        self.complete.service_cidrs |= matches!(change, Change::Reset(_) | Change::Listed(_));
        let known = &mut self.service_cidrs;
        match change {
            Change::Apply(cidr) => drop(known.insert(cidr.name.clone(), cidr)),
            Change::Delete(name) => drop(known.remove(&name)),
            Change::Reset(all) => *known = all.into_iter().map(|cidr| (cidr.name.clone(), cidr)).collect(),
            Change::Listed(names) => known.retain(|name, _| names.contains(name)),
        }
    }

    fn put_service(&mut self, service: Service) {
        if self.services.get(&service.name) != Some(&service) {
            self.changed.services += 1;
            self.changes.services.insert(service.name.clone());
            self.services.insert(service.name.clone(), service);
        }
    }

    fn remove_service(&mut self, name: &ObjectName) {
        if self.services.remove(name).is_some() {
            self.changed.services += 1;
            self.changes.services.insert(name.clone());
        }
    }

    fn put_slice(&mut self, mut slice: EndpointSlice) {
        let owner = slice.owner();
        if self.slices(&owner).any(|known| *known == slice) {
            return;
        }
        self.changed.slices += 1;
        self.share_texts(&mut slice);
        self.changes.triggers.extend(slice.trigger.0.map(|at| (slice.family, at)));
        match self.owners.insert(slice.name.clone(), slice.service.clone()) {
            Some(before) if before != slice.service => {
                self.take_slice(&ObjectName { namespace: slice.name.namespace.clone(), name: before }, &slice.name);
            }
            _ => {}
        }
        self.changes.services.insert(owner.clone());
        let slices = self.slices.entry(owner).or_insert_with(|| Vec::with_capacity(1));
        match slices.binary_search_by(|known| known.name.name.cmp(&slice.name.name)) {
            Ok(at) => slices[at] = slice,
            Err(at) => slices.insert(at, slice),
        }
    }

    fn remove_slice(&mut self, name: &ObjectName) {
        if let Some(service) = self.owners.remove(name) {
            self.changed.slices += 1;
            self.take_slice(&ObjectName { namespace: name.namespace.clone(), name: service }, name);
        }
    }

    fn take_slice(&mut self, owner: &ObjectName, slice: &ObjectName) {
        if let Some(slices) = self.slices.get_mut(owner) {
            slices.retain(|known| known.name.name != slice.name);
            if slices.is_empty() {
                self.slices.remove(owner);
            }
            self.changes.services.insert(owner.clone());
        }
    }

    fn put_node(&mut self, node: Node) {
        if self.nodes.get(&node.name) != Some(&node) {
            self.changes.nodes = true;
            self.nodes.insert(node.name.clone(), node);
        }
    }

    /// A cluster has few nodes and zones, but names them with every endpoint.
    fn share_texts(&mut self, slice: &mut EndpointSlice) {
        for endpoint in &mut slice.endpoints {
            let hints = endpoint.hints.iter_mut().flat_map(|hints| hints.nodes.iter_mut().chain(&mut hints.zones));
            for text in endpoint.node.iter_mut().chain(hints) {
                match self.texts.get(text) {
                    Some(shared) => *text = shared.clone(),
                    None => drop(self.texts.insert(text.clone())),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointPort, Protocol, Trigger};

    fn service(name: &str) -> Service {
        Service::new(ObjectName::new("ns", name))
    }

    fn slice(name: &str, service: &str) -> EndpointSlice {
        EndpointSlice {
            name: ObjectName::new("ns", name),
            service: service.into(),
            family: Family::V4,
            ports: vec![],
            endpoints: vec![],
            trigger: Trigger::default(),
        }
    }

    fn touched(state: &mut State) -> Vec<String> {
        state.take_changes().services.iter().map(|name| name.name.to_string()).collect()
    }

    #[test]
    fn ready_once_every_kind_was_listed() {
        let mut state = State::default();
        state.apply(Event::Service(Change::Apply(service("a"))));
        state.apply(Event::Service(Change::Reset(vec![])));
        state.apply(Event::EndpointSlice(Change::Reset(vec![])));
        assert!(!state.ready());
        state.apply(Event::Node(Change::Reset(vec![])));
        assert!(state.ready());
    }

    #[test]
    fn a_reset_finds_what_vanished() {
        let mut state = State::default();
        state.apply(Event::Service(Change::Reset(vec![service("a"), service("b")])));
        state.apply(Event::EndpointSlice(Change::Reset(vec![slice("a-1", "a"), slice("b-1", "b")])));
        assert_eq!(touched(&mut state), ["a", "b"]);
        state.apply(Event::Service(Change::Reset(vec![service("b")])));
        assert_eq!(touched(&mut state), ["a"]);
        state.apply(Event::EndpointSlice(Change::Reset(vec![slice("a-1", "a")])));
        assert_eq!(touched(&mut state), ["b"]);
        assert_eq!(state.services().count(), 1);
        assert_eq!(state.slices(&ObjectName::new("ns", "b")).count(), 0);
    }

    #[test]
    fn the_end_of_a_list_finds_what_vanished_and_leaves_alone_what_was_not_told() {
        let mut state = State::default();
        let names = |names: &[&str]| names.iter().map(|name| ObjectName::new("ns", *name)).collect();
        for name in ["a", "b"] {
            state.apply(Event::Service(Change::Apply(service(name))));
            state.apply(Event::EndpointSlice(Change::Apply(slice(&format!("{name}-1"), name))));
        }
        state.apply(Event::Node(Change::Apply(Node::new(ObjectName::new("", "n")))));
        state.apply(Event::Node(Change::Listed([ObjectName::new("", "n")].into())));
        touched(&mut state);
        state.apply(Event::Service(Change::Listed(names(&["b", "never told"]))));
        assert_eq!(touched(&mut state), ["a"]);
        assert!(!state.ready());
        state.apply(Event::EndpointSlice(Change::Listed(names(&["a-1"]))));
        assert_eq!(touched(&mut state), ["b"]);
        assert!(state.ready() && state.node("n").is_some());
        state.apply(Event::Node(Change::Listed(HashSet::new())));
        assert!(state.node("n").is_none() && state.take_changes().nodes);
    }

    #[test]
    fn only_slices_that_changed_say_what_triggered_them() {
        let at = |second| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
        let written = |second, ports| EndpointSlice { trigger: Trigger(Some(at(second))), ports, ..slice("a-1", "a") };
        let port = EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 80 };
        let mut state = State::default();
        state.apply(Event::EndpointSlice(Change::Apply(written(1, vec![]))));
        state.apply(Event::EndpointSlice(Change::Apply(written(2, vec![]))));
        state.apply(Event::EndpointSlice(Change::Apply(written(3, vec![port]))));
        assert_eq!(state.take_changes().triggers, [(Family::V4, at(1)), (Family::V4, at(3))]);
    }

    #[test]
    fn service_cidrs_come_and_go() {
        let mut state = State::default();
        let cidr = |name: &str, cidr: &str| {
            let cidrs = vec![cidr.parse().unwrap()];
            Event::ServiceCidr(Change::Apply(ServiceCidr { name: ObjectName::new("", name), cidrs }))
        };
        let known = |state: &State| {
            state.service_cidrs().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        for (name, range) in
            [("a", "10.96.0.0/16"), ("b", "10.97.0.0/16"), ("c", "fd00:96::/112"), ("d", "10.96.0.0/16")]
        {
            state.apply(cidr(name, range));
        }
        assert_eq!(known(&state), None, "there may be more");
        let listed = ["a", "b", "c", "d"].map(|name| ObjectName::new("", name));
        state.apply(Event::ServiceCidr(Change::Listed(listed.into())));
        assert_eq!(known(&state).as_deref(), Some("10.96.0.0/16 10.97.0.0/16 fd00:96::/112"));
        state.apply(Event::ServiceCidr(Change::Delete(ObjectName::new("", "b"))));
        assert_eq!(known(&state).as_deref(), Some("10.96.0.0/16 fd00:96::/112"));
        state.apply(Event::ServiceCidr(Change::Listed([ObjectName::new("", "c")].into())));
        assert_eq!(known(&state).as_deref(), Some("fd00:96::/112"));
    }

    #[test]
    fn what_stays_as_it_was_touches_nothing() {
        let mut state = State::default();
        state.apply(Event::Service(Change::Apply(service("a"))));
        state.apply(Event::EndpointSlice(Change::Apply(slice("a-1", "a"))));
        touched(&mut state);
        state.apply(Event::Service(Change::Apply(service("a"))));
        state.apply(Event::EndpointSlice(Change::Apply(slice("a-1", "a"))));
        state.apply(Event::Service(Change::Delete(ObjectName::new("ns", "stranger"))));
        assert!(!state.has_changes());
        assert_eq!(state.changed(), Changed { services: 1, slices: 1 });
    }

    #[test]
    fn a_slice_that_moves_to_another_service_touches_both() {
        let mut state = State::default();
        state.apply(Event::EndpointSlice(Change::Apply(slice("s", "a"))));
        touched(&mut state);
        state.apply(Event::EndpointSlice(Change::Apply(slice("s", "b"))));
        assert_eq!(touched(&mut state), ["a", "b"]);
        assert_eq!(state.slices(&ObjectName::new("ns", "a")).count(), 0);
        state.apply(Event::EndpointSlice(Change::Delete(ObjectName::new("ns", "s"))));
        assert_eq!(touched(&mut state), ["b"]);
        assert_eq!(state.changed().slices, 3, "came, moved, went");
    }
}
