//! What people see: the command line shows the names of what was declared, with an agent and without.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, Attached, Exchange, FAMILIES, Family, Lab, Load, NIC, WORLDS, Way, cli, cluster_ips, service_manifest,
    start_cli,
};

/// The rows of which each of the named fields has the given text.
fn rows<'a>(all: &'a Value, fields: &[(&str, &str)]) -> Vec<&'a Value> {
    let is = |row: &Value| fields.iter().all(|(name, text)| row.get(name).and_then(Value::as_str) == Some(text));
    all.as_array().into_iter().flatten().filter(|row| is(row)).collect()
}

#[test]
fn every_command_shows_what_is_there_by_name() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    lab.manifests.write("empty.yaml", &service_manifest("empty", &cluster_ips(20)))?;
    let pods = lab.pods("web", 11..14)?;
    let client = lab.bare_pod("client", 40)?;
    let (options, _) = WORLDS[0];
    let mut agent = Agent::start(&lab, options)?;
    let mut calls = Vec::new();
    for (n, way) in [Way::PodPacket, Way::OutsideXdp].into_iter().enumerate() {
        for family in FAMILIES {
            let to = SocketAddr::new(family.cluster_ip(10), 80);
            let load = Load::new(Exchange::Http, to, 3).from_port(41_000 + 100 * n as u16);
            let report = way.place(&lab, &client).run(load)?;
            assert_eq!(report.failures(), [""; 0], "{way:?} {family:?}");
            let seen = report.seen().next().context("no answer")?;
            let backend = SocketAddr::new(seen.server.address, 8080);
            calls.push((SocketAddr::new(way.client_ip(&client, family), seen.local.port()), to, backend));
        }
    }

    for running in [true, false] {
        if !running {
            agent.kill()?;
        }
        let services = agent.json(&["services"])?;
        for (name, ip, backends) in [("web", 10, 3), ("empty", 20, 0)] {
            for family in FAMILIES {
                for (port, number, protocol) in [("http", 80, "TCP"), ("dns", 53, "UDP"), ("bulk", 9000, "TCP")] {
                    let frontend = SocketAddr::new(family.cluster_ip(ip), number).to_string();
                    let names = [("namespace", "default"), ("name", name), ("port", port), ("frontend", &frontend)];
                    let found = rows(&services, &names);
                    assert_eq!(found.len(), 1, "{names:?} in {services}");
                    assert_eq!(found[0]["backends"], backends, "{names:?}");
                    assert_eq!(found[0]["protocol"], protocol, "{names:?}");
                }
            }
        }

        let backends = agent.json(&["backends"])?;
        for pod in &pods {
            for family in FAMILIES {
                let address = pod.at(family, 8080).to_string();
                let found = rows(&backends, &[("address", &address)]);
                assert_eq!(found.len(), 1, "{address} in {backends}");
                assert_eq!(found[0]["services"][0]["service"], "default/web:http", "{address}");
            }
        }

        let flows = agent.json(&["flows"])?;
        for (client, frontend, backend) in &calls {
            let (client, frontend) = (client.to_string(), frontend.to_string());
            let found = rows(&flows, &[("client", &client), ("frontend", &frontend), ("protocol", "TCP")]);
            assert_eq!(found.len(), 1, "{client} → {frontend} in {flows}");
            assert_eq!(found[0]["backend"], backend.to_string());
            assert_eq!(found[0]["service"], "default/web:http");
        }

        let devices = agent.json(&["devices"])?;
        let nic = rows(&devices, &[("device", NIC), ("kind", "nic")]);
        assert_eq!(nic.len(), 1, "{devices}");
        assert!(nic[0]["ingress"].as_str().is_some_and(|how| how.contains("xdp native")), "{devices}");
        for pod in pods.iter().chain([&client]) {
            assert_eq!(rows(&devices, &[("device", &pod.device), ("kind", "pod")]).len(), 1, "{devices}");
        }

        let status = agent.json(&["status"])?;
        assert_eq!(status["attached"], true, "{status}");
        assert_eq!(status["devices"], 7, "{status}");
        assert_eq!(status["agent"]["ready"].as_bool().unwrap_or(false), running, "{status}");
    }
    Ok(())
}

