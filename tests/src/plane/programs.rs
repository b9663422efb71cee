//! Where the programs of Kubernetes are.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Names the folder, where it is not the one that `cargo xtask setup` makes.
const VARIABLE: &str = "SLUICE_KUBERNETES";

/// Why the control plane cannot run here, if so.
pub fn reason_to_skip() -> Option<String> {
    let needed = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];
    let lacking = needed.iter().find(|name| find(name).is_none())?;
    Some(format!("needs {lacking}: run `cargo xtask setup`, or name a folder in {VARIABLE}"))
}

/// The path of a program.
///
/// # Errors
/// It is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("cannot find the program `{name}`: run `cargo xtask setup`"))
}

fn find(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(VARIABLE).map(PathBuf::from).or_else(|| {
        let own = std::env::current_exe().ok()?;
        // Tests and the demo run from below the target directory.
        own.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).map(|target| target.join("kubernetes"))
    })?;
    Some(folder.join(name)).filter(|path| path.is_file())
}
