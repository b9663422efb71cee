//! The maps in memory.

use std::collections::BTreeMap;

use lb_common::ip::Ip;
use lb_common::mem::{Image, Of, Runs, Slots};
use lb_common::tables::Frontend;

use super::{Store, StoreError};
use crate::plan::{FamilyOp, Op};

/// The maps in memory: as the kernel's, `SLOTS` is one array, so a careless write spoils a table in use.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    image: Image,
    slots: Vec<u32>,
    writes: usize,
}

impl MemoryStore {
    /// How many writes there have been.
    pub fn writes(&self) -> usize {
        self.writes
    }

    /// The maps, without `SLOTS`, for a test to spoil.
    pub fn spoil(&mut self) -> &mut Image {
        &mut self.image
    }

    /// `SLOTS`, for a test to spoil.
    pub fn spoil_slots(&mut self) -> &mut Vec<u32> {
        &mut self.slots
    }

    fn put_run(&mut self, at: u32, slots: &Slots) {
        let (from, to) = (at as usize, at as usize + slots.len());
        if self.slots.len() < to {
            self.slots.resize(to, 0);
        }
        self.slots[from..to].iter_mut().zip(slots.iter()).for_each(|(slot, id)| *slot = id);
    }

    fn put<A: Of>(&mut self, op: &FamilyOp<A>) {
        let side = A::side_mut(&mut self.image);
        match op {
            FamilyOp::Backend { id, backend } => drop(side.backends.insert(*id, *backend)),
            FamilyOp::RemoveBackend { id } => drop(side.backends.remove(id)),
            FamilyOp::Frontend { key, frontend } => drop(side.frontends.insert(*key, *frontend)),
            FamilyOp::RemoveFrontend { key } => drop(side.frontends.remove(key)),
            FamilyOp::Range { key, len } => drop(side.ranges.insert((*key, *len))),
            FamilyOp::RemoveRange { key, len } => drop(side.ranges.remove(&(*key, *len))),
        }
    }

    fn runs<A: Ip + Of>(&self, runs: &mut Runs) {
        let mut lens = BTreeMap::new();
        for table in A::side(&self.image).frontends.values().flat_map(Frontend::tables) {
            let len: &mut u32 = lens.entry(table.at).or_default();
            *len = table.len.max(*len);
        }
        for (at, len) in lens {
            let slots: Vec<_> = (at..at + len).map(|i| self.slots.get(i as usize).copied().unwrap_or(0)).collect();
            runs.insert(at, slots.into());
        }
    }
}

impl Store for MemoryStore {
    fn read(&mut self) -> Result<Image, StoreError> {
        let mut image = self.image.clone();
        self.runs::<lb_common::ip::V4>(&mut image.runs);
        self.runs::<lb_common::ip::V6>(&mut image.runs);
        Ok(image)
    }

    fn write(&mut self, op: &Op) -> Result<(), StoreError> {
        self.writes += 1;
        match op {
            Op::Config(config) => self.image.config = *config,
            Op::Run { at, slots } => self.put_run(*at, slots),
            Op::Name { id, name } => drop(self.image.names.insert(*id, **name)),
            Op::RemoveName { id } => drop(self.image.names.remove(id)),
            Op::Filter { bit, set: true } => drop(self.image.filter.insert(*bit)),
            Op::Filter { bit, set: false } => drop(self.image.filter.remove(bit)),
            Op::V4(op) => self.put(op),
            Op::V6(op) => self.put(op),
        }
        Ok(())
    }
}
