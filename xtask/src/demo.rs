//! `cargo xtask demo`: sets the machine up, builds, and runs the demo of crate `sluice-tests`.
use anyhow::{Context, Result};

use crate::{build, process, setup, workspace};

/// Runs the demo from nothing.
pub(crate) fn run(keep: bool, kubernetes: bool) -> Result<()> {
    let toolchain = setup::for_lab()?;
    if kubernetes {
        setup::for_kubernetes()?;
    }
    build::object(&toolchain)?;
    build::everything()?;
    show(keep, kubernetes)
}

/// Runs the demo that was built.
pub(crate) fn show(keep: bool, kubernetes: bool) -> Result<()> {
    let mut demo = std::process::Command::new(workspace::built("sluice-demo", false));
    demo.current_dir(workspace::root()).env(workspace::BINARY_VARIABLE, workspace::built("sluice", false));
    if keep {
        demo.arg("--keep");
    }
    if kubernetes {
        demo.arg("--kubernetes").env(workspace::KUBERNETES_VARIABLE, workspace::kubernetes());
    }
    process::run(&mut demo).context("the demo did not show what it should")
}
