//! Who may have which frontend: where several Services want one address and port, the first by name has it.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use super::{Compiled, Compiler, address};
use crate::model::{ObjectName, Service};
use crate::state::State;
use lb_common::ip::{Be16, V4, V6};
use lb_common::tables::FrontendKey;

/// Who wants what. Nearly always one Service wants one key.
#[derive(Debug)]
pub(super) struct Claims<K>(HashMap<K, Vec<ObjectName>>);

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Claims<K> {
    /// Who has it.
    pub(super) fn owner(&self, key: &K) -> Option<&ObjectName> {
        self.0.get(key).and_then(|names| names.first())
    }

    fn add(&mut self, key: K, name: &ObjectName) {
        let names = self.0.entry(key).or_insert_with(|| Vec::with_capacity(1));
        if let Err(at) = names.binary_search(name) {
            names.insert(at, name.clone());
        }
    }

    fn remove(&mut self, key: &K, name: &ObjectName) {
        if let Some(names) = self.0.get_mut(key) {
            names.retain(|other| other != name);
            if names.is_empty() {
                self.0.remove(key);
            }
        }
    }
}

/// The keys that a Service wants in a family: its ports at its virtual IPs, and those IPs as a whole. Sorted.
fn wanted<A: Compiled>(service: &Service, own: &BTreeSet<IpAddr>) -> Vec<FrontendKey<A>> {
    let mut keys = Vec::new();
    for addr in address::programmed::<A>(service, own) {
        let ports = service.ports.iter().filter(|port| address::is_translated(port));
        keys.extend(ports.map(|port| FrontendKey::new(addr, Be16::new(port.port), port.protocol.number())));
        // Packets to an address of which no port is ours are none of our business.
        if keys.last().is_some_and(|key: &FrontendKey<A>| key.addr == addr) {
            keys.push(FrontendKey::whole(addr));
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

impl Compiler {
    /// Updates the claims of the Services in `dirty`; these, and all whose rights that changed.
    pub(super) fn claim_all(&mut self, state: &State, dirty: BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        let mut affected = BTreeSet::new();
        for name in dirty {
            let service = state.service(&name).filter(|service| service.is_programmed());
            self.claim::<V4>(&name, service, &mut affected);
            self.claim::<V6>(&name, service, &mut affected);
            affected.insert(name);
        }
        affected
    }

    fn claim<A: Compiled>(
        &mut self,
        name: &ObjectName,
        service: Option<&Service>,
        affected: &mut BTreeSet<ObjectName>,
    ) {
        let keys = service.map(|service| wanted::<A>(service, &self.own)).unwrap_or_default();
        let old = match self.records.get_mut(name) {
            Some(record) => std::mem::replace(A::keys(record), keys.clone()),
            None if keys.is_empty() => return,
            None => {
                *A::keys(self.records.entry(name.clone()).or_default()) = keys.clone();
                Vec::new()
            }
        };
        let claims = &mut A::half(&mut self.halves).claims;
        for key in old.iter().filter(|key| keys.binary_search(key).is_err()) {
            claims.remove(key, name);
            match claims.owner(key) {
                Some(heir) => drop(affected.insert(heir.clone())),
                None => {
                    self.draft.remove_frontend(*key);
                    self.room = true;
                }
            }
        }
        for key in keys.into_iter().filter(|key| old.binary_search(key).is_err()) {
            if let Some(before) = claims.owner(&key) {
                affected.insert(before.clone());
            }
            claims.add(key, name);
        }
    }
}
