//! `cargo xtask differential`: sets the machine up, builds, and runs Sluice beside the real kube-proxy.
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::{build, process, setup, workspace};

/// How much of it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Random clusters
    #[arg(long, value_name = "N", default_value_t = 100)]
    clusters: u64,
    /// Seed of the first; the next ones have those after it
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Changes of each cluster
    #[arg(long, value_name = "N", default_value_t = 5)]
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

/// Compares.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = setup::for_lab()?;
    setup::for_kubernetes()?;
    build::object(&toolchain)?;
    build::everything()?;
    let Arguments { clusters, seed, changes, vxlan, bridge, self_check } = arguments;
    let mut differential = Command::new(workspace::built("sluice-differential", false));
    for (name, value) in [("--clusters", *clusters), ("--seed", *seed), ("--changes", *changes as u64)] {
        differential.arg(name).arg(value.to_string());
    }
    for (name, wanted) in [("--vxlan", *vxlan), ("--bridge", *bridge), ("--self-check", *self_check)] {
        differential.args(wanted.then_some(name));
    }
    differential.env(workspace::BINARY_VARIABLE, workspace::built("sluice", false));
    differential.env(workspace::KUBERNETES_VARIABLE, workspace::kubernetes());
    process::run(&mut differential).context("Sluice and kube-proxy differ, or could not be compared")
}
