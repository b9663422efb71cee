//! The image of `cargo xtask image`, imported and run as a node does it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{Exchange, FAMILIES, Family, Lab, Load, Pod as LabPod, cluster_ips, service_manifest};

use super::containerd::{self, Containerd, text};
use super::pod::Pod;

/// The archive to test.
const VARIABLE: &str = "SLUICE_IMAGE";
/// As `cargo xtask test` names it.
const NAME: &str = "localhost/sluice:test";

fn reason_to_skip() -> Option<String> {
    if std::env::var_os(VARIABLE).is_none() {
        return Some(format!("needs {VARIABLE}, an archive: cargo xtask image --quick --tag {NAME}"));
    }
    containerd::reason_to_skip()
}

#[test]
fn containerd_runs_the_agent_from_the_image_with_what_the_manifest_grants() -> Result<()> {
    kernel_or_skip!();
    if let Some(reason) = reason_to_skip() {
        eprintln!("SKIP {}: {reason}", std::thread::current().name().unwrap_or("test"));
        return Ok(());
    }
    let lab = Lab::new()?;
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    let _pods = lab.pods("web", 11..13)?;
    let client = lab.bare_pod("client", 40)?;
    let containerd = Containerd::start(&lab)?;
    let archive = std::env::var(VARIABLE)?;
    containerd.ctr(&["images", "import", &archive])?;
    assert_eq!(containerd.ctr(&["images", "list", "--quiet"])?.trim(), NAME);
    assert_alone(&containerd)?;

    run_agent(&lab, &containerd)?;
    call(&client)?;
    for (kind, path, port) in Pod::agent()?.probes()? {
        let answer = lab.node.run(|| ask(port, &path))?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{kind}: {answer}");
    }
    let status = containerd.ctr(&["task", "exec", "--exec-id", "look", "agent", "sluice", "status"])?;
    assert!(status.contains("running, ready"), "{status}");

    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", "agent"])?;
    wait_until("the container has ended", || Ok(containerd.ctr(&["task", "list"])?.contains("STOPPED")))?;
    containerd.ctr(&["task", "delete", "agent"]).ok();
    call(&client).context("after the container was killed")?;

    let removed = run_uninstall(&lab, &containerd)?;
    assert!(removed.starts_with("removed"), "{removed}");
    assert!(call(&client).is_err(), "nobody serves the Service now");
    Ok(())
}

/// The entry point is the binary, and it needs nothing beside it: no loader, no library, no shell.
fn assert_alone(containerd: &Containerd<'_>) -> Result<()> {
    let options = containerd.confined(&[], &[]);
    let run = [&["run", "--rm"], &*options.iter().map(String::as_str).collect::<Vec<_>>(), &[NAME, "alone"]].concat();
    let usage = containerd.try_ctr(&run)?;
    let said = String::from_utf8_lossy(&usage.stderr);
    assert!(said.contains("Usage: sluice"), "{said}");
    let version = containerd.ctr(&[&*run, &["/sluice", "--version"]].concat())?;
    assert_eq!(version.trim(), concat!("sluice ", env!("CARGO_PKG_VERSION")));
    Ok(())
}

/// Starts the agent on the lab's manifests, and waits until it is ready.
fn run_agent(lab: &Lab, containerd: &Containerd<'_>) -> Result<()> {
    let pod = Pod::agent()?;
    assert!(pod.is_confined());
    let mut mounts = pod.mounts(lab)?;
    mounts.push((lab.manifests.dir().to_owned(), "/manifests".into(), false));
    fs::create_dir_all(lab.run_dir()).context("cannot make the run folder")?;
    let options = containerd.confined(&pod.capabilities(), &mounts);
    let log = containerd.log_of("agent");
    let uri = format!("file://{}", log.display());
    let mut run = vec!["run", "--detach", "--log-uri", &uri, "--env", "NODE_NAME=node"];
    run.extend(options.iter().map(String::as_str));
    run.extend([NAME, "agent", "/sluice"]);
    let arguments = pod.arguments();
    run.extend(arguments.iter().map(String::as_str));
    run.extend(["--manifests", "/manifests"]);
    containerd.ctr(&run)?;
    let ready = || Ok(text(&log).contains("ready:"));
    wait_until("the agent is ready", ready).with_context(|| format!("{}\n{}", text(&log), containerd.log()))
}

fn run_uninstall(lab: &Lab, containerd: &Containerd<'_>) -> Result<String> {
    let pod = Pod::uninstall()?;
    assert!(pod.is_confined());
    let options = containerd.confined(&pod.capabilities(), &pod.mounts(lab)?);
    let mut run = vec!["run", "--rm"];
    run.extend(options.iter().map(String::as_str));
    run.extend([NAME, "uninstall", "/sluice"]);
    let arguments = pod.arguments();
    run.extend(arguments.iter().map(String::as_str));
    containerd.ctr(&run)
}

/// What the kubelet would be told at the node's address.
fn ask(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Family::V4.node_ip(), port)).context("nobody answers probes")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").context("cannot ask")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer to a probe")?;
    Ok(answer)
}

/// A request of a pod to the Service, over both families.
fn call(client: &LabPod) -> Result<()> {
    for family in FAMILIES {
        let to = SocketAddr::new(family.cluster_ip(10), 80);
        let failures = client.client().run(Load::new(Exchange::Http, to, 4))?.failures();
        if !failures.is_empty() {
            bail!("{family:?}: {failures:?}");
        }
    }
    Ok(())
}

fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if done()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("waited 30 s in vain until {what}")
}
