//! `cargo xtask bench`: sets the machine up, builds for release, and runs the benchmarks of crate `sluice-tests`.
use anyhow::{Context, Result};
use clap::Subcommand;

use crate::{build, process, setup, workspace};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Nanoseconds per packet of the programs in the kernel, by kind of packet
    Datapath {
        /// Fewer runs and packets: to see that it works, not what it costs
        #[arg(long)]
        quick: bool,
    },
}

/// Measures. The figures stay under target/bench.
pub(crate) fn run(part: &Part) -> Result<()> {
    let Part::Datapath { quick } = part;
    let toolchain = setup::for_lab()?;
    build::object(&toolchain)?;
    let mut cargo = process::cargo();
    cargo.current_dir(workspace::root()).args(["build", "--release", "--bin", "sluice-bench"]);
    process::run(&mut cargo).context("the benchmarks do not compile")?;
    let mut bench = std::process::Command::new(workspace::built("sluice-bench", true));
    bench.arg("datapath").arg("--front").arg(workspace::bpf_built("sluice-bench"));
    bench.arg("--json").arg(workspace::target_dir().join("bench/datapath.json"));
    if *quick {
        bench.args(["--runs", "3", "--rounds", "20000", "--services", "10000"]);
    }
    process::run(&mut bench).context("the benchmark failed")
}
