//! `sluice uninstall --drain`: connections end in peace, and new ones are the next proxy's.

use std::net::SocketAddr;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, Exchange, FAMILIES, Family, Lab, Load, Pod, Running, WORLDS, Way, cluster_ips, service_manifest,
};

fn web(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(10), port)
}

/// A connection of each family that speaks for so long, and a datagram socket that never ends, over the packet path.
fn exchanges(lab: &Lab, client: &Pod, for_ms: u64) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for way in [Way::PodPacket, Way::OutsideXdp] {
        for family in FAMILIES {
            let datagrams = Load::steady(Exchange::Udp { size: 64, connected: true }, web(family, 53), 50);
            for load in [
                Load::new(Exchange::Lines { for_ms }, web(family, 7), 1),
                Load { one_socket: true, timeout_ms: 100, ..datagrams },
            ] {
                running.push(way.place(lab, client).start(load)?);
            }
        }
    }
    Ok(running)
}

#[test]
fn connections_end_in_peace_and_nobody_takes_new_ones() -> Result<()> {
    kernel_or_skip!();
    // How long the connections last, how long is waited for them, and whether that is enough.
    for (for_ms, longest, enough) in [(3_000, "20s", true), (20_000, "2s", false)] {
        let lab = Lab::new()?;
        lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
        let (_pods, client) = (lab.pods("web", 11..14)?, lab.bare_pod("client", 40)?);
        let mut agent = Agent::start(&lab, WORLDS[0].0)?;
        let running = exchanges(&lab, &client, for_ms)?;
        sleep(Duration::from_millis(500));
        let status = agent.json(&["status"])?;
        assert_eq!(status["draining"], false);
        assert!(status["takeover"].as_u64().is_some_and(|left| (3500..=3600).contains(&left)), "{status}");
        agent.kill()?;

        let began = Instant::now();
        let said = scope(|scope| {
            let uninstall = scope.spawn(|| agent.cli(&["uninstall", "--drain", longest]));
            sleep(Duration::from_millis(1_000));
            for way in [Way::PodPacket, Way::Host] {
                for family in FAMILIES {
                    let load = Load { timeout_ms: 100, ..Load::new(Exchange::Http, web(family, 80), 2) };
                    let answers = way.place(&lab, &client).run(load)?.answers;
                    assert!(
                        answers.iter().all(|answer| answer.result.is_err() && !answer.refused),
                        "{way:?} {family:?}"
                    );
                }
            }
            assert_eq!(agent.json(&["status"])?["draining"], true);
            uninstall.join().expect("no panic")
        })?;
        let (took, told) = (began.elapsed(), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{told}");
        assert!(told.contains("draining: 4 connections go on"), "{told}");
        assert!(String::from_utf8_lossy(&said.stdout).starts_with("removed "), "stdout is for the result");
        match enough {
            true => {
                assert!(told.contains("drained: no connection is left"), "{told}");
                assert!(took > Duration::from_millis(for_ms - 1_000), "after {took:?}");
                // Datagrams are not waited for: else this would have lasted for the whole time.
                assert!(took < Duration::from_secs(15), "after {took:?}");
            }
            false => assert!(told.contains("4 connections are cut now"), "{told}"),
        }
        for running in running {
            let report = running.stop()?;
            if enough && report.answers.len() == 1 {
                assert_eq!(report.failures(), [""; 0]);
            }
        }
        assert_eq!(agent.json(&["status"])?["attached"], false);
    }
    Ok(())
}
