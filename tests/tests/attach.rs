//! Every way in which programs are attached: it carries every client, `sluice devices` tells the truth about it, and
//! nothing of it stays when it is taken away.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{MapInfo, loaded_maps};
use aya::programs::{ProgramInfo, loaded_programs};
use serde_json::Value;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, Attached, Exchange, FAMILIES, Family, Lab, Load, NIC, Pass, Place, Pod, SocketPath, Tc, Xdp,
    cli, cluster_ips, service_manifest,
};

const fn options(xdp: Xdp, tc: Tc) -> AgentOptions {
    AgentOptions { socket_path: SocketPath::All, xdp, tc, ..AgentOptions::USUAL }
}

fn web(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(10), port)
}

fn world(lab: &Lab) -> Result<(Vec<Pod>, Pod)> {
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    Ok((lab.pods("web", 11..14)?, lab.bare_pod("client", 40)?))
}

/// Every place from which a client can call.
fn places<'a>(lab: &'a Lab, client: &'a Pod) -> [(&'static str, Place<'a>); 4] {
    [
        ("pod, packets", client.client()),
        ("pod, sockets", lab.process_in(client)),
        ("host", lab.host()),
        ("outside", lab.outside()),
    ]
}

/// Real sockets from a place, with content that is checked on both sides.
fn assert_served(case: &str, place: Place<'_>) -> Result<()> {
    let rows = [
        (Exchange::Http, 80, 20),
        (Exchange::Udp { size: 700, connected: false }, 53, 20),
        (Exchange::Bulk { up: 300_001, down: 300_001 }, 9000, 2),
    ];
    for family in FAMILIES {
        for (exchange, port, count) in rows {
            let report = place.run(Load::new(exchange, web(family, port), count))?;
            assert_eq!(report.failures(), [""; 0], "{case} {family:?} {exchange:?}");
        }
    }
    Ok(())
}

/// Nobody answers at the ClusterIPs.
fn assert_not_served(case: &str, place: Place<'_>) -> Result<()> {
    for family in FAMILIES {
        let load = Load { timeout_ms: 300, ..Load::new(Exchange::Http, web(family, 80), 2) };
        let report = place.run(load)?;
        assert_eq!(report.failures().len(), 2, "{case} {family:?}: somebody answered");
    }
    Ok(())
}

/// The row of a device: ingress, egress, note.
fn row(agent: &Agent, device: &str) -> Result<[String; 3]> {
    let all = agent.json(&["devices"])?;
    let found = all.as_array().into_iter().flatten().find(|row| row["device"] == device);
    let found = found.with_context(|| format!("`sluice devices` has no {device}: {all}"))?;
    Ok(["ingress", "egress", "note"].map(|field| found[field].as_str().unwrap_or_default().to_owned()))
}

/// What the agent says and what the kernel says is `expected`: ingress, egress.
fn assert_attached(case: &str, lab: &Lab, agent: &Agent, device: &str, expected: [&str; 2]) -> Result<String> {
    let [ingress, egress, note] = row(agent, device)?;
    assert_eq!([&*ingress, &*egress], expected, "{case}: what is said of {device} ({note})");
    let found = Attached::read(&lab.node, device)?;
    let [ingress, egress] = expected.map(|how| how.split('+').collect::<Vec<_>>());
    assert_eq!((found.ingress, found.egress), (ingress, egress), "{case}: what is at {device}");
    Ok(note)
}

/// Programs and maps that are pinned, by kind and id.
fn pinned(folder: &Path) -> Result<BTreeSet<(&'static str, u32)>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            ids.extend(pinned(&path)?);
        } else if path.parent().is_some_and(|parent| parent.ends_with("maps")) {
            ids.insert(("map", MapInfo::from_pin(&path)?.id()));
        } else if path.parent().is_some_and(|parent| parent.ends_with("programs")) {
            ids.insert(("program", ProgramInfo::from_pin(&path)?.id()));
        }
    }
    Ok(ids)
}

/// How seldom to look for what the kernel is about to free.
const LOOK: Duration = Duration::from_millis(500);

