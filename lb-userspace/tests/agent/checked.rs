//! A store that plays the packets: after every write it looks whether one of them would see half a Service.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lb_common::ip::{V4, V6};
use lb_common::mem::{Image, Of, frontend_bits};
use lb_common::tables::{Frontend, Origin};
use lb_userspace::plan::Op;
use lb_userspace::store::{MemoryStore, Store, StoreError};

use crate::oracle::{All, Both, Found};

/// Far longer than a packet takes.
const IN_FLIGHT: Duration = Duration::from_millis(1500);

/// A frontend that some packet has read, and what must come of it for as long as packets are in flight.
#[derive(Clone, Debug)]
struct Held<A: Of> {
    frontend: Frontend,
    found: Found<A>,
    last: Instant,
}

pub(crate) struct CheckedStore {
    pub(crate) inner: MemoryStore,
    before: Both,
    wanted: Both,
    held_v4: Vec<Held<V4>>,
    held_v6: Vec<Held<V6>>,
    clock: Rc<Cell<Instant>>,
    /// Writes until one fails.
    pub(crate) fail_after: Option<usize>,
}

impl CheckedStore {
    pub(crate) fn new(clock: Rc<Cell<Instant>>) -> Self {
        Self {
            inner: MemoryStore::default(),
            before: Both::default(),
            wanted: Both::default(),
            held_v4: vec![],
            held_v6: vec![],
            clock,
            fail_after: None,
        }
    }

    /// From here on, every frontend may lead where it leads now, or where it shall.
    pub(crate) fn expect(&mut self, wanted: Both) {
        self.before = Both::found(&self.image()).expect("packets are served between two rounds");
        self.wanted = wanted;
    }

    /// A packet is through long before another agent has started.
    pub(crate) fn restart(&mut self) {
        self.held_v4.clear();
        self.held_v6.clear();
        self.fail_after = None;
    }

    fn image(&mut self) -> Image {
        self.inner.read().expect("memory can be read")
    }

    fn check(&mut self, op: &Op) {
        let image = self.image();
        let found = Both::found(&image).unwrap_or_else(|error| panic!("after {op:?}: {error}"));
        whole(&self.before.v4, &self.wanted.v4, &found.v4, op);
        whole(&self.before.v6, &self.wanted.v6, &found.v6, op);
        assert!(image.filter.is_superset(&frontend_bits(&image)), "after {op:?}: a frontend has no bit in the filter");
        let now = self.clock.get();
        hold(&mut self.held_v4, &image, &found.v4, now);
        hold(&mut self.held_v6, &image, &found.v6, now);
        let slots = self.inner.spoil_slots().clone();
        in_flight(&self.held_v4, &image, &slots, op);
        in_flight(&self.held_v6, &image, &slots, op);
    }
}

/// Every frontend leads wholly to what it did before or to what it shall.
fn whole<A: Of>(before: &All<A>, wanted: &All<A>, found: &All<A>, op: &Op) {
    let keys: BTreeSet<_> = before.keys().chain(wanted.keys()).chain(found.keys()).collect();
    for key in keys {
        let now = found.get(key);
        let (was, will) = (before.get(key), wanted.get(key));
        assert!(
            now == was || now == will || now.is_some_and(|now| now.is_between(was, will)),
            "after {op:?}: {key:?} leads to {now:?}, not to {:?} or {:?}",
            before.get(key),
            wanted.get(key)
        );
    }
}

fn hold<A: Of>(held: &mut Vec<Held<A>>, image: &Image, found: &All<A>, now: Instant) {
    held.retain(|held| now < held.last + IN_FLIGHT);
    for (key, found) in found {
        let frontend = A::side(image).frontends[key];
        match held.iter_mut().find(|held| held.frontend == frontend && held.found == *found) {
            Some(held) => held.last = now,
            None => held.push(Held { frontend, found: found.clone(), last: now }),
        }
    }
}

/// A packet that has read its frontend some time ago still finds its table and its backend.
fn in_flight<A: Of>(held: &[Held<A>], image: &Image, slots: &[u32], op: &Op) {
    for Held { frontend, found: Found { title: name, fates, .. }, .. } in held {
        for (origin, (backends, _)) in Origin::ALL.into_iter().zip(fates) {
            let table = frontend.table(origin);
            let run = &slots[table.at as usize..(table.at + table.len) as usize];
            for id in run.iter().copied().collect::<BTreeSet<_>>() {
                let backend = A::side(image).backends.get(&id);
                assert!(
                    backend.is_some_and(|b| backends.contains(b)),
                    "after {op:?}: a packet to {name} finds {backend:?}"
                );
            }
        }
        let now = image.names.get(&frontend.service).map(crate::oracle::shown);
        assert_eq!(now.as_ref(), Some(name), "after {op:?}: a packet in flight changes its Service");
    }
}

impl Store for CheckedStore {
    fn read(&mut self) -> Result<Image, StoreError> {
        self.inner.read()
    }

    fn write(&mut self, op: &Op) -> Result<(), StoreError> {
        match &mut self.fail_after {
            Some(0) => {
                self.fail_after = None;
                return Err(StoreError::of(op, io::Error::other("it fails on purpose")));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.inner.write(op)?;
        self.check(op);
        Ok(())
    }
}
