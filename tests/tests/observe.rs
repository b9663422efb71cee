//! What the agent tells of itself: health as probes ask for it, metrics as Prometheus reads them, and that both follow what
//! really hangs at devices and stands in maps.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use lb_common::ip::V4;
use lb_common::tables::{Frontend, FrontendKey, LAYOUT};
use nix::mount::{MsFlags, mount};
use serde::Deserialize;
use serde_json::Value;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, Attached, Exchange, FAMILIES, Family, Lab, Load, Page, Pod, SocketPath, cluster_ips,
    service_manifest,
};

const HEALTH: u16 = 10256;
const METRICS: u16 = 10249;
/// The longest that nobody may notice a change from outside: a look each ten seconds, and the time that it takes.
const NOTICED: Duration = Duration::from_secs(15);

fn world(lab: &Lab) -> Result<(Vec<Pod>, Pod)> {
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    Ok((lab.pods("web", 11..14)?, lab.bare_pod("client", 40)?))
}

fn assert_served(client: &Pod, case: &str) -> Result<()> {
    for family in FAMILIES {
        let web = SocketAddr::new(family.cluster_ip(10), 80);
        let report = client.client().run(Load::new(Exchange::Http, web, 20))?;
        assert_eq!(report.failures(), [""; 0], "{case} {family:?}");
    }
    Ok(())
}

/// Health is for everybody: asked for from outside the node.
fn health(lab: &Lab, path: &str) -> Result<Page> {
    Page::get(&lab.outside, SocketAddr::new(Family::V4.node_ip(), HEALTH), path)
}

