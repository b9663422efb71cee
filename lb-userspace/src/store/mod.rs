//! The only door to the maps. The reconciler knows them through [`Store`] alone, so that it runs on the kernel's
//! maps, on maps in memory, and on maps that fail on purpose.

mod faulty;
mod memory;

use std::io;

use lb_common::mem::Image;

use crate::plan::Op;

pub use faulty::FaultyStore;
pub use memory::MemoryStore;

/// The maps, to be read as a whole and written one entry at a time.
pub trait Store {
    /// All that the agent ever wrote, as it stands in the maps now.
    ///
    /// Of `SLOTS` only what frontends point to: [`Image::runs`] by [`lb_common::tables::Frontend::slots`].
    ///
    /// # Errors
    /// A map cannot be read.
    fn read(&mut self) -> Result<Image, StoreError>;

    /// Whether that is just what `image` says. Costs less than to read it.
    ///
    /// # Errors
    /// A map cannot be read.
    fn holds(&mut self, image: &Image) -> Result<bool, StoreError> {
        Ok(self.read()? == *image)
    }

    /// Makes one write.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses. The write has then not happened.
    fn write(&mut self, op: &Op) -> Result<(), StoreError>;

    /// Makes writes in their order, up to the first that fails.
    ///
    /// # Errors
    /// A write failed.
    fn apply(&mut self, ops: &[Op]) -> Result<(), Stopped> {
        self.prepare(ops);
        for (done, op) in ops.iter().enumerate() {
            self.write(op).map_err(|error| Stopped { done, error })?;
        }
        Ok(())
    }

    /// Is told of writes that are about to come: what they have in common is cheaper done once. Where that fails, so
    /// will the write.
    fn prepare(&mut self, _ops: &[Op]) {}
}

/// Writes that ended early.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Stopped {
    /// How many writes were made before.
    pub done: usize,
    /// Why the next was not.
    #[source]
    pub error: StoreError,
}

/// Why the maps could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room.
    #[error("no room for {object} in the map {map}: enlarge it with {option}")]
    Full {
        /// The map.
        map: &'static str,
        /// What has no room.
        object: String,
        /// The option of the agent that makes room.
        option: &'static str,
    },
    /// A map could not be read.
    #[error("cannot read the map {map}: {source}")]
    Read {
        /// The map.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An entry could not be written.
    #[error("cannot write {object} to the map {map}: {source}")]
    Write {
        /// The map.
        map: &'static str,
        /// The entry.
        object: String,
        /// Why.
        source: io::Error,
    },
}

impl StoreError {
    /// The error of an op that failed with `source`.
    pub fn of(op: &Op, source: io::Error) -> Self {
        Self::Write { map: op.map(), object: op.to_string(), source }
    }

    /// The error of an op for which there was no room.
    pub fn full(op: &Op) -> Self {
        Self::Full { map: op.map(), object: op.to_string(), option: op.option() }
    }
}