/// Those of them that the kernel still has.
fn alive(ids: &BTreeSet<(&'static str, u32)>) -> Vec<(&'static str, u32)> {
    let maps = loaded_maps().filter_map(Result::ok).map(|info| ("map", info.id()));
    let programs = loaded_programs().filter_map(Result::ok).map(|info| ("program", info.id()));
    maps.chain(programs).filter(|found| ids.contains(found)).collect()
}

#[test]
fn every_way_of_attaching_carries_every_client_and_a_restart_changes_it() -> Result<()> {
    kernel_or_skip!();
    // In this order: each is a restart with other options, of an agent that was stopped, or killed.
    let rows = [
        (Xdp::Native, Tc::Tcx, "xdp native+tcx", "tcx"),
        (Xdp::Generic, Tc::Tcx, "xdp generic+tcx", "tcx"),
        (Xdp::Generic, Tc::Clsact, "xdp generic+clsact", "clsact"),
        (Xdp::Off, Tc::Clsact, "clsact", "clsact"),
        (Xdp::Native, Tc::Clsact, "xdp native+clsact", "clsact"),
        (Xdp::Off, Tc::Tcx, "tcx", "tcx"),
        (Xdp::Generic, Tc::Clsact, "xdp generic+clsact", "clsact"),
        (Xdp::Native, Tc::Tcx, "xdp native+tcx", "tcx"),
    ];
    let lab = Lab::new()?;
    let (pods, client) = world(&lab)?;
    let mut agent = Agent::start(&lab, options(rows[0].0, rows[0].1))?;
    for (n, (xdp, tc, nic_ingress, how)) in rows.into_iter().enumerate() {
        let case = format!("{xdp:?} {tc:?}");
        if n > 0 {
            if n % 2 == 0 {
                agent.kill()?;
            } else {
                agent.stop()?;
            }
            agent.restart_with(options(xdp, tc))?;
        }
        let note = assert_attached(&case, &lab, &agent, NIC, [nic_ingress, how])?;
        assert_eq!(note, "", "{case}: it is as asked for");
        for pod in pods.iter().chain([&client]) {
            let note = assert_attached(&case, &lab, &agent, &pod.device, [how, how])?;
            assert_eq!(note, "", "{case}: it is as asked for");
        }
        for (name, place) in places(&lab, &client) {
            assert_served(&format!("{case}, {name}"), place)?;
        }
    }
    Ok(())
}

/// A SYN may be sent twice: XDP takes one program at a time, and the kernel stops a device for a moment, and loses what
/// would leave it, when it gets its first clsact qdisc.
#[test]
fn no_connection_fails_while_the_way_of_attaching_changes() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (_pods, client) = world(&lab)?;
    let mut agent = Agent::start(&lab, options(Xdp::Native, Tc::Tcx))?;
    let mut streams = Vec::new();
    for (name, place) in [("pod", client.client()), ("outside", lab.outside())] {
        for family in FAMILIES {
            for load in [
                Load::steady(Exchange::Http, web(family, 80), 4),
                Load::new(Exchange::Lines { for_ms: 7000 }, web(family, 7), 1),
            ] {
                let case = format!("{name} {family:?} {:?}", load.exchange);
                streams.push((case, place.start(Load { timeout_ms: 8000, ..load })?));
            }
        }
    }
    let begin = Instant::now();
    for (xdp, tc) in [(Xdp::Generic, Tc::Clsact), (Xdp::Off, Tc::Tcx), (Xdp::Native, Tc::Clsact), (Xdp::Off, Tc::Tcx)] {
        std::thread::sleep(Duration::from_millis(300));
        agent.stop()?;
        agent.restart_with(options(xdp, tc))?;
        println!("{xdp:?} {tc:?} from {} ms on", begin.elapsed().as_millis());
    }
    std::thread::sleep(Duration::from_millis(300));
    for (case, stream) in streams {
        let report = stream.stop()?;
        assert!(!report.answers.is_empty(), "{case}");
        assert_eq!(report.failures(), [""; 0], "{case}: of {}", report.answers.len());
    }
    Ok(())
}

/// A NIC whose driver knows no XDP.
const BRIDGE: &str = "link add br0 type bridge
    link set br0 up
    route add default dev br0 metric 900\n";

#[test]
fn a_device_that_cannot_have_the_best_way_says_why_and_serves() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (_pods, client) = world(&lab)?;
    // A second NIC whose driver knows no XDP, and a first one where somebody else's program is.
    lab.node.ip(BRIDGE)?;
    let other = Pass::xdp(&lab.node, NIC)?;
    let mut agent = Agent::start(&lab, options(Xdp::Native, Tc::Tcx))?;
    for restarted in [false, true] {
        let case = format!("restarted: {restarted}");
        let [ingress, egress, note] = row(&agent, NIC)?;
        assert_eq!([&*ingress, &*egress], ["tcx", "tcx"], "{case}: {note}");
        for part in ["xdp native: another program is there", "xdp generic: another program is there"] {
            assert!(note.contains(part), "{case}: {note}");
        }
        let found = Attached::read(&lab.node, NIC)?;
        assert_eq!(found.ingress, ["xdp native", "tcx"], "{case}: the other program stays");
        let note = assert_attached(&case, &lab, &agent, "br0", ["xdp generic+tcx", "tcx"])?;
        assert!(note.contains("xdp native: the driver or the kernel cannot do it"), "{case}: {note}");
        assert_eq!(assert_attached(&case, &lab, &agent, &client.device, ["tcx", "tcx"])?, "");
        let table = String::from_utf8(agent.cli(&["devices"])?.stdout)?;
        assert!(table.contains("xdp native: another program is there"), "{case}:\n{table}");
        assert_served(&case, lab.outside())?;
        agent.stop()?;
        agent.restart()?;
    }
    drop(other);
    Ok(())
}

