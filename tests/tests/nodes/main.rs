//! Several nodes.

mod coexistence;
mod health;
mod matrix;
mod rules;
mod world;
