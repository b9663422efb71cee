//! Real sockets reach Services through the real agent: every way, both families, TCP and UDP.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, Exchange, FAMILIES, Family, Lab, Load, Pod, WORLDS, Way, cluster_ips, endpoint_slice, pod_in_state,
    pod_manifest, service_manifest,
};

/// Number of the ClusterIPs of the Service `web`.
const WEB: u8 = 10;
/// Of a Service without endpoints.
const EMPTY: u8 = 20;
/// Chi-square for three pods (two degrees of freedom) that a fair choice exceeds once in a million runs.
const UNEVEN: f64 = 27.6;

const HTTP: (Exchange, u16) = (Exchange::Http, 80);
const UDP: (Exchange, u16) = (Exchange::Udp { size: 100, connected: false }, 53);
const UDP_CONNECTED: (Exchange, u16) = (Exchange::Udp { size: 100, connected: true }, 53);

/// Service `web` with the pods web-11 to web-13, Service `empty`, and a pod that is only a client.
fn world(lab: &Lab) -> Result<(Vec<Pod>, Pod)> {
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(WEB)))?;
    lab.manifests.write("empty.yaml", &service_manifest("empty", &cluster_ips(EMPTY)))?;
    Ok((lab.pods("web", 11..14)?, lab.bare_pod("client", 40)?))
}

fn web(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(WEB), port)
}

/// Runs `test` for every way and family, each row named.
fn every_way(mut test: impl FnMut(&str, &Lab, &[Pod], &Pod, Way, Family) -> Result<()>) -> Result<()> {
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        let (pods, client) = world(&lab)?;
        let _agent = Agent::start(&lab, options)?;
        for &way in ways {
            for family in FAMILIES {
                let row = format!("{way:?} {family:?} socket path {:?}", options.socket_path);
                test(&row, &lab, &pods, &client, way, family)?;
            }
        }
    }
    Ok(())
}

#[test]
fn all_backends_answer_evenly_and_nobody_notices_the_translation() -> Result<()> {
    kernel_or_skip!();
    every_way(|row, lab, _, client, way, family| {
        for (exchange, port) in [HTTP, UDP, UDP_CONNECTED] {
            let row = format!("{row} {exchange:?}");
            let report = way.place(lab, client).run(Load::new(exchange, web(family, port), 300))?;
            assert_eq!(report.failures(), [""; 0], "{row}");
            assert_eq!(report.by_pod().len(), 3, "{row}: {:?}", report.by_pod());
            assert!(report.unevenness(3) < UNEVEN, "{row}: {:?}", report.by_pod());
            for seen in report.seen() {
                assert_eq!(seen.peer, web(family, port), "{row}: the client sees another peer than the Service");
                assert_eq!(seen.server.client.ip(), way.client_ip(client, family), "{row}: seen by the server");
            }
        }
        Ok(())
    })
}

