//! Benchmarks. Machines are shared and noisy: what is compared is measured in turn in one run, and the minimum and the
//! median of many are given.

mod client;
pub mod control;
mod cpu;
pub mod datapath;
pub mod forward;
mod front;
pub mod network;
mod progress;
mod report;
mod subject;
mod usage;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use client::serve as client;

use report::Findings as _;

/// Puts the latest figures of every part, as they lie in `folder`, on one page; returns its path.
///
/// # Errors
/// The page cannot be written.
pub fn page(folder: &Path) -> Result<PathBuf> {
    let sections = [
        datapath::Report::section(folder)?,
        forward::Report::section(folder)?,
        network::Report::section(folder)?,
        control::Report::section(folder)?,
    ];
    report::write(folder, &sections.into_iter().flatten().collect::<Vec<_>>())
}
