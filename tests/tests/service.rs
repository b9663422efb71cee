//! Real sockets reach Services through the real agent: every way, both families, TCP and UDP.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, Exchange, FAMILIES, Family, Lab, Load, Pod, Report, WORLDS, Way, cluster_ips, endpoint_slice, pod_in_state,
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

/// One way of one family, in a world where the agent runs.
struct Row<'a> {
    name: String,
    lab: &'a Lab,
    agent: &'a Agent<'a>,
    pods: &'a [Pod],
    client: &'a Pod,
    way: Way,
    family: Family,
}

impl Row<'_> {
    fn run(&self, load: Load) -> Result<Report> {
        self.way.place(self.lab, self.client).run(load)
    }

    fn web(&self, port: u16) -> SocketAddr {
        web(self.family, port)
    }
}

/// Runs `test` for every way and family.
fn every_way(mut test: impl FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        let (pods, client) = world(&lab)?;
        let agent = Agent::start(&lab, options)?;
        for &way in ways {
            for family in FAMILIES {
                let name = format!("{way:?} {family:?} socket path {:?}", options.socket_path);
                test(&Row { name, lab: &lab, agent: &agent, pods: &pods, client: &client, way, family })?;
            }
        }
    }
    Ok(())
}

#[test]
fn all_backends_answer_evenly_and_nobody_notices_the_translation() -> Result<()> {
    kernel_or_skip!();
    every_way(|row| {
        let client = row.way.client_ip(row.client, row.family);
        for (exchange, port) in [HTTP, UDP, UDP_CONNECTED] {
            let case = format!("{} {exchange:?}", row.name);
            let report = row.run(Load::new(exchange, row.web(port), 300))?;
            assert_eq!(report.failures(), [""; 0], "{case}");
            assert_eq!(report.by_pod().len(), 3, "{case}: {:?}", report.by_pod());
            assert!(report.unevenness(3) < UNEVEN, "{case}: {:?}", report.by_pod());
            for seen in report.seen() {
                assert_eq!(seen.peer, row.web(port), "{case}: the client sees another peer than the Service");
                assert_eq!(seen.server.client.ip(), client, "{case}: seen by the server");
            }
        }
        // Packets of a socket that was led to a backend need no translation, so no flow; those of connected UDP sockets of
        // pods do. (A client port can come twice.)
        let expected = match row.way {
            Way::Host => 0..=0,
            Way::PodSocket => 250..=300,
            Way::PodPacket | Way::OutsideXdp | Way::OutsideTc => 800..=900,
        };
        let flows = row.agent.json(&["flows"])?;
        let is_own = |flow: &Value| {
            let from = flow["client"].as_str().and_then(|text| text.parse::<SocketAddr>().ok());
            from.is_some_and(|from| from.ip() == client)
        };
        let own = flows.as_array().into_iter().flatten().filter(|flow| is_own(flow)).count();
        assert!(expected.contains(&own), "{}: {own} flows", row.name);
        Ok(())
    })
}

