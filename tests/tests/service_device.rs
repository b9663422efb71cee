//! The service device: sockets that no cgroup hook sees reach Services, and what is to no Service ends there.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, Exchange, FAMILIES, Family, Firewall, HTTP_PORT, Lab, Load, Node, Place, Server, SocketPath,
    Source, UDP_PORT, World, WorldOptions, cli, cluster_ips, service_manifest,
};

/// The addresses of a backend.
type Addresses<'a> = &'a dyn Fn(Family) -> IpAddr;

const DEVICE: &str = "sluice0";

/// The ranges of the lab's ClusterIPs.
const RANGES: &str = "apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, \"fd00:96::/108\"]}
";

const OFF: AgentOptions = AgentOptions { socket_path: SocketPath::Off, ..AgentOptions::USUAL };

/// Index of the service device; none where there is none.
fn index(node: &Node) -> Result<Option<u64>> {
    let links: Value = serde_json::from_str(&node.output("ip", &["-j", "link", "show"])?)?;
    let links = links.as_array().into_iter().flatten();
    Ok(links.filter(|link| link["ifname"] == DEVICE).find_map(|link| link["ifindex"].as_u64()))
}

/// Where routes lead by the service device, as `ip` writes them.
fn routes(node: &Node) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let text = node.output("ip", &[family, "route", "show", "table", "all"])?;
        let ours = text.lines().filter(|line| line.contains("dev sluice0"));
        found.extend(ours.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())));
    }
    Ok(found)
}

/// How often a reason was counted.
fn counted(agent: &Agent<'_>, reason: &str) -> Result<u64> {
    let status = agent.json(&["status"])?;
    let rows = status["counters"].as_array().context("no counters")?;
    Ok(rows.iter().find(|row| row["reason"] == reason).and_then(|row| row["packets"].as_u64()).unwrap_or(0))
}

