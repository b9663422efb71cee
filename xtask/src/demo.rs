//! `cargo xtask demo`: sets the machine up, builds, and runs the demo of crate `sluice-tests`.
use anyhow::{Context, Result};

use crate::{build, process, setup, workspace};

/// Runs the demo from nothing.
pub(crate) fn run(keep: bool) -> Result<()> {
    let toolchain = setup::for_lab()?;
    build::object(&toolchain)?;
    build::everything()?;
    show(keep)
}

/// Runs the demo that was built.
pub(crate) fn show(keep: bool) -> Result<()> {
    let mut demo = std::process::Command::new(workspace::built("sluice-demo", false));
    demo.current_dir(workspace::root()).env(workspace::BINARY_VARIABLE, workspace::built("sluice", false));
    if keep {
        demo.arg("--keep");
    }
    process::run(&mut demo).context("the demo did not show what it should")
}
