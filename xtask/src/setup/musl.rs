//! What a static binary needs: Rust's standard library for musl, and a C compiler for it (TLS has parts in C).
use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{failure::not_possible, process};

use super::{found, packages};

/// Finds or installs both, and returns the target: this machine's processor, with musl.
pub(super) fn prepare() -> Result<String> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    if !has_library(&target) {
        add_library(&target)?;
    }
    if packages::which("musl-gcc").is_none() {
        if !packages::have_apt() {
            return Err(not_possible("A static binary needs `musl-gcc`, which can only be installed here by hand."));
        }
        packages::install(&["musl-tools"], "compiling the C parts of a static binary")?;
    }
    found("Rust for static binaries", &format!("{target}, musl-gcc"));
    Ok(target)
}

/// Whether the compiler that cargo uses has the standard library of a target.
fn has_library(target: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let folder = process::ask(Command::new(rustc).args(["--print", "target-libdir", "--target", target]));
    folder.is_some_and(|folder| Path::new(&folder).is_dir())
}

fn add_library(target: &str) -> Result<()> {
    let sentence = format!("A static binary needs Rust's standard library for {target}");
    if packages::which("rustup").is_none() {
        return Err(not_possible(format!("{sentence}, and there is no rustup here to bring it.")));
    }
    println!("  ..  adding {target} to rustup's toolchain: the image's binary must need no library of the image");
    // RUSTUP_TOOLCHAIN names the toolchain of the cargo that runs this, so it is the one that gets it.
    let mut rustup = Command::new("rustup");
    process::run_slowly(&format!("rustup target add {target}"), rustup.args(["target", "add", target]))
        .map_err(|error| not_possible(format!("{sentence}, which rustup could not bring ({error}).")))
}
