//! `cargo xtask image`: the container image, without Docker: a static binary in an archive that containerd imports.
mod archive;
mod elf;
mod name;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{build, failure::not_possible, process, setup, workspace};

use archive::{Archive, Labels};
use name::Name;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The image's name, its content, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image's whole name, with registry and tag
    #[arg(long, value_name = "NAME", default_value_t = Name::of_version(VERSION))]
    tag: Name,
    /// The archive to write [default: target/image/sluice-<version>-<architecture>.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A static `sluice` to take, instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// For tests: link what `cargo build` has compiled once more, with this machine's C library; seconds, not minutes
    #[arg(long, conflicts_with = "binary")]
    quick: bool,
}

/// Builds the binary unless there is one, packs it, and says what came of it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let binary = match &arguments.binary {
        Some(file) => file.clone(),
        None if arguments.quick => relinked_binary()?,
        None => static_binary()?,
    };
    let content = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let architecture = elf::architecture_of_static(&content)
        .map_err(|why| not_possible(format!("{} does not run in an empty image: {why}.", binary.display())))?;
    let labels = Labels { version: VERSION, revision: revision() };
    let archive = Archive::new(&content, architecture, &arguments.tag, &labels)?;

    let file = arguments
        .output
        .clone()
        .unwrap_or_else(|| workspace::target_dir().join(format!("image/sluice-{VERSION}-{architecture}.tar")));
    write_beside(&file, &archive.bytes)?;
    println!("  ok  image: {} for linux/{architecture}", arguments.tag);
    println!("      {}", archive.digest);
    println!(
        "      {} (binary {}, archive {})",
        file.display(),
        mebibytes(content.len()),
        mebibytes(archive.bytes.len())
    );
    println!("      import it on a node: ctr -n k8s.io images import {}", file.display());
    Ok(())
}

/// Tells the tests where an archive is.
pub(crate) const VARIABLE: &str = "SLUICE_IMAGE";

/// Makes an image of the debug binary, for the tests that import and run one.
pub(crate) fn for_tests() -> Result<PathBuf> {
    let file = workspace::target_dir().join("image/test.tar");
    let tag = "localhost/sluice:test".parse().map_err(anyhow::Error::msg)?;
    run(&Arguments { tag, output: Some(file.clone()), binary: None, quick: true })?;
    Ok(file)
}

/// Compiles `sluice` with musl, so that it needs nothing of the image.
fn static_binary() -> Result<PathBuf> {
    let toolchain = setup::for_build()?;
    let target = setup::for_static()?;
    build::object(&toolchain)?;
    let mut cargo = process::cargo();
    cargo
        .current_dir(workspace::root())
        .args(["build", "--package", "lb-userspace", "--bin", "sluice", "--profile", "image", "--target", &target])
        .env("CARGO_ENCODED_RUSTFLAGS", build::without_paths().join("\x1f"));
    process::run(&mut cargo).context("the static binary does not compile")?;
    Ok(workspace::target_dir().join(target).join("image/sluice"))
}

/// Links the debug binary with the C library inside. Only the last step of the compiler sees the flag, so all that it
/// links is there already. A target directory of its own keeps the usual binary as it was.
fn relinked_binary() -> Result<PathBuf> {
    let target = workspace::target_dir().join("image/quick");
    let mut cargo = process::cargo();
    cargo.current_dir(workspace::root()).args([
        "rustc",
        "--package",
        "lb-userspace",
        "--bin",
        "sluice",
        "--target-dir",
    ]);
    cargo.arg(&target).args(["--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"]);
    if std::env::var_os("CARGO_BUILD_BUILD_DIR").is_none() {
        cargo.env("CARGO_BUILD_BUILD_DIR", workspace::target_dir());
    }
    process::run(&mut cargo).context("the static debug binary does not link")?;
    Ok(target.join("debug/sluice"))
}

/// The commit, with `-dirty` if the tree holds more than that.
fn revision() -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(workspace::root()).args(["describe", "--always", "--dirty", "--abbrev=40", "--match="]);
    process::ask(&mut git)
}

/// Written beside and renamed: whoever imports at this moment sees the old archive or the new one.
fn write_beside(file: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let beside = file.with_extension("tar.new");
    fs::write(&beside, bytes)
        .and_then(|()| fs::rename(&beside, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
