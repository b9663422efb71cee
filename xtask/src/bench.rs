//! `cargo xtask bench`: sets the machine up, builds for release, and runs the benchmarks of crate `sluice-tests`.
use std::process::Command;

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
    /// How fast what is written in the Kubernetes API reaches the packets, and what it costs, beside kube-proxy
    Control {
        /// 100 Services and few changes: to see that it works, not what it costs
        #[arg(long, conflicts_with = "services")]
        quick: bool,
        /// Numbers of Services, ascending, with commas between [default: 100,1000,10000]
        #[arg(long, value_delimiter = ',', value_name = "N")]
        services: Vec<u32>,
        /// Changes with pauses between, and as many back to back [default: 30]
        #[arg(long, conflicts_with = "quick", value_name = "N")]
        changes: Option<u32>,
        /// What to measure, with commas between [default: sluice,nftables,iptables]
        #[arg(long, value_name = "NAMES")]
        subjects: Option<String>,
    },
}

/// Measures. The figures stay under target/bench.
pub(crate) fn run(part: &Part) -> Result<()> {
    let toolchain = setup::for_lab()?;
    if matches!(part, Part::Control { .. }) {
        setup::for_kubernetes()?;
    }
    build::object(&toolchain)?;
    let mut cargo = process::cargo();
    cargo.current_dir(workspace::root()).args(["build", "--release", "--bin", "sluice-bench", "--bin", "sluice"]);
    process::run(&mut cargo).context("the benchmarks do not compile")?;
    let mut bench = Command::new(workspace::built("sluice-bench", true));
    let json = |name: &str| workspace::target_dir().join("bench").join(name);
    match part {
        Part::Datapath { quick } => {
            bench.arg("datapath").arg("--front").arg(workspace::bpf_built("sluice-bench"));
            bench.arg("--json").arg(json("datapath.json"));
            if *quick {
                bench.args(["--runs", "3", "--rounds", "20000", "--services", "10000"]);
            }
        }
        Part::Control { quick, services, changes, subjects } => {
            bench.arg("control").arg("--json").arg(json("control.json"));
            bench.env(workspace::BINARY_VARIABLE, workspace::built("sluice", true));
            bench.env(workspace::KUBERNETES_VARIABLE, workspace::kubernetes());
            if *quick {
                bench.args(["--services", "100", "--changes", "3"]);
            } else if !services.is_empty() {
                let services: Vec<_> = services.iter().map(u32::to_string).collect();
                bench.arg("--services").arg(services.join(","));
            }
            if let Some(changes) = changes {
                bench.arg("--changes").arg(changes.to_string());
            }
            if let Some(subjects) = subjects {
                bench.arg("--subjects").arg(subjects);
            }
        }
    }
    process::run(&mut bench).context("the benchmark failed")
}