#[test]
fn every_command_prints_a_table_yaml_and_a_header_where_nothing_is_there() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    let _pods = lab.pods("web", 11..12)?;
    let agent = Agent::start(&lab, WORLDS[0].0)?;
    lab.outside().run(Load::new(Exchange::Http, SocketAddr::new(Family::V4.cluster_ip(10), 80), 1))?;
    let rows = [
        ("services", "NAMESPACE", "10.96.0.10:80"),
        ("backends", "ADDRESS", "10.244.0.11:8080"),
        ("flows", "CLIENT", "192.168.50.2"),
        ("devices", "DEVICE", NIC),
        ("status", "Agent:", "node"),
    ];
    for (command, header, content) in rows {
        for output in [&[][..], &["-o", "wide"], &["-o", "yaml"]] {
            let result = agent.cli(&[&[command][..], output].concat())?;
            let text = String::from_utf8(result.stdout)?;
            assert!(result.status.success(), "{command} {output:?}: {}", String::from_utf8_lossy(&result.stderr));
            assert!(text.contains(content), "{command} {output:?} shows no {content}:\n{text}");
            let is_table = output != ["-o", "yaml"];
            assert_eq!(text.lines().next().is_some_and(|line| line.contains(header)), is_table, "{command}:\n{text}");
        }
    }
    // A folder without pins is a user's mistake: said in one sentence, exit 2.
    let other = Lab::new()?;
    let nothing = cli(&other, &["services"])?;
    let stderr = String::from_utf8_lossy(&nothing.stderr);
    assert_eq!(nothing.status.code(), Some(2), "{stderr}");
    assert!(!stderr.trim().is_empty() && !stderr.contains("panicked"), "{stderr}");
    Ok(())
}

/// Commands and what a shell sees of them: the exit code, and whether something was said on each stream.
#[test]
fn exit_codes_tell_well_from_not_found_from_error() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    let mut agent = Agent::start(&lab, WORLDS[0].0)?;
    let rows: Vec<(&[&str], i32)> = vec![
        (&["devices"], 0),
        (&["status"], 0),
        (&["services"], 0),
        (&["services", "--help"], 0),
        (&["services", "web"], 0),
        (&["services", "default/web:http"], 0),
        (&["backends", "web:dns"], 0),
        (&["flows", "web"], 0),
        (&["services", "nobody"], 1),
        (&["services", "other/web"], 1),
        (&["backends", "web:nobody"], 1),
        (&["flows", "nobody", "-o", "json"], 1),
        (&["services", "-o", "xml"], 2),
        (&["nonsense"], 2),
        (&["services", "--nonsense"], 2),
        (&["agent", "--manifests", "/nowhere"], 2),
    ];
    for running in [true, false] {
        if !running {
            agent.kill()?;
        }
        for (args, code) in &rows {
            // Help and mistakes in the arguments are found before the folders are looked at.
            let output = cli(&lab, args)?;
            let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
            let case = format!("{args:?}, agent: {running}:\n{stdout}{stderr}");
            assert_eq!(output.status.code(), Some(*code), "{case}");
            assert_eq!((stdout.is_empty(), stderr.is_empty()), (*code != 0, *code == 0), "{case}");
            assert!(!stderr.contains("panicked"), "{case}");
            if *code == 1 {
                assert_eq!(stderr.lines().count(), 1, "{case}");
            }
        }
    }
    // Where nothing is installed.
    assert!(cli(&lab, &["uninstall"])?.status.success());
    for (command, code) in
        [("services", 2), ("backends", 2), ("flows", 2), ("devices", 2), ("status", 0), ("uninstall", 0)]
    {
        let output = cli(&lab, &[command])?;
        let stderr = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(code), "{command}, nothing installed: {stderr}");
        assert_eq!(stderr.lines().count(), usize::from(code == 2), "{command}: {stderr}");
    }
    Ok(())
}

