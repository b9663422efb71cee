//! A containerd of the lab's own, as on a node, and containers in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_tests::lab::Lab;

/// What `ctr` gives a container unasked (containerd's `oci.WithDefaultUnixCaps`); a pod drops them all.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// How long starting may take; far longer than it should on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there can be none here, if so.
pub(crate) fn reason_to_skip() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let lacking = ["containerd", "ctr", "runc"].into_iter().find(|name| !is_there(name))?;
    Some(format!("needs {lacking} (Debian: containerd)"))
}

/// A running containerd, in the network of the lab's node. Its mounts are in a namespace of its own and its processes in
/// the lab's cgroup, so nothing outlives the lab.
pub(crate) struct Containerd<'a> {
    lab: &'a Lab,
    dir: PathBuf,
    child: Child,
}

impl<'a> Containerd<'a> {
    pub(crate) fn start(lab: &'a Lab) -> Result<Self> {
        let dir = lab.dir().join("containerd");
        fs::create_dir(&dir).context("cannot make containerd's folder")?;
        let config = format!(
            "version = 2\nroot = '{0}/root'\nstate = '{0}/state'\n\
             disabled_plugins = ['io.containerd.grpc.v1.cri']\n\
             [grpc]\naddress = '{0}/socket'\n[ttrpc]\naddress = '{0}/ttrpc'\n",
            dir.display()
        );
        fs::write(dir.join("config.toml"), config).context("cannot write containerd's configuration")?;
        let log = fs::File::create(dir.join("log")).context("cannot make containerd's log")?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "containerd", "--config"]).arg(dir.join("config.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = lab.node.spawn(&mut command)?;
        fs::write(lab.cgroup().join("cgroup.procs"), child.id().to_string()).context("cannot move containerd")?;
        let mut containerd = Self { lab, dir, child };
        containerd.wait_ready()?;
        Ok(containerd)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().context("cannot wait for containerd")? {
                bail!("containerd ended with {status}:\n{}", self.log());
            }
            if self.dir.join("socket").exists() && self.ctr(&["version"]).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("containerd was not ready after {} s:\n{}", PATIENCE.as_secs(), self.log())
    }

    /// What it says of its work.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Runs `ctr`, and wants it to succeed.
    pub(crate) fn ctr(&self, args: &[&str]) -> Result<String> {
        let output = self.try_ctr(args)?;
        if !output.status.success() {
            bail!("`ctr {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `ctr` as the kubelet's images and containers are kept.
    pub(crate) fn try_ctr(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("socket")).args(["--namespace", "k8s.io"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.lab.node.spawn(&mut command)?;
        child.wait_with_output().context("cannot wait for `ctr`")
    }

    /// The options of `ctr run` for a container that is confined as a pod of Sluice is.
    pub(crate) fn confined(&self, capabilities: &[String], mounts: &[(PathBuf, String, bool)]) -> Vec<String> {
        let own = |folder: &str| self.dir.join(folder).display().to_string();
        let mut options: Vec<_> = ["--net-host", "--read-only", "--seccomp", "--cgroup", ""].map(str::to_owned).into();
        // Their usual places are the machine's.
        options.extend(["--fifo-dir".into(), own("fifos"), "--runc-root".into(), own("runc")]);
        let dropped = DEFAULT_CAPABILITIES.iter().filter(|name| !capabilities.iter().any(|kept| kept == *name));
        options.extend(dropped.flat_map(|name| ["--cap-drop".into(), format!("CAP_{name}")]));
        options.extend(capabilities.iter().flat_map(|name| ["--cap-add".into(), format!("CAP_{name}")]));
        options.extend(mounts.iter().flat_map(|(from, to, write)| {
            let access = if *write { "rw" } else { "ro" };
            ["--mount".into(), format!("type=bind,src={},dst={to},options=rbind:{access}", from.display())]
        }));
        options
    }

    /// Where a detached container writes what it says.
    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        self.dir.join(name).with_extension("log")
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a file holds, if it is there yet.
pub(crate) fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