#[test]
fn what_was_asked_for_anew_needs_no_excuse() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    lab.node.ip(BRIDGE)?;
    let mut agent = Agent::start(&lab, options(Xdp::Native, Tc::Tcx))?;
    assert_ne!(assert_attached("native", &lab, &agent, "br0", ["xdp generic+tcx", "tcx"])?, "");
    agent.stop()?;
    agent.restart_with(options(Xdp::Generic, Tc::Tcx))?;
    assert_eq!(assert_attached("generic", &lab, &agent, "br0", ["xdp generic+tcx", "tcx"])?, "");
    Ok(())
}

/// The kernel takes less than 64 programs at one place of tcx (`BPF_MPROG_MAX`).
#[test]
fn a_device_where_links_are_full_gets_filters_and_says_why() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (_pods, client) = world(&lab)?;
    for device in [NIC, &*client.device] {
        let others = (0..63).map(|_| Pass::tcx_egress(&lab.node, device)).collect::<Result<Vec<_>>>()?;
        let agent = Agent::start(&lab, options(Xdp::Native, Tc::Tcx))?;
        let [ingress, egress, note] = row(&agent, device)?;
        let expected = if device == NIC { "xdp native+tcx" } else { "tcx" };
        assert_eq!([&*ingress, &*egress], [expected, "clsact"], "{device}: {note}");
        assert!(note.contains("tcx: "), "{device} does not say why it is not at tcx: {note:?}");
        assert_served(device, if device == NIC { lab.outside() } else { client.client() })?;
        drop(agent);
        drop(others);
        ensure!(cli(&lab, &["uninstall"])?.status.success(), "cannot uninstall");
    }
    Ok(())
}

#[test]
fn a_pod_device_that_comes_again_under_its_name_is_attached_again() -> Result<()> {
    kernel_or_skip!();
    for tc in [Tc::Tcx, Tc::Clsact] {
        let how = if tc == Tc::Tcx { "tcx" } else { "clsact" };
        let lab = Lab::new()?;
        let (_pods, mut client) = world(&lab)?;
        let mut agent = Agent::start(&lab, options(Xdp::Native, tc))?;
        // While the agent runs, while it does not, and then with the very same index.
        for (running, same_index) in [(true, false), (false, false), (false, true)] {
            let case = format!("{tc:?}, running: {running}, same index: {same_index}");
            if !running {
                agent.kill()?;
            }
            let index = index(&agent, &client.device)?;
            drop(client);
            client = lab.bare_pod_with_index("client", 40, same_index.then_some(index))?;
            if !running {
                agent.restart()?;
            }
            let attached = |agent: &Agent| {
                let now = crate::index(agent, "pod-client").unwrap_or_default();
                Ok((now == index) == same_index && now != 0 && row(agent, "pod-client")?[1] == how)
            };
            agent.wait_until(&format!("the device is attached again ({case})"), attached)?;
            let note = assert_attached(&case, &lab, &agent, "pod-client", [how, how])?;
            assert_eq!(note, "", "{case}");
            assert_served(&case, client.client())?;
            let all = agent.json(&["devices"])?;
            assert_eq!(all.as_array().map(Vec::len), Some(7), "{case}: {all}");
        }
    }
    Ok(())
}

fn index(agent: &Agent, device: &str) -> Result<u64> {
    let all = agent.json(&["devices"])?;
    let found = all.as_array().into_iter().flatten().find(|row| row["device"] == device);
    found.and_then(|row| row["index"].as_u64()).with_context(|| format!("no {device} in {all}"))
}

