//! Puts the eBPF object where the binary embeds it: `OUT_DIR/sluice-ebpf.o`.
//!
//! `cargo xtask build` leaves the object at `target/bpf/sluice-ebpf.o`; `SLUICE_BPF_OBJECT` names another one.
//! The default is a fixed place, not only the variable, so that plain `cargo` and `cargo xtask` see the same
//! input: switching a variable back and forth would compile this crate and all that depends on it each time.
//! Without an object the embedded file is empty, so that `cargo check`, `clippy` and `test` need no BPF toolchain.
use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

const OBJECT: &str = "SLUICE_BPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");

    let embedded = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("sluice-ebpf.o");
    let done = match env::var_os(OBJECT) {
        Some(path) if !path.is_empty() => {
            embed(Path::new(&path), &embedded).map_err(|e| format!("{OBJECT} names {}: {e}", path.display()))
        }
        _ => embed_default(&embedded).map_err(|e| format!("cannot write {}: {e}", embedded.display())),
    };
    if let Err(message) = done {
        println!("cargo::error={message}");
    }
}

/// Copies the object and asks cargo to look at it again next time.
fn embed(object: &Path, embedded: &Path) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", object.display());
    fs::copy(object, embedded).map(drop)
}

/// Embeds the object of the last `cargo xtask build`, or nothing.
fn embed_default(embedded: &Path) -> io::Result<()> {
    let object = default_object();
    // Cargo runs a build script again and again for a watched path that does not exist, so there is always a
    // file, if only an empty one. Where the tree cannot be written there is nothing to watch either.
    if !object.exists() && create_empty(&object).is_err() {
        return fs::write(embedded, []);
    }
    embed(&object, embedded)
}

/// Where `cargo xtask build` leaves the object; the same rule stands in xtask/src/workspace.rs.
fn default_object() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
    root.join(target.unwrap_or_else(|| "target".into())).join("bpf/sluice-ebpf.o")
}

fn create_empty(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path.parent().expect("the path has a folder"))?;
    fs::write(path, [])
}
