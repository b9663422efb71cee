//! The way from one image of the maps to another, in an order in which no packet ever sees half a Service.

mod op;

pub use op::{FamilyOp, Op};
