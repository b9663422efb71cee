//! The agent comes, goes, crashes and is given nonsense; devices appear; traffic flows on.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, Exchange, FAMILIES, Family, Lab, Load, Pod, Running, WORLDS, Way, cluster_ips, pod_manifest,
    service_manifest,
};
use sluice_tests::packets::random::{Seed, setting};

fn web(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(10), port)
}

fn world(lab: &Lab) -> Result<(Vec<Pod>, Pod)> {
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    Ok((lab.pods("web", 11..14)?, lab.bare_pod("client", 40)?))
}

/// New connections, datagrams and one long connection, over both families and all ways of a world.
fn traffic(lab: &Lab, client: &Pod, ways: &[Way], for_ms: u64) -> Result<Vec<(String, Running)>> {
    let mut streams = Vec::new();
    for &way in ways {
        for family in FAMILIES {
            let loads = [
                Load::steady(Exchange::Http, web(family, 80), 4),
                Load::steady(Exchange::Udp { size: 64, connected: false }, web(family, 53), 4),
                Load::new(Exchange::Lines { for_ms }, web(family, 7), 1),
            ];
            for load in loads {
                let row = format!("{way:?} {family:?} {:?}", load.exchange);
                streams.push((row, way.place(lab, client).start(load)?));
            }
        }
    }
    Ok(streams)
}

fn assert_no_failure(streams: Vec<(String, Running)>) -> Result<()> {
    for (row, stream) in streams {
        // The long connection ends by itself; stopping it changes nothing.
        let report = stream.stop()?;
        assert!(!report.answers.is_empty(), "{row}");
        assert_eq!(report.failures(), [""; 0], "{row}: of {}", report.answers.len());
    }
    Ok(())
}

/// The number that the agent's status gives under `field`, at the top or in an object below it.
fn status_number(agent: &Agent, field: &str) -> Result<u64> {
    let status = agent.json(&["status"])?;
    let nested = || status.as_object()?.values().find_map(|value| value.get(field)?.as_u64());
    let number = status.get(field).and_then(serde_json::Value::as_u64).or_else(nested);
    number.with_context(|| format!("`sluice status -o json` has no number `{field}`: {status}"))
}

#[test]
fn a_killed_agent_stops_no_traffic_and_the_next_one_writes_nothing() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        let (_pods, client) = world(&lab)?;
        let mut agent = Agent::start(&lab, options)?;
        assert!(status_number(&agent, "writes")? > 0, "an agent that filled the maps must have written");

        let streams = traffic(&lab, &client, ways, 2500)?;
        std::thread::sleep(Duration::from_millis(400));
        agent.kill()?;
        std::thread::sleep(Duration::from_millis(800));
        agent.restart()?;
        std::thread::sleep(Duration::from_millis(800));
        assert_no_failure(streams)?;
        assert_eq!(status_number(&agent, "writes")?, 0, "unchanged input; the log:\n{}", agent.log()?);
    }
    Ok(())
}

#[test]
fn a_stopped_agent_stops_no_traffic_and_the_next_one_learns_what_changed() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (_pods, client) = world(&lab)?;
    let (options, ways) = WORLDS[0];
    let mut agent = Agent::start(&lab, options)?;
    let streams = traffic(&lab, &client, ways, 2000)?;
    let status = agent.stop()?;
    assert!(status.success(), "SIGTERM is an order, not an error: {status}");
    // Its process stays: only the endpoint is gone.
    lab.manifests.delete("web-12.yaml")?;
    std::thread::sleep(Duration::from_millis(300));
    agent.restart()?;
    let report = client.client().run(Load::new(Exchange::Http, web(Family::V4, 80), 60))?;
    assert!(report.by_pod().keys().eq(["web-11", "web-13"]), "{:?}", report.by_pod());
    std::thread::sleep(Duration::from_millis(300));
    assert_no_failure(streams)
}

#[test]
fn a_device_that_appears_later_is_attached() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (_pods, _client) = world(&lab)?;
    let agent = Agent::start(&lab, WORLDS[0].0)?;
    let late = lab.bare_pod("late", 50)?;
    let took = agent.wait_until("the device pod-late is attached", |agent| {
        Ok(agent.json(&["devices"])?.to_string().contains("\"pod-late\""))
    })?;
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    for family in FAMILIES {
        let report = late.client().run(Load::new(Exchange::Http, web(family, 80), 60))?;
        assert_eq!(report.failures(), [""; 0], "{family:?}");
    }
    drop(late);
    agent.wait_until("the device pod-late is forgotten", |agent| {
        Ok(!agent.json(&["devices"])?.to_string().contains("\"pod-late\""))
    })?;
    Ok(())
}