#[test]
fn a_service_without_endpoints_and_a_port_it_lacks_are_refused_at_once() -> Result<()> {
    kernel_or_skip!();
    every_way(|row, lab, _, client, way, family| {
        let empty = family.cluster_ip(EMPTY);
        let targets = [(HTTP.0, SocketAddr::new(empty, 80)), (UDP_CONNECTED.0, SocketAddr::new(empty, 53))];
        let lacking = [(HTTP.0, web(family, 81)), (UDP_CONNECTED.0, web(family, 81)), (HTTP.0, web(family, 53))];
        for (exchange, to) in targets.into_iter().chain(lacking) {
            let report = way.place(lab, client).run(Load::new(exchange, to, 3))?;
            let refused = report.answers.iter().all(|answer| answer.refused && answer.took_us < 500_000);
            assert!(refused, "{row} {exchange:?} {to}: {:?}", report.failures());
        }
        Ok(())
    })
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> Result<()> {
    kernel_or_skip!();
    every_way(|row, lab, pods, _, way, family| {
        if !matches!(way, Way::PodPacket | Way::PodSocket) {
            return Ok(());
        }
        let own = &pods[0];
        for (exchange, port) in [HTTP, UDP, UDP_CONNECTED, (Exchange::Bulk { up: 1 << 20, down: 1 << 20 }, 9000)] {
            let count = if port == 9000 { 20 } else { 60 };
            let report = way.place(lab, own).run(Load::new(exchange, web(family, port), count))?;
            assert_eq!(report.failures(), [""; 0], "{row} {exchange:?}");
            assert!(report.by_pod().contains_key(&own.name), "{row} {exchange:?}: {:?}", report.by_pod());
            for seen in report.seen() {
                assert_eq!(seen.peer, web(family, port), "{row} {exchange:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_pod_is_replaced_by_one_with_another_address_and_no_connection_fails() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        let (mut pods, client) = world(&lab)?;
        let _agent = Agent::start(&lab, options)?;
        let rows = ways.iter().flat_map(|&way| FAMILIES.map(|family| (way, family)));
        let load = |family| Load::steady(Exchange::Http, web(family, 80), 4);
        let start = |(way, family): (Way, Family)| Ok((way, family, way.place(&lab, &client).start(load(family))?));
        let streams = rows.map(start).collect::<Result<Vec<_>>>()?;

        std::thread::sleep(Duration::from_millis(500));
        // As a kubelet does: the endpoint goes first, the process a while later.
        lab.manifests.delete("web-12.yaml")?;
        std::thread::sleep(Duration::from_millis(400));
        let old = pods.remove(1);
        drop(old);
        std::thread::sleep(Duration::from_millis(200));
        let new = lab.pod("web-12", 32)?;
        lab.manifests.write("web-12.yaml", &pod_manifest("web-12", "web", &new.ips))?;
        std::thread::sleep(Duration::from_millis(800));

        for (way, family, stream) in streams {
            let report = stream.stop()?;
            let row = format!("{way:?} {family:?}");
            assert_eq!(report.failures(), [""; 0], "{row}: of {}", report.answers.len());
            let addresses = report.by_address();
            for n in [11, 12, 13, 32] {
                assert!(addresses.contains_key(&family.pod_ip(n)), "{row}: {n} never answered: {addresses:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_open_connection_stays_when_its_endpoint_leaves() -> Result<()> {
    kernel_or_skip!();
    every_way(|row, lab, pods, client, way, family| {
        let load = Load::new(Exchange::Lines { for_ms: 900 }, web(family, 7), 1);
        let open = (0..6).map(|_| way.place(lab, client).start(load.clone())).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(Duration::from_millis(200));
        for pod in pods {
            lab.manifests.delete(&format!("{}.yaml", pod.name))?;
        }
        for connection in open {
            assert_eq!(connection.finish()?.failures(), [""; 0], "{row}");
        }
        for pod in pods {
            lab.manifests.write(&format!("{}.yaml", pod.name), &pod_manifest(&pod.name, "web", &pod.ips))?;
        }
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    })
}

#[test]
fn only_ready_pods_serve_and_terminating_ones_where_there_is_no_other() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (pods, client) = world(&lab)?;
    let agent = Agent::start(&lab, WORLDS[0].0)?;
    let write = |pod: &Pod, ready, terminating| {
        let text = pod_in_state(&pod.name, "web", &pod.ips, ready, terminating);
        lab.manifests.write(&format!("{}.yaml", pod.name), &text)
    };
    // (ready, terminating) of the three pods, and which of them answer.
    let rows = [
        ([(true, false), (false, false), (false, false)], &["web-11"][..]),
        ([(true, false), (true, true), (true, false)], &["web-11", "web-13"]),
        ([(false, false), (true, true), (true, true)], &["web-12", "web-13"]),
        ([(true, false), (true, false), (true, false)], &["web-11", "web-12", "web-13"]),
    ];
    for (states, expected) in rows {
        for (pod, (ready, terminating)) in pods.iter().zip(states) {
            write(pod, ready, terminating)?;
        }
        // Real time: the agent takes a moment to read the files.
        agent.wait_until(&format!("just {expected:?} answer"), |_| {
            let report = client.client().run(Load::new(HTTP.0, web(Family::V4, 80), 60))?;
            assert_eq!(report.failures(), [""; 0]);
            Ok(report.by_pod().keys().eq(expected))
        })?;
    }
    Ok(())
}

#[test]
fn a_slice_gives_endpoints_to_a_service_without_a_selector() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (pods, client) = world(&lab)?;
    let text = service_manifest("manual", &cluster_ips(30)).replace("  selector:\n    app: manual\n", "");
    assert!(!text.contains("selector"));
    lab.manifests.write("manual.yaml", &text)?;
    for (family, name) in [(Family::V4, "manual-4"), (Family::V6, "manual-6")] {
        let ips: Vec<_> = pods.iter().take(2).map(|pod| pod.ip(family)).collect();
        lab.manifests.write(&format!("{name}.yaml"), &endpoint_slice(name, "manual", &ips))?;
    }
    let _agent = Agent::start(&lab, WORLDS[0].0)?;
    for family in FAMILIES {
        let to = SocketAddr::new(family.cluster_ip(30), 80);
        let report = client.client().run(Load::new(HTTP.0, to, 60))?;
        assert_eq!(report.failures(), [""; 0], "{family:?}");
        assert!(report.by_pod().keys().eq(["web-11", "web-12"]), "{family:?}: {:?}", report.by_pod());
    }
    Ok(())
}
