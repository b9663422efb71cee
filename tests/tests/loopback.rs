//! Processes of a node that no cgroup hook sees, at the NodePorts of the node's own addresses: their packets go by `lo`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, BULK_PORT, Exchange, FAMILIES, Family, Firewall, HTTP_PORT, Load, Node, Protocol, ServedPort,
    Server, SocketPath, Source, UDP_PORT, World, WorldOptions, cli, service_at,
};

const OPTIONS: AgentOptions =
    AgentOptions { socket_path: SocketPath::Off, nodeport_addresses: Some("primary,localhost"), ..AgentOptions::USUAL };

/// Nobody listens there.
const CLOSED: u16 = 9;

/// The NodePorts of the Service with a number begin with this.
const fn ports(number: u8) -> [ServedPort; 4] {
    let base = 31_000 + number as u16 * 10;
    [
        ServedPort { name: "http", protocol: Protocol::Tcp, port: 80, target: HTTP_PORT, node_port: base },
        ServedPort { name: "dns", protocol: Protocol::Udp, port: 53, target: UDP_PORT, node_port: base },
        ServedPort { name: "bulk", protocol: Protocol::Tcp, port: 9000, target: BULK_PORT, node_port: base + 1 },
        ServedPort { name: "closed", protocol: Protocol::Udp, port: 9, target: CLOSED, node_port: base + 1 },
    ]
}

/// Over IPv4 it goes in fragments, as soon as the MTU of the way is known. Over IPv6 the kernel learns none for an address of
/// its own.
const LONG: Exchange = Exchange::Udp { size: 5000, connected: true };

/// What is exchanged, with which of the ports, how often.
const EXCHANGES: [(Exchange, usize, usize); 6] = [
    (Exchange::Http, 0, 10),
    (Exchange::Udp { size: 100, connected: false }, 1, 10),
    (Exchange::Udp { size: 1300, connected: true }, 1, 10),
    (Exchange::UdpBurst { size: 1000, segments: 20 }, 1, 2),
    (LONG, 1, 5),
    (Exchange::Bulk { up: 3_000_001, down: 3_000_001 }, 2, 2),
];

/// Addresses of the node at which NodePorts are.
fn own(node: &Node, family: Family) -> [IpAddr; 2] {
    [node.address(family), family.pick(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)]
}

fn declare(folder: &Path, name: &str, number: u8, at: &str, ips: [IpAddr; 2]) -> Result<()> {
    let text = service_at(name, number, at, ips, &ports(number));
    Ok(fs::write(folder.join(format!("{name}.yaml")), text)?)
}

/// Backends in every place, and no netfilter rule finds anything invalid, where reverse paths are checked strictly.
#[test]
fn a_process_that_no_hook_sees_reaches_node_ports_of_its_own_node() -> Result<()> {
    kernel_or_skip!();
    for options in [WorldOptions::ALL[0], WorldOptions::ALL[3]] {
        let world = World::new(options)?;
        let (here, there) = (&world.nodes[0], &world.nodes[1]);
        let pods = [here.pod("near", 11)?, there.pod("far", 11)?];
        let _hosts = [Server::start(here, "host")?, Server::start(there, "far-host")?];
        let folder = here.dir().join("manifests");
        fs::create_dir(&folder)?;
        let backends = [
            ("near", 11, here, pods[0].ips),
            ("far", 12, there, pods[1].ips),
            ("host", 13, here, FAMILIES.map(|family| here.address(family))),
            ("far-host", 14, there, FAMILIES.map(|family| there.address(family))),
        ];
        for (name, number, node, ips) in backends {
            declare(&folder, name, number, node.name(), ips)?;
        }
        let firewall = Firewall::new(here)?;
        let agent = Agent::start_on(here, Source::Manifests(folder), OPTIONS)?;
        for (name, number, ..) in backends {
            for (family, ip) in FAMILIES.into_iter().flat_map(|family| own(here, family).map(|ip| (family, ip))) {
                // The first one that is too long is answered with the MTU.
                let to = SocketAddr::new(ip, ports(number)[1].node_port);
                here.unseen().run(Load { timeout_ms: 100, ..Load::new(LONG, to, 1) })?;
                let is_known = |exchange: &Exchange| match exchange {
                    Exchange::Udp { size, .. } => *size < 1500 || family == Family::V4,
                    _ => true,
                };
                for (exchange, port, count) in EXCHANGES.into_iter().filter(|(exchange, ..)| is_known(exchange)) {
                    let to = SocketAddr::new(ip, ports(number)[port].node_port);
                    let report = here.unseen().run(Load::new(exchange, to, count))?;
                    let case = format!("{options:?} {name} {family:?} {to} {exchange:?}");
                    assert_eq!(report.failures(), [""; 0], "{case}: {}", agent.json(&["status"])?["counters"]);
                    assert_eq!(report.by_pod().keys().collect::<Vec<_>>(), [name], "{case}");
                    assert!(report.seen().all(|seen| seen.peer == to), "{case}: another peer");
                }
                let to = SocketAddr::new(ip, ports(number)[3].node_port);
                let shut = Exchange::Udp { size: 100, connected: true };
                let report = here.unseen().run(Load::new(shut, to, 2))?;
                let refused = report.answers.iter().all(|answer| answer.refused);
                assert!(refused, "{options:?} {name} {to}: {:?}", report.failures());
            }
        }
        assert_eq!(firewall.dropped()?, 0, "{options:?}: packets were invalid");
    }
    Ok(())
}