/// One metric, as the reference parser sees it.
#[derive(Debug, Deserialize)]
struct Metric {
    #[serde(rename = "type")]
    kind: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

type Metrics = BTreeMap<String, Metric>;

/// Debian's own interpreter, since another need not find Debian's package.
const PYTHON: &str = "/usr/bin/python3";
const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
families = {}
for family in parse(sys.stdin.read()):
    assert family.name not in families, 'twice: ' + family.name
    families[family.name] = {'type': family.type, 'samples': [[s.name, s.labels, s.value] for s in family.samples]}
json.dump(families, sys.stdout)
";

fn scrape(lab: &Lab) -> Result<Metrics> {
    let page = Page::get(&lab.node, SocketAddr::from(([127, 0, 0, 1], METRICS)), "/metrics")?;
    assert_eq!(page.code, 200);
    assert_eq!(page.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let mut parser = Command::new(PYTHON);
    parser.args(["-c", PARSER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut parser = parser.spawn().with_context(|| format!("cannot start {PYTHON}"))?;
    parser.stdin.take().context("no pipe")?.write_all(page.body.as_bytes())?;
    let output = parser.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the parser of Debian's python3-prometheus-client (`cargo xtask setup`): {error}\n{}",
        page.body
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The sum of the samples of a metric that have all of these labels.
fn sum(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let all = metrics.values().flat_map(|metric| &metric.samples);
    let fits = |found: &BTreeMap<String, String>| labels.iter().all(|(k, v)| found.get(*k).is_some_and(|is| is == v));
    let values: Vec<_> = all.filter(|(found, of, _)| found == name && fits(of)).map(|(.., value)| *value).collect();
    ensure!(!values.is_empty(), "no sample {name} with {labels:?}");
    Ok(values.iter().sum())
}

/// Every name, with its type as OpenMetrics has it: a counter's samples end in `_total`, an info's in `_info`.
const NAMES: &[(&str, &str)] = &[
    ("kubeproxy_network_programming_duration_seconds", "histogram"),
    ("kubeproxy_proxy_healthz", "counter"),
    ("kubeproxy_proxy_livez", "counter"),
    ("kubeproxy_sync_proxy_rules_duration_seconds", "histogram"),
    ("kubeproxy_sync_proxy_rules_endpoint_changes", "counter"),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge"),
    ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge"),
    ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge"),
    ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "gauge"),
    ("kubeproxy_sync_proxy_rules_service_changes", "counter"),
    ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge"),
    ("process_cpu_seconds", "counter"),
    ("process_max_fds", "gauge"),
    ("process_open_fds", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_start_time_seconds", "gauge"),
    ("sluice_build", "info"),
    ("sluice_device_programs", "gauge"),
    ("sluice_map_capacity", "gauge"),
    ("sluice_map_entries", "gauge"),
    ("sluice_map_errors", "counter"),
    ("sluice_map_writes", "counter"),
    ("sluice_packets", "counter"),
    ("sluice_problems", "gauge"),
    ("sluice_programming_duration_seconds", "histogram"),
    ("sluice_ready", "gauge"),
    ("sluice_repairs", "counter"),
    ("sluice_services", "gauge"),
    ("sluice_socket_programs", "gauge"),
    ("sluice_source_connected", "gauge"),
    ("sluice_source_reconnects", "counter"),
];

#[test]
fn metrics_are_what_they_are_named() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (_pods, client) = world(&lab)?;
    let agent = Agent::start(&lab, AgentOptions { socket_path: SocketPath::All, ..AgentOptions::USUAL })?;
    let before = scrape(&lab)?;
    let found: Vec<_> = before.iter().map(|(name, metric)| (name.as_str(), metric.kind.as_str())).collect();
    assert_eq!(found, NAMES);
    let changes = sum(&before, "sluice_programming_duration_seconds_count", &[])?;
    assert_eq!(changes, 0.0, "nobody knows when what is declared at the start changed");

    lab.manifests.write("more.yaml", &service_manifest("more", &cluster_ips(11)))?;
    agent.wait_until("Service `more` is there", |agent| Ok(agent.json(&["services"])?.to_string().contains("more")))?;
    assert_served(&client, "flows to count")?;
    assert_eq!(health(&lab, "/healthz")?.code, 200);
    assert_eq!(health(&lab, "/livez")?.code, 200);
    // Flows are counted by the sweep.
    agent.wait_until("flows are counted", |_| {
        Ok(sum(&scrape(&lab)?, "sluice_map_entries", &[("map", "FLOWS_V6")])? > 0.0)
    })?;
    let after = scrape(&lab)?;
    let status = agent.json(&["status"])?;
    let agree = |name: &str, labels: &[(&str, &str)], expected: &Value| -> Result<()> {
        assert_eq!(Some(sum(&after, name, labels)?), expected.as_f64(), "{name} {labels:?}");
        Ok(())
    };
    let rows = |field: &str| status[field].as_array().cloned().unwrap_or_default();
    ensure!(!rows("maps").is_empty() && !rows("counters").is_empty(), "{status}");
    for row in rows("maps") {
        let map = row["map"].as_str().unwrap_or_default();
        agree("sluice_map_capacity", &[("map", map)], &row["capacity"])?;
        // Flows come and go between two looks.
        if !["FLOWS", "SOCKETS"].iter().any(|name| map.starts_with(name)) {
            agree("sluice_map_entries", &[("map", map)], &row["entries"])?;
        }
    }
    for row in rows("counters").iter().filter(|row| row["reason"] == "new_flow" || row["reason"] == "no_endpoints") {
        agree("sluice_packets_total", &[("reason", row["reason"].as_str().unwrap_or_default())], &row["packets"])?;
    }
    assert_eq!(sum(&after, "sluice_source_connected", &[])?, 1.0);
    assert_eq!(sum(&after, "sluice_problems", &[])?, 0.0);
    agree("sluice_services", &[], &status["agent"]["services"])?;
    let writes = sum(&after, "sluice_map_writes_total", &[])?;
    // Counters alone are no reason to write the report: the next one has them.
    agent.wait_until("the report has all writes", |agent| {
        Ok(agent.json(&["status"])?["agent"]["writes"].as_f64() == Some(writes))
    })?;
    let devices = sum(&after, "sluice_device_programs", &[("device", "pod"), ("way", "tcx")])?;
    assert_eq!(devices, 8.0, "four pods, two programs each");
    let sockets = status["socket_hooks"].as_array().map_or(0, Vec::len);
    agree("sluice_socket_programs", &[], &sockets.into())?;
    for (name, least) in [
        ("kubeproxy_proxy_healthz_total", 1.0),
        ("kubeproxy_proxy_livez_total", 1.0),
        ("kubeproxy_sync_proxy_rules_service_changes_total", 2.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 2.0),
        ("kubeproxy_sync_proxy_rules_duration_seconds_count", 4.0),
        ("sluice_programming_duration_seconds_count", 1.0),
    ] {
        assert!(sum(&after, name, &[])? >= least, "{name}: {}", sum(&after, name, &[])?);
    }
    Ok(())
}

#[test]
fn what_a_service_carries_is_counted_in_both_ways() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (_pods, client) = world(&lab)?;
    lab.manifests.write("idle.yaml", &service_manifest("idle", &cluster_ips(11)))?;
    let agent = Agent::start(&lab, AgentOptions { service_metrics: true, ..AgentOptions::USUAL })?;
    let carried = |name: &str, field: &str| -> Result<u64> {
        let rows = agent.json(&["traffic", name])?;
        rows[0][field].as_u64().with_context(|| format!("no {field} in {rows}"))
    };
    assert_served(&client, "connections of a pod")?;
    let connections = 20 * FAMILIES.len() as u64;
    let [packets, bytes, answers, answer_bytes] =
        ["packets", "bytes", "answer_packets", "answer_bytes"].map(|field| carried("web:http", field));
    let (packets, answers) = (packets?, answers?);
    assert_eq!(carried("web:http", "connections")?, connections);
    // SYN, ACK, the request, FIN at least; SYN-ACK, the answer, FIN.
    assert!(packets >= 4 * connections && answers >= 3 * connections, "{packets} packets, {answers} of answers");
    assert!(bytes? >= packets * 40 && answer_bytes? >= answers * 40);
    assert_eq!(carried("idle:http", "packets")?, 0);

    // A socket that was led straight to a backend costs no packet anything, so none is counted.
    for family in FAMILIES {
        let web = SocketAddr::new(family.cluster_ip(10), 80);
        assert_eq!(lab.host().run(Load::new(Exchange::Http, web, 20))?.failures(), [""; 0]);
    }
    assert_eq!((carried("web:http", "connections")?, carried("web:http", "packets")?), (2 * connections, packets));
    let metrics = scrape(&lab)?;
    for (name, labels, expected) in [
        ("sluice_service_connections_total", vec![("service", "web"), ("port", "http")], 2 * connections),
        ("sluice_service_packets_total", vec![("service", "web"), ("port", "http"), ("way", "there")], packets),
        ("sluice_service_packets_total", vec![("service", "web"), ("port", "http"), ("way", "back")], answers),
        ("sluice_service_bytes_total", vec![("service", "idle")], 0),
    ] {
        assert_eq!(sum(&metrics, name, &labels)?, expected as f64, "{name} {labels:?}");
    }

    lab.manifests.delete("web.yaml")?;
    agent.wait_until("the Service is gone", |agent| {
        Ok(agent.json(&["traffic"])?.as_array().is_some_and(|rows| rows.iter().all(|row| row["name"] == "idle")))
    })?;
    Ok(())
}

/// Where the agent pins.
fn pins(lab: &Lab) -> PathBuf {
    lab.bpffs().join(format!("v{LAYOUT}"))
}

/// Removes the first pin whose name contains `part`, and with it the link.
fn unpin(lab: &Lab, part: &str) -> Result<()> {
    let links = pins(lab).join("links");
    let mut names: Vec<PathBuf> = fs::read_dir(&links)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    names.sort();
    let Some(path) = names.iter().find(|path| path.to_string_lossy().contains(part)) else {
        bail!("no pin {part} in {names:?}")
    };
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

#[test]
fn what_others_take_away_comes_back_and_is_counted() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (_pods, client) = world(&lab)?;
    let agent = Agent::start(&lab, AgentOptions { socket_path: SocketPath::All, ..AgentOptions::USUAL })?;
    let counted = |what| sum(&scrape(&lab)?, "sluice_repairs_total", &[("what", what)]);
    for what in ["device_program", "socket_program", "map_entry"] {
        assert_eq!(counted(what)?, 0.0, "{what}");
    }
    let services = agent.json(&["services"])?;

    for part in ["-nic-tc_egress-tcx", "-nic-xdp_ingress-", "-pod-tc_ingress-tcx", "socket-connect4"] {
        unpin(&lab, part)?;
    }
    let map = MapData::from_pin(pins(&lab).join("maps/FRONTENDS_V4"))?;
    let mut frontends: HashMap<_, [u8; size_of::<FrontendKey<V4>>()], [u8; size_of::<Frontend>()]> =
        Map::from_map_data(map)?.try_into()?;
    let keys: Vec<_> = frontends.keys().collect::<Result<_, _>>()?;
    keys.iter().try_for_each(|key| frontends.remove(key))?;
    // Without their frontends nobody could tell where slots are in use: those are written anew, too.
    let entries = keys.len() as f64;
    let took = agent.wait_until("all of it is counted", |_| {
        Ok(counted("device_program")? == 3.0 && counted("socket_program")? == 1.0 && counted("map_entry")? >= entries)
    })?;
    assert!(took < NOTICED, "it took {took:?}");
    assert_eq!(agent.json(&["services"])?, services);
    let all = 4.0 + counted("map_entry")?;
    agent.wait_until("the status counts them", |agent| {
        Ok(agent.json(&["status"])?["agent"]["repairs"].as_f64() == Some(all))
    })?;
    assert_served(&client, "after the repair")?;
    assert_eq!(health(&lab, "/healthz")?.code, 200);
    Ok(())
}

fn remount(lab: &Lab, flags: MsFlags) -> Result<()> {
    let bpffs = lab.bpffs();
    let bpffs = bpffs.ancestors().find(|folder| folder.ends_with("bpf")).context("no bpffs")?;
    mount(None::<&str>, bpffs, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>).context("cannot remount")
}

#[test]
fn a_node_without_a_program_is_unhealthy_until_it_is_back() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (_pods, client) = world(&lab)?;
    let agent = Agent::start(&lab, AgentOptions::USUAL)?;
    for (path, eligible) in [("/healthz", Some(true)), ("/livez", None)] {
        let page = health(&lab, path)?;
        assert_eq!((page.code, page.header("content-type")), (200, Some("application/json")), "{page:?}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        let told = page.json()?;
        assert_eq!((told["healthy"].as_bool(), told["nodeEligible"].as_bool()), (Some(true), eligible), "{told}");
        assert_eq!(told["lastUpdated"], told["currentTime"], "{told}");
        for family in ["IPv4", "IPv6"] {
            assert_eq!(told["status"][family]["healthy"], true, "{told}");
        }
        assert!(told.get("reasons").is_none(), "{told}");
    }

    // What is detached cannot be attached again while nothing can be pinned.
    unpin(&lab, "-pod-tc_ingress-tcx")?;
    remount(&lab, MsFlags::MS_RDONLY)?;
    let took = agent.wait_until("health is bad", |_| Ok(health(&lab, "/healthz")?.code == 503))?;
    assert!(took < NOTICED, "it took {took:?}");
    for path in ["/healthz", "/livez"] {
        let page = health(&lab, path)?;
        let told = page.json()?;
        assert_eq!((page.code, told["healthy"].as_bool()), (503, Some(false)), "{told}");
        assert!(told["reasons"].to_string().contains("tc_ingress"), "{told}");
        assert_eq!(told["status"]["IPv4"]["healthy"], true, "the maps are well: {told}");
    }
    // `sluice status` prints it; that opens pins, too.
    agent.wait_until("the report says so", |_| {
        let report: Value = serde_json::from_str(&fs::read_to_string(lab.run_dir().join("agent.json"))?)?;
        Ok(report["unhealthy"].to_string().contains("tc_ingress"))
    })?;

    remount(&lab, MsFlags::empty())?;
    let took = agent.wait_until("health is good", |_| Ok(health(&lab, "/healthz")?.code == 200))?;
    assert!(took < NOTICED, "it took {took:?}");
    assert_served(&client, "after the repair")?;
    for device in ["pod-client", "pod-web-11", "pod-web-12", "pod-web-13"] {
        let only = Attached { ingress: vec!["tcx"], egress: vec!["tcx"] };
        assert_eq!(Attached::read(&lab.node, device)?, only, "{device}: nothing is left of other ways that were tried");
    }
    assert!(sum(&scrape(&lab)?, "sluice_repairs_total", &[("what", "device_program")])? >= 1.0);
    assert!(sum(&scrape(&lab)?, "kubeproxy_proxy_healthz_total", &[("code", "503")])? >= 1.0);
    Ok(())
}
