//! One Service, from its declaration to its entries.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::ip::{Be16, V4, V6};
use lb_common::tables::{Frontend, FrontendKey, frontend};

use super::bind::{Bound, NoRoom};
use super::{Compiled, Compiler, Port, Record, address, name};
use crate::endpoints::{self, Here};
use crate::model::{ObjectName, Service, ServicePort, TrafficPolicy};
use crate::state::State;
use crate::watch::{Problem, Reason};

/// One Service on its way into the maps.
struct Work<'a> {
    service: &'a Service,
    /// What it had.
    old: Record,
    /// What it has from now on.
    new: Record,
    problems: Vec<Problem>,
    /// Some map had no room.
    starved: bool,
}

impl Compiler {
    /// Makes the entries of a Service what they shall be now, and gives back what it had.
    ///
    /// New numbers are taken before old ones are given back: so what stays the same stays in use.
    pub(super) fn program(&mut self, name: &ObjectName, state: &State, here: Here<'_>) {
        let mut old = self.records.remove(name).unwrap_or_default();
        let new = Record { v4: std::mem::take(&mut old.v4), v6: std::mem::take(&mut old.v6), ports: Vec::new() };
        self.problems.remove(name);
        self.starved.remove(name);
        let Some(service) = state.service(name).filter(|service| service.is_programmed()) else {
            return self.give_back(&old);
        };
        let mut work = Work { service, old, new, problems: Vec::new(), starved: false };
        work.notices();
        work.refusals(&self.own);
        let nothing = work.new.v4.is_empty() && work.new.v6.is_empty();
        let ports = if nothing { Vec::new() } else { self.name_ports(&mut work) };
        for (i, port) in ports.into_iter().enumerate() {
            self.bind::<V4>(&mut work, port, i, state, here);
            self.bind::<V6>(&mut work, port, i, state, here);
        }
        self.refuse_other_ports::<V4>(&mut work);
        self.refuse_other_ports::<V6>(&mut work);
        self.give_back(&work.old);
        if work.starved {
            self.starved.insert(name.clone());
        }
        if !work.problems.is_empty() {
            self.problems.insert(name.clone(), work.problems);
        }
        self.records.insert(name.clone(), work.new);
    }

