//! Several nodes.

mod coexistence;
mod health;
mod leaving;
mod matrix;
mod ports;
mod rules;
mod world;
