//! kubectl, as a person at the control plane types it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Plane, programs};

impl Plane<'_> {
    /// Runs `kubectl <args>` as one who may do everything, and returns what it prints.
    ///
    /// # Errors
    /// It failed; the error is what it says.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, "")
    }

    /// The same, with standard input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let output = self.run_kubectl(&self.kubeconfig(), self.alive(), args, input)?;
        if !output.status.success() {
            bail!("`kubectl {}` ended with {}: {}", args.join(" "), output.status, text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// Runs `kubectl <args>` with another kubeconfig, and returns all that comes of it.
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<Output> {
        self.run_kubectl(kubeconfig, self.alive(), args, "")
    }

    /// Declares objects, given as YAML.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        // By the server: the client would keep a copy of each manifest in the object.
        self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "--filename", "-"], manifests).map(drop)
    }

    /// `kubectl get <args> --output json`.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get"], args, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// Whether an object, given as `kind/name`, is in the namespace `default`.
    pub fn has(&self, object: &str) -> Result<bool> {
        Ok(!self.kubectl(&["get", object, "--ignore-not-found", "--output", "name"])?.trim().is_empty())
    }

    /// Whether API server number `n` says that it is ready.
    pub(super) fn is_ready(&self, n: usize) -> Result<bool> {
        let output = self.run_kubectl(&self.kubeconfig(), n, &["get", "--raw=/readyz"], "")?;
        Ok(output.status.success())
    }

    /// The number of an API server that runs.
    fn alive(&self) -> usize {
        self.servers.iter().position(super::Daemon::runs).unwrap_or_default()
    }

    fn run_kubectl(&self, kubeconfig: &Path, server: usize, args: &[&str], input: &str) -> Result<Output> {
        let mut command = Command::new(programs::program("kubectl")?);
        command.arg("--kubeconfig").arg(kubeconfig).arg("--server").arg(Self::url(server));
        command.arg("--cache-dir").arg(self.dir.join("kubectl-cache")).arg("--request-timeout=60s").args(args);
        command.env_remove("KUBECONFIG").env("HOME", &self.dir);
        // From a file: through a pipe, long input could wait for output that nobody reads yet.
        let file = self.input(input)?;
        command.stdin(File::open(&file).context("cannot open kubectl's input")?);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.ns.spawn(&mut command)?;
        // What has ended already needs no cgroup.
        let _ = fs::write(self.cgroup.0.join("cgroup.procs"), child.id().to_string());
        let output = child.wait_with_output().context("cannot wait for kubectl");
        let _ = fs::remove_file(file);
        output
    }

    fn input(&self, text: &str) -> Result<PathBuf> {
        static SEQUENCE: AtomicU32 = AtomicU32::new(0);
        let path = self.dir.join(format!("kubectl-{}", SEQUENCE.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, text).context("cannot write kubectl's input")?;
        Ok(path)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
