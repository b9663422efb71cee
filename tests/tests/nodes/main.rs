//! Several nodes.

mod coexistence;
mod health;
mod leaving;
mod matrix;
mod rules;
mod world;