/// What the loopback device lets in, as the kernel says it: of IPv4, addresses of the node's own at both ends.
fn admits(node: &Node) -> Result<Vec<String>> {
    let files = ["accept_local", "route_localnet"].map(|name| format!("/proc/sys/net/ipv4/conf/lo/{name}"));
    let read = |file: &String| Ok(node.run(|| Ok(fs::read_to_string(file)?))?.trim().to_owned());
    files.iter().map(read).collect()
}

#[test]
fn what_else_goes_by_the_loopback_device_goes_its_way() -> Result<()> {
    kernel_or_skip!();
    let world = World::new(WorldOptions::ALL[0])?;
    let here = &world.nodes[0];
    let _host = Server::start(here, "host")?;
    let folder = here.dir().join("manifests");
    fs::create_dir(&folder)?;
    declare(&folder, "web", 10, here.name(), FAMILIES.map(|family| here.pod_ip(family, 11)))?;
    let pod = here.pod("web", 11)?;
    assert_eq!(admits(here)?, ["0", "0"]);
    let mut agent = Agent::start_on(here, Source::Manifests(folder.clone()), OPTIONS)?;
    let one = |to| -> Result<_> {
        let load = Load { timeout_ms: 500, ..Load::new(Exchange::Http, to, 1) };
        here.unseen().run(load)?.answers.pop().context("no exchange")
    };
    let served = ports(10)[0].node_port;
    for (family, ip) in FAMILIES.into_iter().flat_map(|family| own(here, family).map(|ip| (family, ip))) {
        let by = |port| Ok::<_, anyhow::Error>(one(SocketAddr::new(ip, port))?.result.map(|seen| seen.server.pod));
        assert_eq!(by(served)?, Ok(pod.name.clone()), "{family:?} {ip}");
        assert_eq!(by(HTTP_PORT)?, Ok("host".to_owned()), "{family:?} {ip}");
        assert!(one(SocketAddr::new(ip, served + 5))?.refused, "{family:?} {ip}: a port of nobody");
    }
    // No endpoint: refused at once.
    let text = fs::read_to_string(folder.join("web.yaml"))?.replace("\"ready\":true", "\"ready\":false");
    fs::write(folder.join("web.yaml"), text)?;
    for ip in FAMILIES.into_iter().flat_map(|family| own(here, family)) {
        let to = SocketAddr::new(ip, served);
        agent.wait_until("nobody serves", |_| Ok(one(to)?.refused))?;
    }
    assert_eq!(admits(here)?, ["1", "1"]);
    agent.stop()?;
    assert!(cli(here, &["uninstall"])?.status.success());
    assert_eq!(admits(here)?, ["0", "0"], "uninstalled");
    for ip in FAMILIES.into_iter().flat_map(|family| own(here, family)) {
        assert!(one(SocketAddr::new(ip, served))?.refused, "{ip}: uninstalled");
    }
    Ok(())
}
