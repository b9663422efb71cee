//! At no prefix of a plan does a packet see half a Service: random worlds, random failures, random deaths.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lb_userspace::reconcile::Engine;
use lb_userspace::state::State;
use lb_userspace::store::Store;
use lb_userspace::watch::{Change, Event, Message};
use proptest::prelude::*;

use crate::checked::CheckedStore;
use crate::oracle::Both;
use crate::world::{Step, empty_lists, options, settle, steps};

struct World {
    clock: Rc<Cell<Instant>>,
    state: State,
    engine: Option<Engine<CheckedStore>>,
}

impl World {
    fn new() -> Self {
        let clock = Rc::new(Cell::new(Instant::now()));
        let mut engine = Engine::new(CheckedStore::new(clock.clone()), options(), clock.get());
        engine.receive(empty_lists(), clock.get());
        let mut state = State::default();
        let Message::Events(events) = empty_lists() else { unreachable!() };
        events.into_iter().for_each(|event| state.apply(event));
        Self { clock, state, engine: Some(engine) }
    }

    fn engine(&mut self) -> &mut Engine<CheckedStore> {
        self.engine.as_mut().expect("there always is one")
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Events(events) => {
                events.iter().for_each(|event| self.state.apply(event.clone()));
                let now = self.clock.get();
                self.engine().receive(Message::Events(events), now);
                self.work();
            }
            Step::Wait(seconds) => {
                self.clock.set(self.clock.get() + Duration::from_secs(seconds));
                self.work();
            }
            Step::Restart => self.restart(),
            Step::Fail(after) => self.engine().store().fail_after = Some(after),
            Step::Kill(after) => {
                // Whatever is to do, it dies at this write, if it ever comes to it.
                self.engine().store().fail_after = Some(after);
                self.round();
                self.engine().store().fail_after = None;
                self.restart();
            }
        }
    }

    fn round(&mut self) {
        let (clock, wanted) = (self.clock.clone(), Both::expected(&self.state));
        self.engine().store().expect(wanted);
        self.engine().work(|| clock.get());
    }

    fn work(&mut self) {
        let wanted = Both::expected(&self.state);
        self.engine().store().expect(wanted.clone());
        self.round();
        let start = self.clock.get();
        let clock = self.clock.clone();
        let engine = self.engine();
        clock.set(settle(engine, start));
        let image = engine.store().read().expect("memory can be read");
        assert_eq!(Both::found(&image).as_ref(), Ok(&wanted));
        assert_eq!(image.filter, lb_common::mem::frontend_bits(&image));
    }

    /// A new agent that knows nothing but the maps. It has nothing to write where the old one had finished.
    fn restart(&mut self) {
        let now = self.clock.get();
        let finished = self.engine().status().behind_since.is_none();
        let mut store = self.engine.take().expect("there always is one").into_store();
        store.restart();
        let writes = store.inner.writes();
        let mut engine = Engine::new(store, options(), now);
        engine.receive(self.lists(), now);
        self.engine = Some(engine);
        self.work();
        if finished {
            assert_eq!(self.engine().store().inner.writes(), writes, "it wrote though nothing had changed");
        }
    }

    fn lists(&self) -> Message {
        let services: Vec<_> = self.state.services().cloned().collect();
        let slices = (0..4).flat_map(|i| self.state.slices(&crate::world::name(i))).cloned().collect();
        let nodes = self.state.node("node").cloned().into_iter().collect();
        Message::Events(vec![
            Event::Node(Change::Reset(nodes)),
            Event::EndpointSlice(Change::Reset(slices)),
            Event::Service(Change::Reset(services)),
        ])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_sees_half_a_service(steps in steps()) {
        let mut world = World::new();
        world.work();
        for step in steps {
            world.take(step);
        }
        // Long after, nothing is left over.
        world.engine().store().fail_after = None;
        world.take(Step::Wait(100));
        world.take(Step::Restart);
    }
}