/// A Service of a family with these backends, all of its ports, in a slice.
fn service(folder: &Path, name: &str, number: u8, backend: &dyn Fn(Family) -> IpAddr) -> Result<()> {
    let text = service_manifest(name, &cluster_ips(number)).replace(&format!("  selector:\n    app: {name}\n"), "");
    let text = text + "  - name: shut\n    protocol: UDP\n    port: 9\n    targetPort: 9\n";
    fs::write(folder.join(format!("{name}.yaml")), text)?;
    for family in FAMILIES {
        let (kind, small) = if family == Family::V4 { ("IPv4", "v4") } else { ("IPv6", "v6") };
        let ip = backend(family);
        let text = format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{small}, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: {kind}
ports:
- {{name: http, protocol: TCP, port: {HTTP_PORT}}}
- {{name: dns, protocol: UDP, port: {UDP_PORT}}}
- {{name: shut, protocol: UDP, port: 9}}
- {{name: bulk, protocol: TCP, port: 9000}}
endpoints:
- {{addresses: [\"{ip}\"], conditions: {{ready: true}}}}
"
        );
        fs::write(folder.join(format!("{name}-{small}.yaml")), text)?;
    }
    Ok(())
}

const EXCHANGES: [(Exchange, u16, usize); 5] = [
    (Exchange::Http, 80, 20),
    (Exchange::Udp { size: 100, connected: false }, 53, 20),
    (Exchange::Udp { size: 1300, connected: true }, 53, 20),
    // In fragments.
    (Exchange::Udp { size: 5000, connected: true }, 53, 5),
    (Exchange::Bulk { up: 3_000_001, down: 3_000_001 }, 9000, 2),
];

/// Backends in every place, in every kind of world, and no netfilter rule finds anything invalid.
#[test]
fn a_process_that_no_hook_sees_reaches_backends_everywhere() -> Result<()> {
    kernel_or_skip!();
    for options @ WorldOptions { network, wiring } in WorldOptions::ALL {
        let world = World::new(options)?;
        let (here, there) = (&world.nodes[0], &world.nodes[1]);
        let pods = [here.pod("near", 11)?, there.pod("far", 11)?];
        let _hosts = [Server::start(here, "host")?, Server::start(there, "far-host")?];
        let folder = here.dir().join("manifests");
        fs::create_dir(&folder)?;
        fs::write(folder.join("ranges.yaml"), RANGES)?;
        let backends: [(&str, u8, Addresses<'_>); 4] = [
            ("near", 11, &|family| pods[0].ip(family)),
            ("far", 12, &|family| pods[1].ip(family)),
            ("host", 13, &|family| here.address(family)),
            ("far-host", 14, &|family| there.address(family)),
        ];
        for (name, number, backend) in backends {
            service(&folder, name, number, backend)?;
        }
        let firewall = Firewall::new(here)?;
        let agent = Agent::start_on(here, Source::Manifests(folder), OFF)?;
        for (name, number, _) in backends {
            for (family, (exchange, port, count)) in
                FAMILIES.into_iter().flat_map(|family| EXCHANGES.map(|exchange| (family, exchange)))
            {
                let to = SocketAddr::new(family.cluster_ip(number), port);
                let report = here.unseen().run(Load::new(exchange, to, count))?;
                let case = format!("{network:?} {wiring:?} {name} {family:?} {exchange:?}");
                assert_eq!(report.failures(), [""; 0], "{case}: {}", agent.json(&["status"])?["counters"]);
                assert_eq!(report.by_pod().keys().collect::<Vec<_>>(), [name], "{case}");
                assert!(report.seen().all(|seen| seen.peer == to), "{case}: another peer");
            }
        }
        // An ICMP error of the backend, which has no such socket, about a packet that nobody but the program has translated.
        let shut = Exchange::Udp { size: 100, connected: true };
        for (family, (name, number, _)) in FAMILIES.into_iter().flat_map(|family| backends.map(|it| (family, it))) {
            let report = here.unseen().run(Load::new(shut, SocketAddr::new(family.cluster_ip(number), 9), 2))?;
            let refused = report.answers.iter().all(|answer| answer.refused);
            assert!(refused, "{network:?} {wiring:?} {name} {family:?}: {:?}", report.failures());
        }
        assert_eq!(firewall.dropped()?, 0, "{network:?} {wiring:?}: packets were invalid");
    }
    Ok(())
}

/// A lab with a Service `web` of pods, an agent without socket path, and a client in a pod.
fn lab() -> Result<(Lab, Vec<sluice_tests::lab::Pod>)> {
    let lab = Lab::new()?;
    lab.manifests.write("ranges.yaml", RANGES)?;
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
    let mut pods = lab.pods("web", 11..13)?;
    pods.push(lab.pod("client", 40)?);
    Ok((lab, pods))
}

fn web(family: Family) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(10), 80)
}

fn one(place: Place<'_>, to: SocketAddr) -> Result<sluice_tests::lab::Answer> {
    let load = Load { timeout_ms: 400, ..Load::new(Exchange::Http, to, 1) };
    place.run(load)?.answers.pop().context("no exchange")
}

#[test]
fn what_is_to_no_service_vanishes_and_all_else_goes_its_way() -> Result<()> {
    kernel_or_skip!();
    let (lab, pods) = lab()?;
    let _host = Server::start(&lab.node, "host")?;
    // An address of the node's own, and a pod, in the range all the same: an address is known, and a longer route wins.
    lab.node.ip(&format!(
        "addr add 10.96.200.1/32 dev lo\naddr add fd00:96::200/128 dev lo nodad\n\
         route add 10.96.201.1/32 dev {device}\nroute add fd00:96::201/128 dev {device}\n",
        device = pods[2].device
    ))?;
    pods[2].ns.ip("addr add 10.96.201.1/32 dev eth0\naddr add fd00:96::201/128 dev eth0 nodad\n")?;
    let agent = Agent::start(&lab, OFF)?;
    let places = [("host", lab.node.unseen()), ("pod", pods[0].client()), ("outside", lab.outside())];
    for (family, (name, place)) in FAMILIES.into_iter().flat_map(|family| places.map(|place| (family, place))) {
        let case = format!("{name} {family:?}");
        let before = counted(&agent, "unallocated")?;
        let answer = one(place, SocketAddr::new(family.cluster_ip(99), 80))?;
        let why = answer.result.as_ref().err().map_or("", |why| why);
        ensure!(why.contains("timed out") && !answer.refused, "{case}: {answer:?}");
        ensure!(counted(&agent, "unallocated")? > before, "{case}: not counted");
        let before = counted(&agent, "unallocated")?;
        let own = family.pick([10, 96, 200, 1].into(), [0xfd00, 0x96, 0, 0, 0, 0, 0, 0x200].into());
        let longer = family.pick([10, 96, 201, 1].into(), [0xfd00, 0x96, 0, 0, 0, 0, 0, 0x201].into());
        for (to, expected) in [
            (SocketAddr::new(family.node_ip(), HTTP_PORT), "host"),
            (SocketAddr::new(own, HTTP_PORT), "host"),
            (SocketAddr::new(longer, HTTP_PORT), "client"),
            (web(family), "web-"),
        ] {
            let seen = one(place, to)?.result.map_err(|why| anyhow::anyhow!("{case} {to}: {why}"))?;
            ensure!(seen.server.pod.starts_with(expected), "{case} {to}: {seen:?}");
        }
        ensure!(counted(&agent, "unallocated")? == before, "{case}: counted what was to somebody");
    }
    Ok(())
}

#[test]
fn the_device_outlives_the_agent_is_mended_and_goes_with_the_rest() -> Result<()> {
    kernel_or_skip!();
    let (lab, _pods) = lab()?;
    let mut agent = Agent::start(&lab, OFF)?;
    let all = ["10.96.0.0/16", "fd00:96::/108"];
    let is_led = |what: &str, agent: &Agent<'_>, expected: &[&str]| {
        agent.wait_until(what, |_| Ok(routes(&lab.node)? == expected)).map(drop)
    };
    is_led("all ranges are led", &agent, &all)?;
    let first = index(&lab.node)?.context("no device")?;

    let streams: Vec<_> = FAMILIES
        .map(|family| lab.node.unseen().start(Load::steady(Exchange::Http, web(family), 4)))
        .into_iter()
        .collect::<Result<_>>()?;
    agent.stop()?;
    agent.restart()?;
    agent.kill()?;
    agent.restart()?;
    for stream in streams {
        let report = stream.stop()?;
        assert_eq!(report.failures(), [""; 0], "across restarts, of {}", report.answers.len());
    }
    assert_eq!(index(&lab.node)?, Some(first), "the next agent keeps the device");

    let repairs = |agent: &Agent<'_>| Ok::<_, anyhow::Error>(agent.json(&["status"])?["agent"]["repairs"].as_u64());
    let before = repairs(&agent)?;
    lab.node.ip("route del 10.96.0.0/16 dev sluice0\n")?;
    is_led("a route is mended", &agent, &all)?;
    lab.node.ip("link del sluice0\n")?;
    is_led("the device is mended", &agent, &all)?;
    assert_ne!(index(&lab.node)?, Some(first));
    agent.wait_until("it carries again", |_| {
        Ok(one(lab.node.unseen(), web(Family::V4))?.result.is_ok()
            && one(lab.node.unseen(), web(Family::V6))?.result.is_ok())
    })?;
    agent.wait_until("repairs are counted", |agent| Ok(repairs(agent)? >= before.map(|before| before + 2)))?;
    lab.node.ip("link set sluice0 down\n")?;
    is_led("it is switched on again", &agent, &all)?;

    lab.manifests.write("ranges.yaml", &RANGES.replace("10.96.0.0/16", "10.96.0.0/17"))?;
    is_led("a range moved", &agent, &["10.96.0.0/17", "fd00:96::/108"])?;
    lab.manifests.delete("ranges.yaml")?;
    is_led("all ranges are gone", &agent, &[])?;

    agent.stop()?;
    agent.restart_with(AgentOptions { service_device: false, ..OFF })?;
    assert_eq!(index(&lab.node)?, None, "switched off");
    agent.stop()?;
    agent.restart_with(OFF)?;
    lab.manifests.write("ranges.yaml", RANGES)?;
    is_led("the ranges are back", &agent, &all)?;
    agent.stop()?;
    let output = cli(&lab, &["uninstall"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((index(&lab.node)?, routes(&lab.node)?), (None, vec![]), "uninstalled");
    Ok(())
}

#[test]
fn a_device_of_somebody_else_is_left_alone() -> Result<()> {
    kernel_or_skip!();
    let (lab, _pods) = lab()?;
    lab.node.ip("link add sluice0 type veth peer name other\n")?;
    let theirs = index(&lab.node)?;
    let agent = Agent::start(&lab, OFF)?;
    agent.wait_until("people are told", |agent| {
        Ok(agent.json(&["status"])?["agent"]["problems"].to_string().contains("sluice0 is a device of somebody else's"))
    })?;
    agent.cli(&["uninstall"])?;
    drop(agent);
    cli(&lab, &["uninstall"])?;
    assert_eq!(index(&lab.node)?, theirs);
    Ok(())
}
