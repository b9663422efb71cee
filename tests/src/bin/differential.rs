//! Sluice beside the real kube-proxy, with random clusters; `cargo xtask differential` builds what it needs and runs it.

use std::process::ExitCode;

use clap::Parser;
use sluice_tests::differential::{Options, Subject, run};
use sluice_tests::lab::{Network, Wiring, WorldOptions};

/// Compares Sluice with the real kube-proxy, in twin worlds.
#[derive(Debug, Parser)]
#[command(name = "sluice-differential")]
struct Arguments {
    /// Random clusters
    #[arg(long, default_value_t = 100)]
    clusters: u64,
    /// Seed of the first; the next ones have those after it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Changes of each cluster
    #[arg(long, default_value_t = 5)]
    changes: usize,
    /// Lead packets to other nodes' pods over VXLAN, in place of routes
    #[arg(long)]
    vxlan: bool,
    /// Wire pods to a bridge, in place of point-to-point links
    #[arg(long)]
    bridge: bool,
    /// Run kube-proxy in both worlds, with all it knows: what differs then is the lab's own doing
    #[arg(long)]
    self_check: bool,
}

fn main() -> ExitCode {
    let Arguments { clusters, seed, changes, vxlan, bridge, self_check } = Arguments::parse();
    let network = if vxlan { Network::Vxlan } else { Network::Routed };
    let wiring = if bridge { Wiring::Bridge } else { Wiring::PointToPoint };
    let world = WorldOptions { network, wiring };
    let beside = if self_check { Subject::KubeProxy } else { Subject::Sluice };
    match run(&Options { clusters, seed, changes, world, beside }) {
        Ok(report) => {
            println!("{report}");
            if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
