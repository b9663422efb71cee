//! Packets whose bytes a device has summed up (`CHECKSUM_COMPLETE`), as the better NICs do, and tunnels: the kernel knows of one that
//! came inside another, whose checksum was right, what its bytes add up to. Whoever changes bytes changes that sum. So overlays lead
//! packets to Services here, and a witness proves that they come with such a sum, and go on with one that is right.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, BULK_PORT, Exchange, FAMILIES, Family, Load, Network, Place, Protocol, ServedPort, Server,
    SocketPath, Source, Summed, Sums, UDP_PORT, VXLAN, Wiring, World, WorldOptions, service_at,
};

const PORTS: [ServedPort; 2] = [
    ServedPort { name: "bulk", protocol: Protocol::Tcp, port: BULK_PORT, target: BULK_PORT, node_port: 30_900 },
    ServedPort { name: "dns", protocol: Protocol::Udp, port: 53, target: UDP_PORT, node_port: 30_053 },
];

/// The numbers of the ClusterIPs of Services with a backend in a pod of the second node, and in a process of the first.
const AT_POD: u8 = 10;
const AT_PROCESS: u8 = 20;

/// Nodes whose pods reach each other by VXLAN; the agent is that of the first.
fn world() -> Result<World> {
    World::new(WorldOptions { network: Network::Vxlan, wiring: Wiring::PointToPoint })
}

/// An agent that knows of both Services, and leads no socket.
fn start(world: &World) -> Result<Agent<'_>> {
    let [here, there, _] = &world.nodes[..] else { anyhow::bail!("a world has three nodes") };
    let folder = here.dir().join("manifests");
    fs::create_dir_all(&folder)?;
    let pod = FAMILIES.map(|family| there.pod_ip(family, 11));
    // NodePorts are those of the first.
    let process = PORTS.map(|port| ServedPort { node_port: port.node_port + 1, ..port });
    // The address from which it answers by the overlay.
    let addresses = FAMILIES.map(|family| here.pod_ip(family, 0));
    fs::write(folder.join("pod.yaml"), service_at("pod", AT_POD, there.name(), pod, &PORTS))?;
    fs::write(folder.join("process.yaml"), service_at("process", AT_PROCESS, here.name(), addresses, &process))?;
    fs::write(
        folder.join("ranges.yaml"),
        "apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, \"fd00:96::/108\"]}
",
    )?;
    Agent::start_on(
        here,
        Source::Manifests(folder),
        AgentOptions { socket_path: SocketPath::Off, ..AgentOptions::USUAL },
    )
}

/// All kinds of packets, from a client to the ports at `to`: one witness sees them come in, the other go on.
fn check(
    client: Place<'_>,
    to: impl Fn(Family) -> [SocketAddr; 2],
    (before, after): (&mut Sums, &mut Sums),
) -> Result<()> {
    for family in FAMILIES {
        let [bulk, datagrams] = to(family);
        // More than an overlay takes at once: the first tells what fits.
        let udp = |size| (Exchange::Udp { size, connected: true }, datagrams);
        let first = Load { timeout_ms: 200, ..Load::new(udp(3000).0, datagrams, 1) };
        client.run(first)?;
        for (exchange, at) in
            [udp(1), udp(18), udp(333), udp(1200), udp(3000), (Exchange::Bulk { up: 100_001, down: 100_001 }, bulk)]
        {
            let row = format!("{family:?} {exchange:?}");
            before.seen()?;
            after.seen()?;
            let report = client.run(Load::new(exchange, at, 3))?;
            ensure!(report.failures().is_empty(), "{row}: {:?}", report.failures());
            let (came, went) = (before.seen()?, after.seen()?);
            println!("{row}: {} packets came summed up, {} went on", came.len(), went.len());
            ensure!(
                came.len() >= 3 && went.len() >= 3,
                "{row}: {} packets came summed up, {} went",
                came.len(),
                went.len()
            );
            ensure!(came.iter().all(Summed::is_right), "{row}: a sum was wrong before");
            if let Some(wrong) = went.iter().find(|packet| !packet.is_right()) {
                anyhow::bail!("{row}: the sum of all bytes is wrong: {wrong:x?}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_a_device_has_summed_up_leaves_the_node_with_a_right_sum() -> Result<()> {
    kernel_or_skip!();
    let world = world()?;
    let _backend = world.nodes[1].pod("web", 11)?;
    let _agent = start(&world)?;
    let mut before = Sums::before(&world.nodes[0], VXLAN)?;
    let mut after = Sums::after(&world.switch, world.nodes[0].name())?;
    // Its answers come in by the overlay, and leave by the NIC.
    let to = |family| PORTS.map(|port| SocketAddr::new(World::node_ip(family, 0), port.node_port));
    check(world.outside(0), to, (&mut before, &mut after)).context("to a pod on another node")
}

#[test]
fn what_a_device_has_summed_up_goes_up_the_stack_with_a_right_sum() -> Result<()> {
    kernel_or_skip!();
    let world = world()?;
    let [here, there, _] = &world.nodes[..] else { anyhow::bail!("a world has three nodes") };
    let _server = Server::start(here, "process")?;
    let client = there.bare_pod("client", 40)?;
    let _agent = start(&world)?;
    // Its node has no agent, and leads what is to ClusterIPs to one that has.
    for (family, range) in FAMILIES.into_iter().zip(["10.96.0.0/16", "fd00:96::/108"]) {
        there.ip(&format!("route add {range} via {} dev {VXLAN} onlink\n", here.pod_ip(family, 0)))?;
    }
    let (mut before, mut after) = (Sums::before(here, VXLAN)?, Sums::after(here, VXLAN)?);
    let to = |family: Family| PORTS.map(|port| SocketAddr::new(family.cluster_ip(AT_PROCESS), port.port));
    check(client.client(), to, (&mut before, &mut after)).context("to a process on this node")
}

#[test]
fn what_a_device_has_summed_up_goes_in_through_the_service_device_with_a_right_sum() -> Result<()> {
    kernel_or_skip!();
    let world = world()?;
    let _backend = world.nodes[1].pod("web", 11)?;
    let _agent = start(&world)?;
    let here = &world.nodes[0];
    let (mut before, mut after) = (Sums::before(here, VXLAN)?, Sums::after(here, "sluice0")?);
    let to = |family: Family| PORTS.map(|port| SocketAddr::new(family.cluster_ip(AT_POD), port.port));
    check(here.unseen(), to, (&mut before, &mut after)).context("to a process of this node")
}
