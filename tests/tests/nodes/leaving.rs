//! Flows that leave the node at once, to a backend on another node: all that belongs to them leaves with them, with real
//! sockets, by XDP and by TC.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, BULK_PORT, Exchange, FAMILIES, Family, Load, Network, Place, Pod, Protocol, ServedPort,
    Source, UDP_PORT, Wiring, World, WorldOptions, Xdp, service_at,
};

/// NodePorts.
const BULK: u16 = 30_900;
const DATAGRAMS: u16 = 30_053;
/// This one leads to a UDP port that no socket has.
const CLOSED: u16 = 30_009;

const PORTS: [ServedPort; 3] = [
    ServedPort { name: "bulk", protocol: Protocol::Tcp, port: BULK_PORT, target: BULK_PORT, node_port: BULK },
    ServedPort { name: "dns", protocol: Protocol::Udp, port: 53, target: UDP_PORT, node_port: DATAGRAMS },
    ServedPort { name: "closed", protocol: Protocol::Udp, port: 9, target: 9, node_port: CLOSED },
];

/// Of a narrow link: enough for IPv6, and less than the world's other links.
const NARROW: u16 = 1300;

/// Both ways between nodes, both places of the programs.
fn worlds() -> impl Iterator<Item = (Network, Xdp)> {
    [Network::Routed, Network::Vxlan].into_iter().flat_map(|network| [Xdp::Native, Xdp::Off].map(|xdp| (network, xdp)))
}

/// The world, a backend on its second node, and a client on its third: to the first, it is a stranger.
fn world(network: Network) -> Result<(World, Pod, Pod)> {
    let world = World::new(WorldOptions { network, wiring: Wiring::PointToPoint })?;
    let backend = world.nodes[1].pod("web-1", 11)?;
    let client = world.nodes[2].bare_pod("client", 40)?;
    // As many errors as there are packets: a host would else send few.
    backend.ns.sysctl(&[("net/ipv4/icmp_ratelimit", "0"), ("net/ipv6/icmp/ratelimit", "0")])?;
    Ok((world, backend, client))
}

/// The agent of the first node, which knows where the backend is.
fn start<'a>(world: &'a World, backend: &Pod, xdp: Xdp) -> Result<Agent<'a>> {
    let node = &world.nodes[0];
    let folder = node.dir().join("manifests");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("web.yaml"), service_at("web", 10, world.nodes[1].name(), backend.ips, &PORTS))?;
    Agent::start_on(node, Source::Manifests(folder), AgentOptions { xdp, ..AgentOptions::USUAL })
}

fn to(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(World::node_ip(family, 0), port)
}

/// The client outside, and the pod of another node.
fn clients<'a>(world: &'a World, client: &'a Pod) -> [(&'static str, Place<'a>); 2] {
    [("outside", world.outside(0)), ("a pod elsewhere", client.client())]
}

#[test]
fn an_error_from_either_side_of_a_flow_that_leaves_reaches_the_other() -> Result<()> {
    kernel_or_skip!();
    for (network, xdp) in worlds() {
        let (world, backend, client) = world(network)?;
        let _agent = start(&world, &backend, xdp)?;
        // Neither end knows that the last link to it takes less.
        world.nodes[1].ip(&format!("link set {} mtu {NARROW}\n", backend.device))?;
        world.nodes[2].ip(&format!("link set {} mtu {NARROW}\n", client.device))?;
        for (family, (name, place)) in FAMILIES.into_iter().flat_map(|f| clients(&world, &client).map(|c| (f, c))) {
            let row = format!("{network:?} {xdp:?} {family:?} from {name}");
            for (up, down) in [(1_000_001, 1000), (1000, 1_000_001)] {
                let report = place.run(Load::new(Exchange::Bulk { up, down }, to(family, BULK), 2))?;
                assert_eq!(report.failures(), [""; 0], "{row}: {up} bytes up, {down} down");
            }
            let load = Load::new(Exchange::Udp { size: 100, connected: true }, to(family, CLOSED), 4);
            let report = place.run(load).with_context(|| row.clone())?;
            let refused = report.answers.iter().all(|answer| answer.refused && answer.took_us < 500_000);
            assert!(refused, "{row}: a closed port does not refuse: {:?}", report.failures());
        }
    }
    Ok(())
}

#[test]
fn datagrams_in_fragments_leave_whole() -> Result<()> {
    kernel_or_skip!();
    for (network, xdp) in worlds() {
        let (world, backend, client) = world(network)?;
        let _agent = start(&world, &backend, xdp)?;
        for (family, (name, place)) in FAMILIES.into_iter().flat_map(|f| clients(&world, &client).map(|c| (f, c))) {
            if network == Network::Vxlan {
                // Made for a wider link than the overlay: the first is lost, and tells what fits.
                let first = Load {
                    timeout_ms: 200,
                    ..Load::new(Exchange::Udp { size: 4000, connected: true }, to(family, DATAGRAMS), 1)
                };
                place.run(first)?;
            }
            for size in [1473, 4000, 20_000] {
                let load = Load::new(Exchange::Udp { size, connected: true }, to(family, DATAGRAMS), 4);
                let report = place.run(load)?;
                let row = format!("{network:?} {xdp:?} {family:?} from {name}");
                assert_eq!(report.failures(), [""; 0], "{row}: {size} bytes");
            }
        }
    }
    Ok(())
}
