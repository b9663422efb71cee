//! Several nodes.

mod coexistence;
mod health;
mod matrix;
mod world;
