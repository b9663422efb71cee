//! `cargo xtask bench`: sets the machine up, builds for release, and runs the benchmarks of crate `sluice-tests`.
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::{build, process, setup, workspace};

/// What to measure, and how long.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only these parts, in this order
    parts: Vec<Part>,
    /// A few minutes: to see that it works, not what it costs
    #[arg(long)]
    quick: bool,
    /// Numbers of Services in the API, ascending, with commas between [default: as each part needs]
    #[arg(long, value_delimiter = ',', value_name = "N")]
    services: Vec<u32>,
    /// For control: changes with pauses between, and as many back to back [default: 30]
    #[arg(long, value_name = "N")]
    changes: Option<u32>,
    /// For control: what to measure, with commas between [default: sluice,nftables,iptables]
    #[arg(long, value_name = "NAMES")]
    subjects: Option<String>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Nanoseconds per packet of the programs in the kernel, by kind of packet
    Datapath,
    /// Packets a second that one CPU sends on to a backend on another node, beside kube-proxy and plain forwarding
    Forward,
    /// Round trips, connections and bulk from pod to pod through a Service, beside kube-proxy and no Service
    Network,
    /// How fast what is written in the Kubernetes API reaches the packets, and what it costs, beside kube-proxy
    Control,
}

/// Tells the benchmarks of which commit they are.
const REVISION_VARIABLE: &str = "SLUICE_REVISION";

/// Measures. The figures, and a page with plots, stay under target/bench.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = setup::for_lab()?;
    if arguments.parts != [Part::Datapath] {
        setup::for_kubernetes()?;
    }
    build::object(&toolchain)?;
    let mut cargo = process::cargo();
    cargo.current_dir(workspace::root()).args(["build", "--release", "--bin", "sluice"]);
    cargo.args(["--bin", "sluice-bench", "--bin", "sluice-bench-client"]);
    process::run(&mut cargo).context("the benchmarks do not compile")?;
    let mut bench = Command::new(workspace::built("sluice-bench", true));
    bench.args(arguments.parts.iter().filter_map(Part::to_possible_value).map(|part| part.get_name().to_owned()));
    bench.arg("--programs").arg(workspace::bpf_built("sluice-bench"));
    bench.arg("--out").arg(workspace::target_dir().join("bench"));
    bench.env(workspace::BINARY_VARIABLE, workspace::built("sluice", true));
    bench.env(workspace::KUBERNETES_VARIABLE, workspace::kubernetes());
    let mut git = Command::new("git");
    git.current_dir(workspace::root()).args(["describe", "--always", "--dirty"]);
    bench.env(REVISION_VARIABLE, process::ask(&mut git).unwrap_or_default());
    if arguments.quick {
        bench.arg("--quick");
    }
    if !arguments.services.is_empty() {
        let services: Vec<_> = arguments.services.iter().map(u32::to_string).collect();
        bench.arg("--services").arg(services.join(","));
    }
    if let Some(changes) = arguments.changes {
        bench.arg("--changes").arg(changes.to_string());
    }
    if let Some(subjects) = &arguments.subjects {
        bench.arg("--subjects").arg(subjects);
    }
    process::run(&mut bench).context("the benchmark failed")
}
