//! What the manifests grant is enough, and nothing of it can be left out.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{Lab, cluster_ips, program, service_manifest};

use super::containerd::text;
use super::pod::Pod;

/// Starts `sluice` on the lab's node as root with these capabilities only, as a pod has them.
fn start(lab: &Lab, capabilities: &[String], args: &[&str], log: &Path) -> Result<Child> {
    let set = capabilities.iter().map(|name| format!(",+{}", name.to_lowercase()));
    let set = format!("-all{}", set.collect::<String>());
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--bounding-set", &set, "--inh-caps", &set]).arg(program()?).args(args);
    command.arg("--pin-root").arg(lab.bpffs()).arg("--run-dir").arg(lab.run_dir());
    let log = File::create(log).context("cannot make a log")?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = lab.node.spawn(&mut command)?;
    fs::write(lab.cgroup().join("cgroup.procs"), child.id().to_string()).context("cannot move the process")?;
    Ok(child)
}

/// Whether the agent with these capabilities becomes ready; if it does not, it has to end by itself.
fn becomes_ready(lab: &Lab, capabilities: &[String]) -> Result<bool> {
    let log = lab.dir().join("agent.log");
    let (manifests, cgroup) = (lab.manifests.dir().display().to_string(), lab.cgroup().display().to_string());
    let mut agent = start(lab, capabilities, &["agent", "--manifests", &manifests, "--cgroup", &cgroup], &log)?;
    let since = Instant::now();
    let ready = loop {
        if text(&log).contains("ready:") {
            break true;
        }
        if agent.try_wait()?.is_some() {
            break false;
        }
        if since.elapsed() > Duration::from_secs(30) {
            bail!("the agent with {capabilities:?} neither is ready nor ends:\n{}", text(&log));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    agent.kill().ok();
    agent.wait()?;
    Ok(ready)
}

#[test]
fn the_agent_starts_with_the_capabilities_of_the_manifest_and_with_none_less() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    let _pods = lab.pods("web", 11..12)?;
    let granted = Pod::agent()?.capabilities();
    for lacking in &granted {
        let fewer: Vec<_> = granted.iter().filter(|name| *name != lacking).cloned().collect();
        assert!(!becomes_ready(&lab, &fewer)?, "{lacking} is granted for nothing");
    }
    assert!(becomes_ready(&lab, &granted)?, "{}", text(&lab.dir().join("agent.log")));
    // A second agent asks for what is attached, and swaps programs: that may want other rights.
    assert!(becomes_ready(&lab, &granted)?, "{}", text(&lab.dir().join("agent.log")));

    let log = lab.dir().join("uninstall.log");
    let removed = start(&lab, &Pod::uninstall()?.capabilities(), &["uninstall"], &log)?.wait()?;
    assert!(removed.success() && text(&log).starts_with("removed"), "{}", text(&log));
    Ok(())
}

#[test]
fn a_bpffs_is_mounted_once_where_there_is_none() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let folder = lab.dir().join("another");
    fs::create_dir(&folder).context("cannot make a folder")?;
    // In a mount namespace of its own, which takes the mount with it.
    let script = r#""$0" mount-bpffs "$1" && "$0" mount-bpffs "$1" && stat --file-system --format %T "$1""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(program()?).arg(&folder);
    let output = command.output().context("cannot start unshare")?;
    let said = String::from_utf8_lossy(&output.stdout).replace(&folder.display().to_string(), "X");
    assert_eq!(
        said,
        "mounted a bpffs at X\nthere is a bpffs at X\nbpf_fs\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
