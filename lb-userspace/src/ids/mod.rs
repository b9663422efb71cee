//! Numbers for things: ids of backends and Service ports, places of Maglev tables.
//!
//! A thing keeps its number as long as anybody uses it. A number that nobody uses rests before another thing gets
//! it: a packet in flight may still be on its way through the tables with it. The rest begins only when the store
//! has taken the change ([`Pool::settle`]): until then the maps still say that the number is in use.
//!
//! Pure: time enters as an argument.

mod extents;
mod pool;
mod runs;
mod uses;

use std::time::Duration;

pub use extents::Extents;
pub use pool::Pool;
pub use runs::{Run, Runs};

/// How long numbers rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// From the last use until an entry leaves the maps, or its slots may be overwritten.
    pub entry: Duration,
    /// From the last use until another thing may get the same id.
    pub id: Duration,
}

impl Rest {
    /// An entry rests for 2 s: it has to outlast packets inside the programs, which take microseconds, and a virtual
    /// CPU that its host does not run for a while. An id rests for a minute: flow entries name ids, and a sweep must
    /// have seen all of them before one means something else.
    pub const DEFAULT: Self = Self { entry: Duration::from_secs(2), id: Duration::from_secs(60) };
}

/// There is no number left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {capacity} are taken")]
pub struct Exhausted {
    /// How many there are in all.
    pub capacity: u32,
}