#[test]
fn uninstall_removes_everything_and_the_next_agent_starts_fresh() -> Result<()> {
    kernel_or_skip!();
    for (xdp, tc) in [(Xdp::Native, Tc::Tcx), (Xdp::Generic, Tc::Clsact)] {
        let case = format!("{xdp:?} {tc:?}");
        let lab = Lab::new()?;
        let (pods, client) = world(&lab)?;
        let mut agent = Agent::start(&lab, options(xdp, tc))?;
        assert_served(&case, lab.outside())?;

        let refused = agent.cli(&["uninstall"])?;
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{case}: an agent runs: {stderr}");
        assert_served(&format!("{case}, uninstall refused"), lab.outside())?;

        agent.stop()?;
        let ids = pinned(&lab.bpffs())?;
        assert!(ids.len() > 15 && alive(&ids).len() == ids.len(), "{case}: {ids:?}");
        let done = agent.cli(&["uninstall"])?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{case}: {}", String::from_utf8_lossy(&done.stderr));
        // Three programs at the NIC, two at each of four pods, one at the service and one at the loopback device.
        assert!(said.starts_with("removed 13 programs from devices and "), "{case}: {said}");

        for device in pods.iter().chain([&client]).map(|pod| &*pod.device).chain([NIC]) {
            assert_eq!(Attached::read(&lab.node, device)?, Attached::default(), "{case}: {device}");
        }
        // The kernel's own two files are in every bpffs.
        let files = fs::read_dir(lab.bpffs())?.collect::<Result<Vec<_>, _>>()?;
        let left: Vec<_> = files
            .iter()
            .map(fs::DirEntry::file_name)
            .filter(|name| !name.to_string_lossy().ends_with(".debug"))
            .collect();
        assert!(left.is_empty(), "{case}: {left:?}");
        // The kernel frees them when it finds the time. To look opens each of them, and an array of programs that is opened and
        // closed while the kernel is about to empty it stays for ever: it counts a reference each time, and gives one back
        // (prog_array_map_clear in kernel/bpf/arraymap.c). So the first look comes late, and others seldom.
        agent.wait_until("programs and maps are gone", |_| {
            std::thread::sleep(LOOK);
            Ok(alive(&ids).is_empty())
        })?;
        for (name, place) in places(&lab, &client) {
            assert_not_served(&format!("{case}, {name}"), place)?;
        }
        let again = agent.cli(&["uninstall"])?;
        assert!(again.status.success(), "{case}: nothing to remove is no error");

        agent.restart()?;
        let status = agent.json(&["status"])?;
        assert!(status["agent"]["writes"].as_u64() > Some(0), "{case}: {status}");
        // What those sent again who were not served a moment ago may be the first to come by the new routes.
        let counted = |row: &&Value| row["packets"].as_u64() > Some(0) && row["reason"] != "unallocated";
        let counters = status["counters"].as_array().map_or(0, |all| all.iter().filter(counted).count());
        assert_eq!(counters, 0, "{case}: an old map was found: {status}");
        for (name, place) in places(&lab, &client) {
            assert_served(&format!("{case}, anew, {name}"), place)?;
        }
    }
    Ok(())
}

#[test]
fn packets_are_logged_when_asked_for_and_else_not() -> Result<()> {
    kernel_or_skip!();
    for tc in [Tc::Tcx, Tc::Clsact] {
        let lab = Lab::new()?;
        lab.manifests.write("empty.yaml", &service_manifest("empty", &cluster_ips(10)))?;
        let client = lab.bare_pod("client", 40)?;
        let mut agent = Agent::start(&lab, options(Xdp::Native, tc))?;
        // Off, on, off again: each restart swaps the programs.
        for (n, packet_log) in [false, true, false].into_iter().enumerate() {
            if n > 0 {
                agent.stop()?;
                agent.restart_with(AgentOptions { packet_log, ..options(Xdp::Native, tc) })?;
            }
            for (name, place) in [("pod", client.client()), ("outside", lab.outside())] {
                for family in FAMILIES {
                    let case = format!("{tc:?} {name} {family:?} log {packet_log}");
                    let before = lines(&agent, "no_endpoints")?;
                    let refused = place.run(Load::new(Exchange::Http, web(family, 80), 3))?;
                    assert!(refused.answers.iter().all(|answer| answer.refused), "{case}: {:?}", refused.failures());
                    if packet_log {
                        agent.wait_until(&format!("three packets are logged ({case})"), |agent| {
                            Ok(lines(agent, "no_endpoints")? >= before + 3)
                        })?;
                    } else {
                        std::thread::sleep(Duration::from_millis(300));
                        assert_eq!(lines(&agent, "no_endpoints")?, 0, "{case}: {}", agent.log()?);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Lines of the agent's log with a word.
fn lines(agent: &Agent, word: &str) -> Result<usize> {
    Ok(agent.log()?.lines().filter(|line| line.contains(word)).count())
}
