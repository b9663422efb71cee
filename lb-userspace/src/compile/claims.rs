//! Who may have which frontend: where several Services want one address and port, the first by [`Kind`] has it, then by
//! name.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use lb_common::ip::{V4, V6};
use lb_common::tables::Kind;

use super::address;
use super::{Compiled, Compiler};
use crate::model::{ObjectName, Service};
use crate::state::State;

/// Who wants what. Nearly always one Service wants one key.
#[derive(Debug)]
pub(super) struct Claims<K>(HashMap<K, Vec<(Kind, ObjectName)>>);

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Claims<K> {
    /// Who has it.
    pub(super) fn owner(&self, key: &K) -> Option<&ObjectName> {
        self.0.get(key).and_then(|claims| claims.first()).map(|(_, name)| name)
    }

    fn add(&mut self, key: K, claim: (Kind, ObjectName)) {
        let claims = self.0.entry(key).or_insert_with(|| Vec::with_capacity(1));
        if let Err(at) = claims.binary_search(&claim) {
            claims.insert(at, claim);
        }
    }

    fn remove(&mut self, key: &K, name: &ObjectName) {
        if let Some(claims) = self.0.get_mut(key) {
            claims.retain(|(_, other)| other != name);
            if claims.is_empty() {
                self.0.remove(key);
            }
        }
    }
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
        let wishes = service.map(|service| address::wishes::<A>(service, &self.place)).unwrap_or_default();
        let old = match self.records.get_mut(name) {
            Some(record) => std::mem::replace(A::wishes(record), wishes.clone()),
            None if wishes.is_empty() => return,
            None => {
                *A::wishes(self.records.entry(name.clone()).or_default()) = wishes.clone();
                Vec::new()
            }
        };
        let claims = &mut A::half(&mut self.halves).claims;
        for wish in old.iter().filter(|wish| wishes.binary_search(wish).is_err()) {
            claims.remove(&wish.key, name);
            match claims.owner(&wish.key) {
                Some(heir) => drop(affected.insert(heir.clone())),
                None => {
                    self.draft.remove_frontend(wish.key);
                    self.room = true;
                }
            }
        }
        for wish in wishes.into_iter().filter(|wish| old.binary_search(wish).is_err()) {
            if let Some(before) = claims.owner(&wish.key) {
                affected.insert(before.clone());
            }
            claims.add(wish.key, (wish.kind, name.clone()));
        }
    }
}
