//! `cargo xtask setup`: everything a machine needs to build Sluice, and to run its lab. Says what it installs and why;
//! a second run finds all of it and takes about a second.
mod go;
mod kernel;
mod kubernetes;
mod musl;
mod packages;
mod toolchain;

use anyhow::Result;

pub(crate) use packages::which;
pub(crate) use toolchain::{Toolchain, cargo_home};

/// Commands the lab calls: the command, its Debian package, and what it is for.
const LAB_COMMANDS: &[(&str, &str, &str)] = &[
    ("ip", "iproute2", "network namespaces and devices of the lab"),
    ("tc", "iproute2", "a look at what hangs at a device"),
    ("ethtool", "ethtool", "checksum and segmentation offloads of the lab's devices"),
    ("nft", "nftables", "rules of other software beside Sluice"),
    ("iptables", "iptables", "kube-proxy's mode iptables, which Sluice is measured beside"),
    ("nsenter", "util-linux", "a shell inside the lab"),
];

/// Commands with which a test runs the image as a node does.
const CONTAINER_COMMANDS: &[(&str, &str, &str)] = &[
    ("containerd", "containerd", "importing the image, and running it in a container"),
    ("ctr", "containerd", "telling containerd what to do"),
    ("runc", "runc", "running a container for containerd"),
];

/// Debian packages that the tests call and that have no command of their own: the package, and what it is for.
const TEST_PACKAGES: &[(&str, &str)] =
    &[("python3-prometheus-client", "the reference parser of OpenMetrics, which reads the agent's metrics in a test")];

/// Prepares a machine for everything.
pub(crate) fn run() -> Result<Toolchain> {
    let toolchain = for_lab()?;
    packages::need_packages(TEST_PACKAGES)?;
    toolchain.need_clippy()?;
    Ok(toolchain)
}

/// Prepares a machine for building, and for the lab: `demo` and `bench` stand on it.
pub(crate) fn for_lab() -> Result<Toolchain> {
    // The kernel first: where the lab cannot run, nothing shall be installed for it.
    kernel::check()?;
    packages::need_commands(LAB_COMMANDS)?;
    for_build()
}

/// What a real control plane in the lab needs, on top of [`run`].
pub(crate) fn for_kubernetes() -> Result<()> {
    kubernetes::prepare()
}

/// Only what building needs: works without root where nothing is to be installed.
pub(crate) fn for_build() -> Result<Toolchain> {
    let toolchain = toolchain::prepare()?;
    toolchain::need_linker(&toolchain)?;
    Ok(toolchain)
}

/// What the test of the image needs. Elsewhere than on Debian that test is skipped, and says so.
pub(crate) fn for_containers() -> Result<()> {
    if packages::have_apt() { packages::need_commands(CONTAINER_COMMANDS) } else { Ok(()) }
}

/// What building a static binary needs beside that: returns its target.
pub(crate) fn for_static() -> Result<String> {
    musl::prepare()
}

/// One short line for each thing that is there.
fn found(what: &str, detail: &str) {
    println!("  ok  {what}: {detail}");
}
