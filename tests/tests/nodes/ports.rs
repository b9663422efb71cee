//! One client port for several conversations with one backend, by the way of several nodes.

use std::fs;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, ECHO_PORT, Exchange, FAMILIES, Load, Place, Protocol, ServedPort, SocketPath, Source,
    UDP_PORT, World, WorldOptions, service_at,
};

const SERVICE: u8 = 77;
/// From it the calls of the first case come, those of each further one from the next: flows of datagrams last.
const CLIENT_PORT: u16 = 40_000;

const PORTS: [ServedPort; 2] = [
    ServedPort { name: "echo", protocol: Protocol::Tcp, port: 7, target: ECHO_PORT, node_port: 31_007 },
    ServedPort { name: "dns", protocol: Protocol::Udp, port: 53, target: UDP_PORT, node_port: 31_053 },
];

/// Connections that last while others begin.
fn connections(place: Place<'_>, from: u16, [first, second]: [SocketAddr; 2]) -> Result<()> {
    let lines = |to, for_ms| Load::new(Exchange::Lines { for_ms }, to, 1).from_port(from);
    let before = place.start(lines(first, 800))?;
    sleep(Duration::from_millis(200));
    let after = place.run(lines(second, 200))?.failures();
    let before = before.finish()?.failures();
    ensure!(before.is_empty() && after.is_empty(), "{second} while {first} lasts: {before:?} {after:?}");
    Ok(())
}

/// Sockets one after another: what their datagrams left behind lasts.
fn datagrams(place: Place<'_>, from: u16, [first, second]: [SocketAddr; 2]) -> Result<()> {
    for to in [first, second, first, second] {
        let exchange = Exchange::Udp { size: 100, connected: true };
        let load = Load { timeout_ms: 500, ..Load::new(exchange, to, 1).from_port(from) };
        let failures = place.run(load)?.failures();
        ensure!(failures.is_empty(), "{to} of {first} and {second}: {failures:?}");
    }
    Ok(())
}

/// By its ClusterIP, by the port of the backend's node, by that of a third node, and straight.
#[test]
fn one_port_calls_one_backend_by_several_nodes() -> Result<()> {
    kernel_or_skip!();
    for options in [WorldOptions::ALL[0], WorldOptions::ALL[3]] {
        let world = World::new(options)?;
        let (client, server) = (world.nodes[0].bare_pod("client", 40)?, world.nodes[1].pod("server", 11)?);
        let mut agents = Vec::new();
        for node in &world.nodes {
            let folder = node.dir().join("manifests");
            fs::create_dir(&folder)?;
            fs::write(folder.join("ports.yaml"), service_at("ports", SERVICE, "node-b", server.ips, &PORTS))?;
            let socket_path = SocketPath::Host;
            agents.push(Agent::start_on(
                node,
                Source::Manifests(folder),
                AgentOptions { socket_path, ..AgentOptions::USUAL },
            )?);
        }
        for (name, place) in [("pod", client.client()), ("host", world.nodes[0].host())] {
            for (family, port) in FAMILIES.into_iter().flat_map(|family| PORTS.map(|port| (family, port))) {
                let ways = [
                    SocketAddr::new(family.cluster_ip(SERVICE), port.port),
                    SocketAddr::new(World::node_ip(family, 1), port.node_port),
                    SocketAddr::new(World::node_ip(family, 2), port.node_port),
                    server.at(family, port.target),
                ];
                for (from, two) in (CLIENT_PORT..).zip([[0, 1], [1, 0], [1, 2], [1, 3], [3, 1]]) {
                    let two = two.map(|way| ways[way]);
                    let case = match port.protocol {
                        Protocol::Udp => datagrams(place, from, two),
                        _ => connections(place, from, two),
                    };
                    ensure!(case.is_ok(), "{options:?} {name}: {case:?}");
                }
            }
        }
    }
    Ok(())
}
