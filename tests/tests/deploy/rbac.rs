//! The manifests before a real API server: it takes them, and their ServiceAccount may do what the agent does, no more.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sluice_tests::lab::{Lab, program};
use sluice_tests::plane::{Plane, PlaneOptions};
use sluice_tests::plane_or_skip;

use super::containerd::text;
use super::manifests::{chart, run};
use super::pod::{documents, file};

/// An address that the node has itself, so that the agent reports the Service.
const OWN: &str = "10.96.0.66";
const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.66, ports: [{name: http, port: 80}]}
";

#[test]
fn a_real_api_server_takes_all_manifests() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let plane = Plane::start(&lab, PlaneOptions { controllers: false, ..PlaneOptions::default() })?;
    let mut all = vec![("kustomize", run("kubectl", &["kustomize", "deploy/kustomize"])?)];
    for path in ["deploy/uninstall.yaml", "deploy/kube-proxy-cleanup.yaml"] {
        all.push((path, fs::read_to_string(file(path))?));
    }
    let values = [r#"apiServers=["https://192.0.2.1:6443"]"#, "metrics.service=true", "bpffs.mount=true"];
    all.push(("chart", json!({"apiVersion": "v1", "kind": "List", "items": chart(&values)?}).to_string()));
    let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename", "-"];
    for (what, manifests) in &all {
        plane.kubectl_with(&apply, manifests).with_context(|| what.to_string())?;
    }
    // The check checks: a field that does not exist is refused.
    let wrong = all[1].1.replace("hostNetwork", "hostNetworks");
    assert!(plane.kubectl_with(&apply, &wrong).is_err());
    Ok(())
}

#[test]
fn the_cluster_role_is_enough_for_the_agent_and_nothing_of_it_is_spare() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let plane = Plane::start(&lab, PlaneOptions { controllers: false, ..PlaneOptions::default() })?;
    let objects = documents(&run("kubectl", &["kustomize", "deploy/kustomize"])?)?;
    let rights: Vec<_> = objects.into_iter().filter(|object| object["kind"] != "DaemonSet").collect();
    let role = rights.iter().find(|object| object["kind"] == "ClusterRole").context("no ClusterRole")?;
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": rights}).to_string())?;
    let kubeconfig = plane.kubeconfig_for("kube-system/sluice")?;
    lab.node.ip(&format!("addr add {OWN}/32 dev lo\n"))?;
    plane.apply(SERVICE)?;

    let mut agent = Agent::start(&lab, &kubeconfig)?;
    agent.wait_until("ready", |log| log.contains("ready:"))?;
    wait_for_event(&plane, 1)?;
    report_again(&lab, &agent)?;
    wait_for_event(&plane, 2)?;
    assert!(!agent.log().contains("forbidden"), "{}", agent.log());
    agent.end()?;

    for (resource, verb) in [
        ("services", "watch"),
        ("nodes", "watch"),
        ("endpointslices", "watch"),
        ("servicecidrs", "watch"),
        // Finds the object that an Event is about.
        ("services", "list"),
        ("events", "create"),
        ("events", "patch"),
    ] {
        plane.apply(&without(role, resource, verb)?.to_string())?;
        let mut agent = Agent::start(&lab, &kubeconfig)?;
        if verb == "patch" {
            agent.wait_until("ready", |log| log.contains("ready:"))?;
            report_again(&lab, &agent)?;
        }
        let refused = format!("cannot {verb} resource \"{resource}\"");
        agent.wait_until(&refused, |log| log.replace('\\', "").contains(&refused))?;
        agent.end()?;
    }
    Ok(())
}

/// The role, but for one verb on one resource.
fn without(role: &Value, resource: &str, verb: &str) -> Result<Value> {
    let mut role = role.clone();
    let mut found = false;
    let rules = role["rules"].as_array().context("no rules")?.clone();
    let one_each = rules.iter().flat_map(|rule| {
        let resources = rule["resources"].as_array().cloned().unwrap_or_default();
        resources.into_iter().map(|resource| {
            let mut rule = rule.clone();
            rule["resources"] = json!([resource]);
            rule
        })
    });
    let mut rules: Vec<_> = one_each.collect();
    for rule in rules.iter_mut().filter(|rule| rule["resources"][0] == resource) {
        let verbs = rule["verbs"].as_array_mut().context("no verbs")?;
        let before = verbs.len();
        verbs.retain(|granted| granted != verb);
        found |= verbs.len() < before;
    }
    assert!(found, "the role grants no {verb} on {resource}");
    role["rules"] = rules.into();
    Ok(role)
}

/// Waits until the Service's Event says that it was reported so many times.
fn wait_for_event(plane: &Plane<'_>, times: u64) -> Result<()> {
    let start = Instant::now();
    loop {
        let events = plane.get(&["events.events.k8s.io"])?;
        let events = events["items"].as_array().context("no items")?.clone();
        let of_web = events.iter().filter(|event| event["regarding"]["name"] == "web");
        let counts: Vec<_> = of_web.map(|event| event["series"]["count"].as_u64().unwrap_or(1)).collect();
        if counts.iter().any(|count| *count >= times) {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(30) {
            bail!("waited 30 s for an Event that was reported {times} times; there are {events:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Mends the Service and breaks it again, so that the agent has news of the same kind.
fn report_again(lab: &Lab, agent: &Agent) -> Result<()> {
    let problems = |log: &str| log.matches(OWN).count();
    let before = problems(&agent.log());
    agent.wait_until("the first report", |log| problems(log) > 0)?;
    std::thread::sleep(Duration::from_millis(1500));
    lab.node.ip(&format!("addr del {OWN}/32 dev lo\n"))?;
    std::thread::sleep(Duration::from_millis(500));
    lab.node.ip(&format!("addr add {OWN}/32 dev lo\n"))?;
    agent.wait_until("the second report", |log| problems(log) > before)
}

/// The agent as that ServiceAccount.
struct Agent {
    child: Child,
    log: std::path::PathBuf,
}

impl Agent {
    fn start(lab: &Lab, kubeconfig: &Path) -> Result<Self> {
        let path = lab.dir().join("agent.log");
        let log = File::create(&path).context("cannot make a log")?;
        let mut command = Command::new(program()?);
        command.args(["agent", "--log", "debug", "--node-name", "node", "--kubeconfig"]).arg(kubeconfig);
        command.arg("--pin-root").arg(lab.bpffs()).arg("--run-dir").arg(lab.run_dir());
        command.arg("--cgroup").arg(lab.cgroup());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = lab.node.spawn(&mut command)?;
        fs::write(lab.cgroup().join("cgroup.procs"), child.id().to_string()).context("cannot move the agent")?;
        Ok(Self { child, log: path })
    }

    fn log(&self) -> String {
        text(&self.log)
    }

    fn wait_until(&self, what: &str, done: impl Fn(&str) -> bool) -> Result<()> {
        let start = Instant::now();
        while !done(&self.log()) {
            if start.elapsed() > Duration::from_secs(30) {
                bail!("waited 30 s in vain for {what}; the agent's log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.child.kill().context("cannot end the agent")?;
        self.child.wait().map(drop).context("cannot wait for the agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
