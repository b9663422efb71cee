//! Where things are: the checkout, the target directory, and the files other tasks leave there.
use std::{
    env,
    path::{Path, PathBuf},
};

/// The variable that names a ready eBPF object; then none is built.
pub(crate) const OBJECT_VARIABLE: &str = "SLUICE_BPF_OBJECT";

/// The top of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies one level below the top of the checkout")
}

/// Cargo's target directory.
pub(crate) fn target_dir() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
    root().join(target.unwrap_or_else(|| "target".into()))
}

/// The target directory of the BPF side: other flags and another compiler, so never shared with the host side.
pub(crate) fn bpf_target_dir() -> PathBuf {
    target_dir().join("bpf")
}

/// The eBPF object that the `sluice` binary embeds. lb-userspace/build.rs knows the same place.
pub(crate) fn object() -> PathBuf {
    match env::var_os(OBJECT_VARIABLE) {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => bpf_target_dir().join("sluice-ebpf.o"),
    }
}

/// Tells the tests and the demo where the `sluice` binary is. No build script reads it, so setting it rebuilds nothing.
pub(crate) const BINARY_VARIABLE: &str = "SLUICE_BIN";

/// Tells the tests and the demo where the programs of Kubernetes are.
pub(crate) const KUBERNETES_VARIABLE: &str = "SLUICE_KUBERNETES";

/// The folder of links to the programs of Kubernetes.
pub(crate) fn kubernetes() -> PathBuf {
    target_dir().join("kubernetes")
}

/// The target of the programs. Little endian: Sluice has no user on a big endian machine.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// A binary of the given profile.
pub(crate) fn built(name: &str, release: bool) -> PathBuf {
    target_dir().join(if release { "release" } else { "debug" }).join(name)
}

/// An eBPF object as the linker left it.
pub(crate) fn bpf_built(name: &str) -> PathBuf {
    bpf_target_dir().join(BPF_TARGET).join("release").join(name)
}
