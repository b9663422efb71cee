//! Benchmarks. Machines are shared and noisy: what is compared is measured in turn in one run, and the minimum and the
//! median of many are given.

pub mod control;
pub mod datapath;
mod front;
mod report;
mod world;