#[test]
fn a_bad_manifest_is_named_and_the_last_good_state_serves() -> Result<()> {
    kernel_or_skip!();
    let bad = [
        ("no YAML", "apiVersion: v1\nkind: [Service\n".to_owned(), "web.yaml"),
        ("a wrong field", service_manifest("web", &cluster_ips(10)).replace("port: 80\n", "port: eighty\n"), "port"),
        ("a port too large", service_manifest("web", &cluster_ips(10)).replace("port: 80\n", "port: 80000\n"), "port"),
        ("no address", service_manifest("web", &cluster_ips(10)).replace("10.96.0.10", "10.96.0.1000"), "clusterIP"),
    ];
    for (name, text, word) in bad {
        let lab = Lab::new()?;
        let (_pods, client) = world(&lab)?;
        let agent = Agent::start(&lab, WORLDS[0].0)?;
        lab.manifests.write("web.yaml", &text)?;
        // A good change beside the bad one takes effect.
        lab.manifests.write("more.yaml", &service_manifest("more", &cluster_ips(11)))?;
        agent.wait_until(&format!("the log names web.yaml and {word:?} ({name})"), |agent| {
            Ok(agent.log()?.lines().any(|line| line.contains("web.yaml") && line.contains(word)))
        })?;
        for family in FAMILIES {
            let report = client.client().run(Load::new(Exchange::Http, web(family, 80), 30))?;
            assert_eq!(report.failures(), [""; 0], "{name} {family:?}");
        }
        agent.wait_until(&format!("Service `more` is there ({name})"), |agent| {
            Ok(agent.json(&["services"])?.to_string().contains("more"))
        })?;
    }
    Ok(())
}

/// The maps hold the last good state; a new agent that cannot read a file must not take it for deleted.
#[test]
fn a_manifest_that_broke_while_no_agent_ran_takes_nothing_away() -> Result<()> {
    kernel_or_skip!();
    for (name, is_known) in [("the last agent's copy says what it held", true), ("nobody knows what it held", false)] {
        let lab = Lab::new()?;
        let (_pods, client) = world(&lab)?;
        let mut agent = Agent::start(&lab, WORLDS[0].0)?;
        agent.kill()?;
        lab.manifests.write("web.yaml", "apiVersion: v1\nkind: [Service\n")?;
        if !is_known {
            std::fs::remove_dir_all(lab.run_dir()).context("cannot remove the run folder")?;
        }
        agent.launch()?;
        agent.wait_until(&format!("the status names web.yaml ({name})"), |agent| {
            let status = agent.json(&["status"])?;
            let about = if is_known { "stays in force" } else { "is not known" };
            let problem = status["agent"]["problems"].to_string();
            Ok(problem.contains("web.yaml") && problem.contains(about) && status["agent"]["ready"] == is_known)
        })?;
        std::thread::sleep(Duration::from_secs(1));
        for family in FAMILIES {
            let load = Load { timeout_ms: 300, ..Load::new(Exchange::Http, web(family, 80), 20) };
            let report = client.client().run(load)?;
            assert_eq!(report.failures(), [""; 0], "{name} {family:?}, the log:\n{}", agent.log()?);
        }
        lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(12)))?;
        agent.wait_until(&format!("the mended manifest takes effect ({name})"), |agent| {
            Ok(agent.json(&["services"])?.to_string().contains(&Family::V4.cluster_ip(12).to_string()))
        })?;
    }
    Ok(())
}

#[test]
fn two_nodes_side_by_side_do_not_disturb_each_other() -> Result<()> {
    kernel_or_skip!();
    let (one, two) = (Lab::new()?, Lab::new()?);
    let (one_pods, one_client) = world(&one)?;
    two.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    let other = two.pod("other", 60)?;
    two.manifests.write("other.yaml", &pod_manifest("other", "web", &other.ips))?;
    let two_client = two.bare_pod("client", 40)?;

    let options = AgentOptions::default();
    let mut first = Agent::start(&one, options)?;
    let _second = Agent::start(&two, options)?;
    let ask = |lab: &Lab, client: &Pod, way: Way| {
        way.place(lab, client).run(Load::new(Exchange::Http, web(Family::V4, 80), 60))
    };
    for way in [Way::PodPacket, Way::Host, Way::OutsideXdp] {
        assert_eq!(ask(&one, &one_client, way)?.by_pod().len(), 3, "{way:?}");
        assert!(ask(&two, &two_client, way)?.by_pod().keys().eq(["other"]), "{way:?}");
    }
    first.stop()?;
    drop(first);
    drop((one_client, one_pods));
    drop(one);
    assert_eq!(ask(&two, &two_client, Way::OutsideXdp)?.by_pod().get("other"), Some(&60));
    Ok(())
}