#[test]
fn a_service_without_endpoints_and_a_port_it_lacks_are_refused_at_once() -> Result<()> {
    kernel_or_skip!();
    every_way(|row| {
        let empty = |port| SocketAddr::new(row.family.cluster_ip(EMPTY), port);
        let (tcp, udp) = (HTTP.0, UDP_CONNECTED.0);
        // A refusal is longer than a small datagram.
        let small = Exchange::Udp { size: 1, connected: true };
        let targets = [
            (tcp, empty(80)),
            (udp, empty(53)),
            (small, empty(53)),
            (tcp, row.web(81)),
            (udp, row.web(81)),
            (tcp, row.web(53)),
        ];
        for (exchange, to) in targets {
            let report = row.run(Load::new(exchange, to, 3))?;
            let refused = report.answers.iter().all(|answer| answer.refused && answer.took_us < 500_000);
            assert!(refused, "{} {exchange:?} {to}: {:?}", row.name, report.failures());
        }
        Ok(())
    })
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> Result<()> {
    kernel_or_skip!();
    every_way(|row| {
        if !matches!(row.way, Way::PodPacket | Way::PodSocket) {
            return Ok(());
        }
        let own = &row.pods[0];
        for (exchange, port) in [HTTP, UDP, UDP_CONNECTED, (Exchange::Bulk { up: 1 << 20, down: 1 << 20 }, 9000)] {
            let count = if port == 9000 { 20 } else { 60 };
            let case = format!("{} {exchange:?}", row.name);
            let report = row.way.place(row.lab, own).run(Load::new(exchange, row.web(port), count))?;
            assert_eq!(report.failures(), [""; 0], "{case}");
            assert!(report.by_pod().contains_key(&own.name), "{case}: {:?}", report.by_pod());
            for seen in report.seen() {
                assert_eq!(seen.peer, row.web(port), "{case}");
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
    every_way(|row| {
        let load = Load::new(Exchange::Lines { for_ms: 900 }, row.web(7), 1);
        let place = row.way.place(row.lab, row.client);
        let open = (0..6).map(|_| place.start(load.clone())).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(Duration::from_millis(200));
        for pod in row.pods {
            row.lab.manifests.delete(&format!("{}.yaml", pod.name))?;
        }
        row.agent.wait_until("the Service refuses new connections", |_| {
            Ok(row.run(Load::new(HTTP.0, row.web(80), 1))?.answers[0].refused)
        })?;
        for connection in open {
            assert_eq!(connection.finish()?.failures(), [""; 0], "{}", row.name);
        }
        for pod in row.pods {
            row.lab.declare(pod, "web")?;
        }
        row.agent.wait_until("the Service answers again", |_| {
            Ok(row.run(Load::new(HTTP.0, row.web(80), 30))?.by_pod().len() == 3)
        })?;
        Ok(())
    })
}

/// The flow of a connection that is over stays known for a while, and the answers of a new one straight to the backend
/// have its tuple.
#[test]
fn a_port_that_called_a_service_calls_the_same_pod_itself() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let (pods, client) = world(&lab)?;
    let _agent = Agent::start(&lab, WORLDS[0].0)?;
    for family in FAMILIES {
        let (first, count) = (20_000, 12);
        let report = client.client().run(Load::new(HTTP.0, web(family, 80), count).from_port(first))?;
        assert_eq!(report.failures(), [""; 0], "{family:?}");
        for (port, seen) in (first..).zip(report.seen()) {
            let pod = pods.iter().find(|pod| pod.name == seen.server.pod).expect("one of the pods");
            // The pod may remember the port, too, and have the SYN sent again.
            let load = Load { timeout_ms: 3500, ..Load::new(HTTP.0, pod.at(family, 8080), 1).from_port(port) };
            let direct = client.client().run(load)?;
            assert_eq!(direct.failures(), [""; 0], "{family:?} {}", pod.name);
        }
    }
    Ok(())
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

/// `internalTrafficPolicy: Local`: the node's own endpoints, or silence where others are elsewhere.
#[test]
fn a_service_of_the_node_leads_to_endpoints_on_the_node() -> Result<()> {
    kernel_or_skip!();
    every_way(|row| {
        let number = 40;
        let text = service_manifest("near", &cluster_ips(number)).replace("  selector:\n    app: near\n", "");
        let text = text.replace("  type: ClusterIP\n", "  type: ClusterIP\n  internalTrafficPolicy: Local\n");
        row.lab.manifests.write("near.yaml", &text)?;
        let to = SocketAddr::new(row.family.cluster_ip(number), 80);
        let called = |timeout_ms, count| row.run(Load { timeout_ms, ..Load::new(HTTP.0, to, count) });
        // One on this node, two elsewhere; then none here; then none at all.
        for (nodes, expected) in
            [(&["node", "other", "other"][..], "one"), (&["other"; 3], "silence"), (&[], "refusal")]
        {
            let ips: Vec<_> = row.pods.iter().take(nodes.len()).map(|pod| pod.ip(row.family)).collect();
            let mut endpoints = endpoint_slice("near-1", "near", &ips);
            for (ip, node) in ips.iter().zip(nodes) {
                let address = format!("- addresses: [\"{ip}\"]\n");
                endpoints = endpoints.replace(&address, &format!("{address}  nodeName: {node}\n"));
            }
            let endpoints = if nodes.is_empty() { endpoints.replace("endpoints:", "endpoints: []") } else { endpoints };
            row.lab.manifests.write("near-1.yaml", &endpoints)?;
            let case = format!("{} {expected}", row.name);
            // Real time: the agent takes a moment to read the files. A process of the node is refused at once where the
            // packets of others vanish.
            row.agent.wait_until(&case, |_| {
                let answers = called(300, 1)?.answers;
                Ok(match expected {
                    "one" => answers[0].result.is_ok(),
                    "silence" => answers[0].result.is_err() && (answers[0].refused == (row.way == Way::Host)),
                    _ => answers[0].refused,
                })
            })?;
            if expected == "one" {
                let report = called(2000, 30)?;
                assert_eq!(report.failures(), [""; 0], "{case}");
                assert!(report.by_pod().keys().eq(["web-11"]), "{case}: {:?}", report.by_pod());
            }
        }
        let counters = row.agent.json(&["status"])?;
        assert!(
            counters.to_string().contains("no_local_endpoints") || row.way == Way::Host,
            "{}: {counters}",
            row.name
        );
        Ok(())
    })
}