    /// Ids for the ports, in their order; those ports that get one. The others have no frontends.
    fn name_ports<'a>(&mut self, work: &mut Work<'a>) -> Vec<&'a ServicePort> {
        let mut named = Vec::new();
        // Mostly there is one; a growing list would take room for four.
        work.new.ports.reserve_exact(work.service.ports.len());
        for port in work.service.ports.iter().filter(|port| address::is_translated(port)) {
            let Some(name) = name::of(&work.service.name, &port.name) else {
                work.complain(Reason::InvalidObject, format!("port {}: its name is too long", port.port));
                self.close::<V4>(work, port);
                self.close::<V6>(work, port);
                continue;
            };
            match self.names.acquire(&name) {
                Ok(id) => {
                    self.draft.put_name(id, name);
                    work.new.ports.push(Port { id, name, v4: None, v6: None });
                    named.push(port);
                }
                Err(full) => {
                    let text = format!("port {}: no room for its name: {full}; enlarge --max-services", port.port);
                    work.starve(text);
                    self.close::<V4>(work, port);
                    self.close::<V6>(work, port);
                }
            }
        }
        named
    }

    /// Removes the frontends of a port; they may be those of a Service that wanted them before.
    fn close<A: Compiled>(&mut self, work: &mut Work<'_>, port: &ServicePort) {
        let keys = self.owned::<A>(work, port);
        keys.into_iter().for_each(|key| self.draft.remove_frontend(key));
    }

    /// The frontends in one family of a port, the `i`th of those that have an id.
    fn bind<A: Compiled>(&mut self, work: &mut Work<'_>, port: &ServicePort, i: usize, state: &State, here: Here<'_>) {
        let service = work.service;
        let keys = self.owned::<A>(work, port);
        if keys.is_empty() {
            return;
        }
        let serving = endpoints::serving::<A>(port, state.slices(&service.name), here);
        let (backends, flags) = match service.internal_policy {
            TrafficPolicy::Cluster => (serving.cluster, 0),
            TrafficPolicy::Local if serving.local.is_empty() && !serving.cluster.is_empty() => {
                (Vec::new(), frontend::ELSEWHERE_INSIDE | frontend::ELSEWHERE_OUTSIDE)
            }
            TrafficPolicy::Local => (serving.local, 0),
        };
        let bound = match self.acquire(&backends) {
            Ok(bound) => Some(bound),
            Err(no_room) => self.bind_as_before::<A>(work, port, i, &no_room),
        };
        let Some(bound) = bound else {
            return keys.into_iter().for_each(|key| self.draft.remove_frontend(key));
        };
        let frontend = Frontend { flags, ..Frontend::with_table(work.new.ports[i].id, bound.table) };
        let put = keys.into_iter().filter(|key| self.put_frontend(work, *key, frontend)).count();
        match put {
            0 => self.release::<A>(&bound),
            _ => *A::bound(&mut work.new.ports[i]) = Some(bound),
        }
    }

    /// The keys of a port, without those that another Service has.
    fn owned<A: Compiled>(&mut self, work: &mut Work<'_>, port: &ServicePort) -> Vec<FrontendKey<A>> {
        let mut owned = Vec::new();
        for addr in address::programmed::<A>(work.service, &self.own) {
            let key = FrontendKey::new(addr, Be16::new(port.port), port.protocol.number());
            match self.other_owner(&key, &work.service.name) {
                Some(owner) => {
                    let text = format!("{addr:?} port {}/{}: Service {owner} has it", port.port, port.protocol);
                    work.complain(Reason::ClusterIpClash, text);
                }
                None => owned.push(key),
            }
        }
        owned
    }

    /// The backends that a port had: better than none.
    fn bind_as_before<A: Compiled>(
        &mut self,
        work: &mut Work<'_>,
        port: &ServicePort,
        i: usize,
        no_room: &NoRoom,
    ) -> Option<Bound> {
        work.starve(format!("port {}: {no_room}", port.port));
        let name = work.new.ports[i].name;
        let before = work.old.ports.iter_mut().find(|before| before.name == name)?;
        let before = A::bound(before).clone()?;
        self.acquire_again::<A>(&before).ok()
    }

    fn other_owner<A: Compiled>(&mut self, key: &FrontendKey<A>, name: &ObjectName) -> Option<&ObjectName> {
        A::half(&mut self.halves).claims.owner(key).filter(|owner| *owner != name)
    }

    /// Packets to a port that the Service does not have are refused, not sent on to nowhere.
    fn refuse_other_ports<A: Compiled>(&mut self, work: &mut Work<'_>) {
        let id = work.new.ports.first().map(|port| port.id);
        for addr in address::programmed::<A>(work.service, &self.own) {
            let key = FrontendKey::whole(addr);
            match id {
                _ if self.other_owner(&key, &work.service.name).is_some() => {}
                Some(id) => {
                    self.put_frontend(work, key, Frontend::refusing(id));
                }
                None => self.draft.remove_frontend(key),
            }
        }
    }

    /// Whether there was room.
    fn put_frontend<A: Compiled>(&mut self, work: &mut Work<'_>, key: FrontendKey<A>, frontend: Frontend) -> bool {
        let frontends = &A::side(self.draft.image()).frontends;
        if frontends.len() >= self.limits.services as usize && !frontends.contains_key(&key) {
            work.starve(format!("{:?}: no room for another frontend; enlarge --max-services", key.addr));
            return false;
        }
        self.draft.put_frontend(key, frontend);
        true
    }

    fn give_back(&mut self, old: &Record) {
        for port in &old.ports {
            self.names.release(&port.name);
            if let Some(bound) = &port.v4 {
                self.release::<V4>(bound);
            }
            if let Some(bound) = &port.v6 {
                self.release::<V6>(bound);
            }
        }
    }
}

impl Work<'_> {
    /// What is asked for and not done yet: said, not passed over in silence.
    fn notices(&mut self) {
        if self.service.affinity {
            self.complain(
                Reason::NotSupported,
                "spec.sessionAffinity: ClientIP is not supported yet: each connection gets its own backend",
            );
        }
        if !self.service.ports.iter().all(address::is_translated) {
            self.complain(Reason::NotSupported, "spec.ports: SCTP is not supported yet: its ports are not programmed");
        }
    }

    /// Virtual IPs that would take packets from the node itself, or from everybody.
    fn refusals(&mut self, own: &BTreeSet<IpAddr>) {
        for ip in &self.service.cluster_ips {
            if let Some(why) = address::refusal(*ip, own) {
                self.complain(Reason::AddressRefused, format!("clusterIP {ip} is not programmed: {why}"));
            }
        }
    }

    fn starve(&mut self, message: String) {
        self.starved = true;
        self.complain(Reason::NoRoom, message);
    }

    fn complain(&mut self, reason: Reason, message: impl Into<String>) {
        let problem = Problem::at("Service", self.service.name.clone(), reason, message);
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}
