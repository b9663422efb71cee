//! Several nodes.

mod coexistence;
mod matrix;
mod world;