/// Room for one Service with four ports, an address that answers pings counted as one, and not for two.
const ONE_SERVICE: u32 = 6;

/// Services `more-…`, each at an address of its own, with the endpoints of a pod.
fn more(lab: &Lab, pods: &[Pod], numbers: std::ops::Range<u8>) -> Result<()> {
    for n in numbers {
        let name = format!("more-{n}");
        let service = service_manifest(&name, &cluster_ips(n));
        let pod = &pods[usize::from(n) % pods.len()];
        let pod = pod_manifest(&format!("of-{name}"), &name, &pod.ips);
        lab.manifests.write(&format!("{name}.yaml"), &format!("{service}---\n{pod}"))?;
    }
    Ok(())
}

#[test]
fn full_maps_give_way_to_larger_ones_without_an_outage() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        let (pods, client) = world(&lab)?;
        let small =
            AgentOptions { max_services: Some(ONE_SERVICE), max_backends: Some(64), max_slots: Some(4096), ..options };
        let mut agent = Agent::start(&lab, small)?;
        more(&lab, &pods, 20..32)?;
        agent.wait_until("the status says that there is no room", |agent| {
            Ok(agent.json(&["status"])?["agent"]["problems"].to_string().contains("--max-services"))
        })?;
        let streams = traffic(&lab, &client, ways, 2500)?;
        std::thread::sleep(Duration::from_millis(400));
        agent.kill()?;
        std::thread::sleep(Duration::from_millis(300));
        let large =
            AgentOptions { max_services: Some(1000), max_backends: Some(1 << 20), max_slots: Some(1 << 22), ..options };
        agent.restart_with(large)?;
        for (map, expected) in [
            ("NAMES", 1000),
            ("FRONTENDS_V4", 1000),
            ("FRONTENDS_V6", 1000),
            ("BACKENDS_V6", 1 << 20),
            ("SLOTS", 1 << 22),
        ] {
            assert_eq!(agent.fill(map)?.1, expected, "{map}; the log:\n{}", agent.log()?);
        }
        std::thread::sleep(Duration::from_millis(800));
        for (n, family) in (20..32).flat_map(|n| FAMILIES.map(|family| (n, family))) {
            for way in ways {
                let load = Load::new(Exchange::Http, SocketAddr::new(family.cluster_ip(n), 80), 3);
                let report = way.place(&lab, &client).run(load)?;
                assert_eq!(report.failures(), [""; 0], "more-{n} {way:?} {family:?}, the log:\n{}", agent.log()?);
            }
        }
        assert_no_failure(streams)?;
    }
    Ok(())
}

#[test]
fn an_agent_killed_while_it_enlarges_maps_stops_no_traffic() -> Result<()> {
    kernel_or_skip!();
    const ROUNDS: u32 = 16;
    let seed = setting("SLUICE_SEED", 6);
    println!("SLUICE_SEED={seed}");
    let mut moments = Seed(seed);
    let lab = Lab::new()?;
    let (pods, client) = world(&lab)?;
    let (options, ways) = WORLDS[0];
    let sized = |rounds: u32| AgentOptions {
        max_services: Some(ONE_SERVICE + 100 * rounds),
        max_backends: Some((1 + rounds) << 14),
        max_slots: Some((1 + rounds) << 18),
        ..options
    };
    let mut agent = Agent::start(&lab, sized(0))?;
    let streams = traffic(&lab, &client, ways, 12_000)?;
    for round in 1..ROUNDS {
        agent.kill()?;
        // What it begins to write, if it comes so far, is more than the map before had room for.
        more(&lab, &pods, 20 + u8::try_from(round)?..21 + u8::try_from(round)?)?;
        agent.launch_with(sized(round))?;
        // A start takes half a second, and more where others want the processors.
        std::thread::sleep(Duration::from_millis(100 + moments.below(900)));
    }
    agent.kill()?;
    agent.restart_with(sized(ROUNDS))?;
    assert_eq!(agent.fill("NAMES")?.1, u64::from(ONE_SERVICE + 100 * ROUNDS));
    for (n, family) in (21..20 + u8::try_from(ROUNDS)?).flat_map(|n| FAMILIES.map(|family| (n, family))) {
        for way in ways {
            let load = Load::new(Exchange::Http, SocketAddr::new(family.cluster_ip(n), 80), 2);
            let report = way.place(&lab, &client).run(load)?;
            assert_eq!(report.failures(), [""; 0], "more-{n} {way:?} {family:?}, the log:\n{}", agent.log()?);
        }
    }
    assert_no_failure(streams)?;
    agent.kill()?;
    agent.restart()?;
    assert_eq!(status_number(&agent, "writes")?, 0, "unchanged input; the log:\n{}", agent.log()?);
    Ok(())
}
