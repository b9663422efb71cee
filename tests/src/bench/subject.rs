//! What is measured: the agent, and kube-proxy in its two modes, as processes on the node.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::control::objects;
use super::usage::{MapMemory, Usage};
use crate::lab::{Lab, NIC, cli, program as sluice};
use crate::plane::{Plane, program};

/// A start that takes longer is cut off.
pub(super) const START: Duration = Duration::from_secs(240);
/// How long a process may take to end.
const END: Duration = Duration::from_secs(20);

/// A program that makes Services work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Ours.
    Sluice,
    /// kube-proxy in its mode nftables.
    Nftables,
    /// kube-proxy in its mode iptables.
    Iptables,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sluice, Self::Nftables, Self::Iptables];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sluice => "Sluice",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        }
    }

    /// Starts it on a clean node. `options` are the agent's, beside those that it always has.
    pub(super) fn start<'a>(self, lab: &'a Lab, plane: &Plane<'_>, options: &[&str]) -> Result<Running<'a>> {
        let mut command = match self {
            Self::Sluice => agent(lab, plane, options)?,
            Self::Nftables => proxy(lab, plane, "nftables")?,
            Self::Iptables => proxy(lab, plane, "iptables")?,
        };
        let log = lab.dir().join(format!("{}.log", self.name().replace(' ', "-")));
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        command.stdin(Stdio::null());
        command.stdout(file.try_clone().context("cannot share a log")?).stderr(file);
        let began = Instant::now();
        let child = lab.node.spawn(&mut command)?;
        // In the lab's cgroup, so that it ends with the lab.
        fs::write(lab.cgroup().join("cgroup.procs"), child.id().to_string()).context("cannot move a process")?;
        let ready = (self == Self::Sluice).then(|| {
            let log = log.clone();
            thread::spawn(move || wait_for_ready(&log))
        });
        Ok(Running { subject: self, lab, child, log, began, ready })
    }
}

/// What kube-proxy says of itself.
pub(super) fn version() -> Result<String> {
    let output = Command::new(program("kube-proxy")?).arg("--version").output().context("cannot start kube-proxy")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(format!("kube-proxy {}", text.trim().trim_start_matches("Kubernetes ")))
}

fn agent(lab: &Lab, plane: &Plane<'_>, options: &[&str]) -> Result<Command> {
    let mut command = Command::new(sluice()?);
    command.args(["agent", "--kubeconfig"]).arg(plane.kubeconfig());
    command.arg("--run-dir").arg(lab.run_dir()).arg("--pin-root").arg(lab.bpffs()).arg("--cgroup").arg(lab.cgroup());
    command.args(["--node-name", "node", "--nic", NIC, "--pod-device", "pod-*"]).args(options);
    Ok(command)
}

/// As kubeadm configures it, but for limits of conntrack, which belong to the whole machine.
fn proxy(lab: &Lab, plane: &Plane<'_>, mode: &str) -> Result<Command> {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": "0.0.0.0",
        "clientConnection": { "kubeconfig": plane.kubeconfig() },
        "clusterCIDR": objects::CLUSTER,
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "hostnameOverride": "node",
        "mode": mode,
    });
    let path = lab.dir().join(format!("kube-proxy-{mode}.json"));
    fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(program("kube-proxy")?);
    command.arg("--config").arg(path);
    Ok(command)
}

/// A started program.
#[derive(Debug)]
pub(super) struct Running<'a> {
    subject: Subject,
    lab: &'a Lab,
    child: Child,
    log: PathBuf,
    /// Just before its process was made.
    pub(super) began: Instant,
    ready: Option<JoinHandle<Option<Instant>>>,
}

impl Running<'_> {
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(&self.child)
    }

    /// Fails, with the end of its log, if it runs no more.
    pub(super) fn expect_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot wait for a process")? {
            None => Ok(()),
            Some(status) => bail!("it ended with {status}; its log ends:\n{}", tail(&self.log)),
        }
    }

    /// For the agent: the time until it wrote that it was ready, which `sluice status` must confirm.
    pub(super) fn says_ready(&mut self) -> Result<Option<Duration>> {
        let Some(ready) = self.ready.take() else { return Ok(None) };
        let at = ready.join().unwrap_or_default();
        let at = at.with_context(|| format!("the agent never said ready; its log ends:\n{}", tail(&self.log)))?;
        let output = cli(self.lab, &["status", "-o", "json"])?;
        let status: Value = serde_json::from_slice(&output.stdout).context("`sluice status` printed no JSON")?;
        let agent = &status["agent"];
        ensure!(agent["ready"] == true && agent["pid"] == self.child.id(), "`sluice status` says {agent}");
        Ok(Some(at - self.began))
    }

    /// Kernel memory of the agent's maps.
    pub(super) fn maps(&self) -> Result<Option<MapMemory>> {
        if self.subject != Subject::Sluice {
            return Ok(None);
        }
        MapMemory::read(&lb_userspace::bpf::Pins::new(self.lab.bpffs()).maps()).map(Some)
    }

    /// Ends it and takes away all that it left on the node.
    pub(super) fn remove(mut self) -> Result<()> {
        self.end()?;
        match self.subject {
            Subject::Sluice => {
                let output = cli(self.lab, &["uninstall"])?;
                ensure!(output.status.success(), "`sluice uninstall`: {}", String::from_utf8_lossy(&output.stderr));
            }
            Subject::Nftables | Subject::Iptables => {
                // `kube-proxy --cleanup` leaves the base chains of iptables, and with them connection tracking.
                let status = self.lab.node.spawn(Command::new("nft").args(["flush", "ruleset"]))?.wait()?;
                ensure!(status.success(), "`nft flush ruleset` ended with {status}");
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).context("cannot signal a process")?;
        let start = Instant::now();
        while start.elapsed() < END {
            if self.child.try_wait().context("cannot wait for a process")?.is_some() {
                return Ok(());
            }
            sleep(Duration::from_millis(10));
        }
        bail!("{} did not end within {} s of SIGTERM", self.subject.name(), END.as_secs())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The moment at which the agent's log says that the agent is ready.
fn wait_for_ready(log: &Path) -> Option<Instant> {
    let end = Instant::now() + START;
    while Instant::now() < end {
        if fs::read_to_string(log).is_ok_and(|text| text.contains(" ready: ")) {
            return Some(Instant::now());
        }
        sleep(Duration::from_millis(5));
    }
    None
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
