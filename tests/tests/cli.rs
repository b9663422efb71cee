//! What people see: the command line shows the names of what was declared, with an agent and without.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::Value;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, Exchange, FAMILIES, Family, Lab, Load, NIC, WORLDS, Way, cluster_ips, service_manifest,
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
        assert_eq!(status["devices"], 5, "{status}");
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
    let nothing = sluice_tests::lab::cli(&other, &["services"])?;
    let stderr = String::from_utf8_lossy(&nothing.stderr);
    assert_eq!(nothing.status.code(), Some(2), "{stderr}");
    assert!(!stderr.trim().is_empty() && !stderr.contains("panicked"), "{stderr}");
    Ok(())
}
