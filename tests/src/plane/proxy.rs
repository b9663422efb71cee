//! The real kube-proxy on a node of the lab.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::program;
use crate::lab::Node;

/// The addresses of all pods of all labs, IPv4 first.
const CLUSTER_CIDRS: &str = "10.244.0.0/16,fd00:244::/48";

/// How kube-proxy programs the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// nftables.
    Nftables,
    /// iptables.
    Iptables,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// A running kube-proxy. Dropping it kills the process, and leaves its rules.
#[derive(Debug)]
pub struct KubeProxy<'a> {
    node: &'a Node,
    config: PathBuf,
    child: Child,
}

impl<'a> KubeProxy<'a> {
    /// Starts it, as kubeadm configures it but for two things: limits of conntrack belong to the whole machine, and
    /// are left alone; and it rests shorter between two writes of its rules, since tests wait for them.
    pub fn start(node: impl Into<&'a Node>, kubeconfig: &Path, mode: Mode) -> Result<Self> {
        Self::start_with(node, kubeconfig, mode, "primary")
    }

    /// The same, with NodePorts at these of the node's addresses, listed with commas. At `localhost` they are an alpha
    /// feature, which is switched on.
    pub fn start_with(
        node: impl Into<&'a Node>,
        kubeconfig: &Path,
        mode: Mode,
        node_port_addresses: &str,
    ) -> Result<Self> {
        let node = node.into();
        let addresses: Vec<_> = node_port_addresses.split(',').collect();
        let pace = json!({ "minSyncPeriod": "100ms", "syncPeriod": "30s" });
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "bindAddress": "0.0.0.0",
            "clientConnection": { "kubeconfig": kubeconfig },
            "clusterCIDR": CLUSTER_CIDRS,
            "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
            "featureGates": { "KubeProxyNFTablesLocalhostNodePorts": addresses.contains(&"localhost") },
            "hostnameOverride": node.name(),
            "iptables": pace,
            "mode": mode.name(),
            "nftables": pace,
            "nodePortAddresses": addresses,
        });
        let path = node.dir().join("kube-proxy.json");
        fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        let child = run(node, &path, &[])?;
        Ok(Self { node, config: path, child })
    }

    /// As deleting its DaemonSet does: its rules stay.
    pub fn end(&mut self) -> Result<()> {
        self.child.kill().context("cannot end kube-proxy")?;
        self.child.wait().map(drop).context("cannot wait for kube-proxy")
    }

    /// As deploy/kube-proxy-cleanup.yaml does.
    pub fn clean_up(&self) -> Result<()> {
        let status = run(self.node, &self.config, &["--cleanup"])?.wait().context("cannot wait for kube-proxy")?;
        if !status.success() {
            bail!("`kube-proxy --cleanup` failed: {}", self.log());
        }
        Ok(())
    }

    /// What its last process has written.
    pub fn log(&self) -> String {
        let text = fs::read(log(self.node)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for KubeProxy<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(node: &Node) -> PathBuf {
    node.dir().join("kube-proxy.log")
}

fn run(node: &Node, config: &Path, further: &[&str]) -> Result<Child> {
    let log = File::create(log(node)).context("cannot make a log")?;
    let mut command = Command::new(program("kube-proxy")?);
    command.arg("--config").arg(config).args(further);
    command.stdin(Stdio::null()).stdout(log.try_clone().context("cannot share a log")?).stderr(log);
    let child = node.spawn(&mut command)?;
    // In the lab's cgroup, so that it ends with the lab at the latest.
    fs::write(node.cgroup().join("cgroup.procs"), child.id().to_string()).context("cannot move kube-proxy")?;
    Ok(child)
}