#[test]
fn a_second_agent_is_refused_in_one_sentence() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    let _pods = lab.pods("web", 11..13)?;
    let agent = Agent::start(&lab, WORLDS[0].0)?;
    let before = (agent.json(&["devices"])?, Attached::read(&lab.node, NIC)?);
    let folder = lab.manifests.dir().to_str().context("a folder with an odd name")?.to_owned();
    let second = agent.cli(&["agent", "--manifests", &folder, "--nic", NIC, "--socket-path", "off", "--xdp", "off"])?;
    let stderr = String::from_utf8(second.stderr)?;
    assert_eq!(second.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("sluice: another agent (process ") && stderr.contains("--run-dir"), "{stderr}");
    // The first one is as it was.
    assert_eq!(before, (agent.json(&["devices"])?, Attached::read(&lab.node, NIC)?));
    for (place, family) in [lab.outside(), lab.host()].into_iter().flat_map(|place| FAMILIES.map(|f| (place, f))) {
        let report = place.run(Load::new(Exchange::Http, SocketAddr::new(family.cluster_ip(10), 80), 20))?;
        assert_eq!(report.failures(), [""; 0], "{family:?}");
    }
    Ok(())
}

/// A command with `--watch`, and the lines that it prints as they come. Dropping it ends it.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let mut child = start_cli(lab, args)?;
        let stdout = child.stdout.take().context("no output")?;
        let (sender, lines) = channel();
        // The pipe is closed by the first line that nobody wants.
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.find(|line| sender.send(line.clone()).is_err());
        });
        Ok(Self { child, lines })
    }

    /// The lines up to the first that has all the words.
    fn until(&self, words: &[&str]) -> Result<Vec<String>> {
        let (mut seen, end) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            seen.push(line);
            if seen.last().is_some_and(|line| words.iter().all(|word| line.contains(word))) {
                return Ok(seen);
            }
        }
        bail!("no line with {words:?} in 10 s; the lines were:\n{}", seen.join("\n"))
    }

    fn end(&mut self) -> Result<(ExitStatus, String)> {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                let mut said = String::new();
                self.child.stderr.take().context("no standard error")?.read_to_string(&mut said)?;
                return Ok((status, said));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("it did not end in 10 s")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn watch_prints_again_on_a_change_and_ends_quietly_on_a_closed_pipe() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    let _agent = Agent::start(&lab, WORLDS[0].0)?;
    let mut watch = Watch::start(&lab, &["services", "--watch"])?;
    let header = watch.until(&["NAMESPACE", "FRONTEND"])?;
    assert_eq!(header.len(), 1, "{header:?}");
    let first: Vec<_> = (0..8).map_while(|_| watch.lines.recv_timeout(Duration::from_secs(3)).ok()).collect();
    assert_eq!(first.iter().filter(|line| line.contains("web")).count(), 8, "{first:?}");
    // Nothing changes, so nothing is printed.
    assert!(watch.lines.recv_timeout(Duration::from_millis(2500)).is_err());

    lab.manifests.write("more.yaml", &service_manifest("more", &cluster_ips(11)))?;
    watch.until(&["NAMESPACE", "FRONTEND"])?;
    watch.until(&["more", "10.96.0.11:80"])?;
    lab.manifests.delete("more.yaml")?;
    let last = watch.until(&["NAMESPACE", "FRONTEND"])?;
    let rest: Vec<_> = (0..8).map_while(|_| watch.lines.recv_timeout(Duration::from_secs(3)).ok()).collect();
    assert!(rest.iter().all(|line| line.contains("web")), "after {last:?}: {rest:?}");

    // Whoever reads has seen enough.
    watch.lines = channel().1;
    for n in 12..15 {
        lab.manifests.write("more.yaml", &service_manifest("more", &cluster_ips(n)))?;
        std::thread::sleep(Duration::from_millis(1200));
    }
    let (status, said) = watch.end()?;
    assert_eq!((status.code(), &*said), (Some(0), ""));
    Ok(())
}
