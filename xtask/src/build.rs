//! `cargo xtask build`: the eBPF object, then the `sluice` binary that carries it.
mod strip;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    process,
    setup::{self, Toolchain},
    workspace::{self, OBJECT_VARIABLE},
};

/// Builds both, and returns the binary's path.
pub(crate) fn run(release: bool) -> Result<PathBuf> {
    let toolchain = setup::for_build()?;
    object(&toolchain)?;
    binary(release)
}

/// Builds the eBPF object and leaves it where lb-userspace/build.rs looks for it.
pub(crate) fn object(toolchain: &Toolchain) -> Result<()> {
    let object = workspace::object();
    if std::env::var_os(OBJECT_VARIABLE).is_some_and(|path| !path.is_empty()) {
        if !object.is_file() {
            bail!("{OBJECT_VARIABLE} names {}, which is not a file", object.display());
        }
        println!("  ok  eBPF object: {} ({OBJECT_VARIABLE}); none is built", object.display());
        return Ok(());
    }
    let mut cargo = toolchain.cargo_build();
    for_bpf(&mut cargo, toolchain);
    process::run(&mut cargo).context("the eBPF programs do not compile")?;
    let built = workspace::bpf_built("sluice-ebpf");
    let built = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let changed = write_if_different(&strip::without_debug_information(&built)?, &object)?;
    let size = fs::metadata(&object).map_or(0, |meta| meta.len());
    let state = if changed { "new" } else { "unchanged" };
    println!("  ok  eBPF object: {} ({} KiB, {state})", object.display(), size / 1024);
    Ok(())
}

/// The arguments and flags with which lb-ebpf compiles, for `build` and `clippy` alike.
pub(crate) fn for_bpf(cargo: &mut std::process::Command, toolchain: &Toolchain) {
    // The programs read kernel structures (pt_regs), which differ by the machine they run on.
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let flags =
        ["-Clinker=bpf-linker", &arch, "-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"].map(String::from);
    let flags = [&flags[..], &without_paths()].concat();
    let path = toolchain.path();
    cargo
        .current_dir(workspace::root())
        .args(["--release", "--package", "lb-ebpf", "--target", workspace::BPF_TARGET, "--target-dir"])
        .arg(workspace::bpf_target_dir())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("PATH", process::path_with(&path.iter().map(PathBuf::as_path).collect::<Vec<_>>()));
}

/// Flags that keep this machine's folders out of what is compiled: debug information and messages of panics name source
/// files, and what is shipped shall be the same wherever it was built.
pub(crate) fn without_paths() -> [String; 2] {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    [remap(&setup::cargo_home(), "/cargo"), remap(workspace::root(), "/sluice")]
}

/// Builds the `sluice` binary; its build script embeds the object.
fn binary(release: bool) -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.current_dir(workspace::root()).args(["build", "--package", "lb-userspace", "--bin", "sluice"]);
    if release {
        cargo.arg("--release");
    }
    process::run(&mut cargo).context("the sluice binary does not compile")?;
    let binary = workspace::built("sluice", release);
    println!("  ok  binary: {}", binary.display());
    Ok(binary)
}

/// A file that did not change keeps its time, so that nothing is built again because of it.
fn write_if_different(new: &[u8], to: &Path) -> Result<bool> {
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    // Written beside and renamed: a cargo that looks at this moment sees the old object or the new one.
    let beside = to.with_extension("o.new");
    fs::write(&beside, new)
        .and_then(|()| fs::rename(&beside, to))
        .with_context(|| format!("cannot write {}", to.display()))?;
    Ok(true)
}

/// Builds all that tests and demo need in one go: cargo unites the features of the packages it is asked for, so
/// building one binary alone would compile half of the dependencies twice.
pub(crate) fn everything() -> Result<()> {
    process::run(process::cargo().current_dir(workspace::root()).arg("build")).context("the workspace does not compile")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("b.o");
        assert!(write_if_different(b"one", &to).unwrap());
        let time = fs::metadata(&to).unwrap().modified().unwrap();
        assert!(!write_if_different(b"one", &to).unwrap());
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), time);
        assert!(write_if_different(b"two", &to).unwrap());
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
    }
}
