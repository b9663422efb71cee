//! From kube-proxy to Sluice and back, as docs/kubernetes.md tells it, with a real kube-proxy and requests all the while.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_tests::lab::{Agent, AgentOptions, Exchange, FAMILIES, Family, Lab, Load, Pod, cluster_ips, endpoint_slice};
use sluice_tests::plane::{Plane, PlaneOptions, program, service, together};
use sluice_tests::plane_or_skip;

use super::containerd::text;

fn web(family: Family) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(10), 80)
}

/// kube-proxy on the lab's node. It ends with the lab at the latest.
struct KubeProxy<'a> {
    lab: &'a Lab,
    kubeconfig: PathBuf,
    child: Child,
}

impl<'a> KubeProxy<'a> {
    fn start(lab: &'a Lab, kubeconfig: PathBuf) -> Result<Self> {
        let child = Self::run(lab, &kubeconfig, &[])?;
        Ok(Self { lab, kubeconfig, child })
    }

    fn run(lab: &Lab, kubeconfig: &PathBuf, further: &[&str]) -> Result<Child> {
        let log = File::create(lab.dir().join("kube-proxy.log")).context("cannot make a log")?;
        let mut command = Command::new(program("kube-proxy")?);
        command.arg("--kubeconfig").arg(kubeconfig).args(["--proxy-mode", "nftables", "--hostname-override", "node"]);
        // These are sysctls of the whole machine: it leaves them alone.
        command.args(["--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0"]);
        command.args(["--conntrack-tcp-timeout-close-wait=0"]).args(further);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = lab.node.spawn(&mut command)?;
        fs::write(lab.cgroup().join("cgroup.procs"), child.id().to_string()).context("cannot move kube-proxy")?;
        Ok(child)
    }

    /// As deleting its DaemonSet does: its rules stay.
    fn end(&mut self) -> Result<()> {
        self.child.kill().context("cannot end kube-proxy")?;
        self.child.wait().map(drop).context("cannot wait for kube-proxy")
    }

    /// As deploy/kube-proxy-cleanup.yaml does.
    fn clean_up(&self) -> Result<()> {
        let status = Self::run(self.lab, &self.kubeconfig, &["--cleanup"])?.wait()?;
        if !status.success() {
            bail!("`kube-proxy --cleanup` failed: {}", self.log());
        }
        Ok(())
    }

    fn log(&self) -> String {
        text(&self.lab.dir().join("kube-proxy.log"))
    }
}

impl Drop for KubeProxy<'_> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Whether each request of a pod over both families is answered.
fn is_served(client: &Pod) -> Result<bool> {
    for family in FAMILIES {
        let load = Load { timeout_ms: 500, ..Load::new(Exchange::Http, web(family), 5) };
        if !client.client().run(load)?.failures().is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn wait_until_served(client: &Pod, by: &KubeProxy<'_>) -> Result<()> {
    let start = Instant::now();
    while !is_served(client)? {
        if start.elapsed() > Duration::from_secs(30) {
            bail!("kube-proxy serves nothing after 30 s: {}", by.log());
        }
    }
    Ok(())
}

#[test]
fn no_request_fails_on_the_way_from_kube_proxy_to_sluice_and_back() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let plane = Plane::start(&lab, PlaneOptions { api_servers: 1, controllers: false })?;
    let client = lab.bare_pod("client", 40)?;
    let pods = [lab.pod("web-1", 11)?, lab.pod("web-2", 12)?];
    let slices = FAMILIES.map(|family| {
        let ips: Vec<_> = pods.iter().map(|pod| pod.ip(family)).collect();
        endpoint_slice(&format!("web-{family:?}").to_lowercase(), "web", &ips)
    });
    plane.apply(&together([service("web", &cluster_ips(10))].into_iter().chain(slices)))?;
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node}\n";
    plane.apply(node)?;
    let status = r#"{"status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.1"}]}}"#;
    plane.kubectl(&["patch", "node", "node", "--subresource=status", "--patch", status])?;

    assert!(!is_served(&client)?, "somebody serves the Service before anybody was started");
    let mut proxy = KubeProxy::start(&lab, plane.kubeconfig())?;
    wait_until_served(&client, &proxy)?;

    let loads = FAMILIES.map(|family| client.client().start(Load::steady(Exchange::Http, web(family), 5)));
    let pause = || sleep(Duration::from_millis(700));
    pause();
    let mut agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    pause();
    proxy.end()?;
    proxy.clean_up()?;
    pause();
    assert!(agent.json(&["flows"])?.as_array().is_some_and(|flows| !flows.is_empty()), "Sluice carries the requests");

    let mut proxy = KubeProxy::start(&lab, plane.kubeconfig())?;
    sleep(Duration::from_secs(4));
    agent.kill()?;
    let removed = agent.cli(&["uninstall", "--drain", "20s"])?;
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    pause();
    for load in loads {
        let report = load?.stop()?;
        assert!(report.answers.len() > 200, "{} requests only", report.answers.len());
        assert_eq!(report.failures(), [""; 0], "of {}", report.answers.len());
    }
    proxy.end()?;
    proxy.clean_up()?;
    assert!(!is_served(&client)?, "nobody is left");
    Ok(())
}
