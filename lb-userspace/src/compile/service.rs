//! One Service, from its declaration to its entries.

use lb_common::ip::{V4, V6};
use lb_common::tables::{Frontend, FrontendKey, Kind, frontend};

use super::address::{Place, Wish};
use super::sets::{Sets, needed};
use super::{Compiled, Compiler, Elsewhere, Port, Record, address, name};
use crate::endpoints::{self, Here, Serving};
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

/// A port on its way into the maps, one that has an id.
#[derive(Clone, Copy)]
struct Named<'a> {
    port: &'a ServicePort,
    /// Its place among the ports of its Service.
    at: u32,
    /// Its place among those that have an id.
    i: usize,
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
        let service = state.service(name).filter(|service| service.is_programmed());
        self.check_health(name, service, state, here);
        let Some(service) = service else {
            return self.give_back(&old, &Record::default());
        };
        let mut work = Work { service, old, new, problems: Vec::new(), starved: false };
        work.notices();
        work.refusals(&self.place);
        let nothing = work.new.v4.is_empty() && work.new.v6.is_empty();
        let ports = if nothing { Vec::new() } else { self.name_ports(&mut work) };
        for port in ports {
            self.bind::<V4>(&mut work, port, state, here);
            self.bind::<V6>(&mut work, port, state, here);
        }
        self.refuse_other_ports::<V4>(&mut work);
        self.refuse_other_ports::<V6>(&mut work);
        self.give_back(&work.old, &work.new);
        if work.starved {
            self.starved.insert(name.clone());
        }
        if !work.problems.is_empty() {
            self.problems.insert(name.clone(), work.problems);
        }
        self.records.insert(name.clone(), work.new);
    }

    /// Ids for the ports, in their order; those ports that get one. The others have no frontends.
    fn name_ports<'a>(&mut self, work: &mut Work<'a>) -> Vec<Named<'a>> {
        let mut named = Vec::new();
        // Mostly there is one; a growing list would take room for four.
        work.new.ports.reserve_exact(work.service.ports.len());
        for (at, port) in (0..).zip(&work.service.ports) {
            let Some(name) = name::of(&work.service.name, &port.name) else {
                work.complain(Reason::InvalidObject, format!("port {}: its name is too long", port.port));
                self.close(work, at);
                continue;
            };
            match self.names.acquire(&name) {
                Ok(id) => {
                    self.draft.put_name(id, name);
                    let elsewhere = Elsewhere::default();
                    work.new.ports.push(Port { id, name, v4: Sets::default(), v6: Sets::default(), elsewhere });
                    named.push(Named { port, at, i: named.len() });
                }
                Err(full) => {
                    let text = format!("port {}: no room for its name: {full}; enlarge --max-services", port.port);
                    work.starve(text);
                    self.close(work, at);
                }
            }
        }
        named
    }

    /// Removes the frontends of a port; they may be those of a Service that wanted them before.
    fn close(&mut self, work: &mut Work<'_>, at: u32) {
        let (v4, v6) = (self.owned::<V4>(work, at), self.owned::<V6>(work, at));
        v4.iter().for_each(|wish| self.draft.remove_frontend(wish.key));
        v6.iter().for_each(|wish| self.draft.remove_frontend(wish.key));
    }

    /// The frontends in one family of a port.
    fn bind<A: Compiled>(&mut self, work: &mut Work<'_>, named: Named<'_>, state: &State, here: Here<'_>) {
        let Named { port, at, i } = named;
        let service = work.service;
        let wishes = self.owned::<A>(work, at);
        let limited = self.limit::<A>(work, named, &wishes);
        if wishes.is_empty() {
            return;
        }
        let serving = endpoints::serving::<A>(port, state.slices(&service.name), here);
        let name = work.new.ports[i].name;
        let none = Sets::default();
        let before = work.old.ports.iter_mut().find(|before| before.name == name);
        let before = before.map_or(&none, |before| A::sets(before));
        let (sets, full) = self.acquire_sets::<A>(needed(service, &wishes), &serving, before);
        full.into_iter().for_each(|why| work.starve(format!("port {}: {why}", port.port)));
        let Some(sets) = sets else {
            return wishes.into_iter().for_each(|wish| self.draft.remove_frontend(wish.key));
        };
        let (id, served) = (work.new.ports[i].id, !serving.cluster.is_empty());
        let mut put = 0;
        for wish in wishes {
            let mut made = sets.frontend(id, service, wish.kind, served);
            if wish.own {
                made.flags |= frontend::OWN_ADDRESS;
            }
            if limited && wish.kind == Kind::LoadBalancer {
                made.flags |= frontend::SOURCE_RANGES;
            }
            put += usize::from(self.put_frontend(work, wish.key, made));
        }
        if put == 0 {
            return self.release_sets::<A>(&sets);
        }
        let port = &mut work.new.ports[i];
        *A::sets(port) = sets;
        let here = elsewhere(service, &serving);
        port.elsewhere = port.elsewhere + here;
        self.elsewhere = self.elsewhere + here;
    }

    /// Who may call the load-balancer IPs among these, where not everybody may; whether that is so.
    fn limit<A: Compiled>(
        &mut self,
        work: &mut Work<'_>,
        Named { port, i, .. }: Named<'_>,
        wishes: &[Wish<A>],
    ) -> bool {
        let balanced = wishes.iter().any(|wish| wish.kind == Kind::LoadBalancer);
        let ranges = work.service.source_ranges.of(A::FAMILY).filter(|_| balanced);
        let limited = ranges.is_some();
        let missing = self.admit::<A>(work.new.ports[i].id, ranges.into_iter().flatten());
        if missing > 0 {
            let text = format!("port {}: no room for {missing} source ranges, whose clients stay out", port.port);
            work.starve(format!("{text}; enlarge --max-source-ranges"));
        }
        limited
    }

    /// The frontends that a port shall have, without those that another Service has.
    fn owned<A: Compiled>(&mut self, work: &mut Work<'_>, at: u32) -> Vec<Wish<A>> {
        let mut wishes: Vec<_> =
            A::wishes(&mut work.new).iter().copied().filter(|wish| wish.port == at && wish.key.proto != 0).collect();
        wishes.retain(|wish| {
            let Some(owner) = self.other_owner(&wish.key, &work.service.name) else { return true };
            let protocol = work.service.ports.get(at as usize).map(|port| port.protocol).unwrap_or_default();
            let (addr, port) = (wish.key.addr, wish.key.port);
            match wish.kind {
                Kind::ClusterIp => {
                    work.complain(
                        Reason::ClusterIpClash,
                        format!("{addr:?} port {port:?}/{protocol}: Service {owner} has it"),
                    );
                }
                // The same at each address of the node.
                Kind::NodePort => {
                    work.complain(Reason::PortClash, format!("nodePort {port:?}/{protocol}: Service {owner} has it"));
                }
                Kind::LoadBalancer | Kind::ExternalIp => {
                    work.complain(
                        Reason::PortClash,
                        format!("{addr:?} port {port:?}/{protocol}: Service {owner} has it"),
                    );
                }
            }
            false
        });
        wishes
    }

    fn other_owner<A: Compiled>(&self, key: &FrontendKey<A>, name: &ObjectName) -> Option<ObjectName> {
        A::claims(&self.halves).owner(key).filter(|owner| *owner != name).cloned()
    }

    /// Packets to a port that the Service does not have are refused, not sent on to nowhere.
    fn refuse_other_ports<A: Compiled>(&mut self, work: &mut Work<'_>) {
        let id = work.new.ports.first().map(|port| port.id);
        let whole: Vec<_> = A::wishes(&mut work.new).iter().map(|wish| wish.key).filter(|key| key.proto == 0).collect();
        for key in whole {
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

    fn give_back(&mut self, old: &Record, new: &Record) {
        for port in &old.ports {
            if new.ports.iter().all(|kept| kept.id != port.id) {
                self.admit_nobody(port.id);
            }
            self.names.release(&port.name);
            self.release_sets::<V4>(&port.v4);
            self.release_sets::<V6>(&port.v6);
            self.elsewhere = self.elsewhere - port.elsewhere;
        }
    }
}

/// Whether a port asks for endpoints on this node where all are elsewhere.
fn elsewhere<A: Compiled>(service: &Service, serving: &Serving<A>) -> Elsewhere {
    let missing = serving.local.is_empty() && !serving.cluster.is_empty();
    let of = |policy| u64::from(missing && policy == TrafficPolicy::Local);
    Elsewhere { internal: of(service.internal_policy), external: of(service.external_policy) }
}

impl Work<'_> {
    /// What is asked for and not done: said, not passed over in silence.
    fn notices(&mut self) {
        for text in &self.service.left_out {
            self.complain(Reason::InvalidObject, format!("{text}; it is left out"));
        }
    }

    /// Virtual IPs that would take packets from the node itself, or from everybody.
    fn refusals(&mut self, place: &Place) {
        for (kind, ip) in address::virtual_ips(self.service, place) {
            if let Some(why) = address::refusal(kind, ip, place) {
                let field = match kind {
                    Kind::ClusterIp | Kind::NodePort => "clusterIP",
                    Kind::LoadBalancer => "load-balancer IP",
                    Kind::ExternalIp => "externalIP",
                };
                self.complain(Reason::AddressRefused, format!("{field} {ip} is not programmed: {why}"));
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
