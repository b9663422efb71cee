//! Frames of 9,000 bytes, which XDP sees in several buffers: the headers are in the first, and the rest arrives whole.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, BULK_PORT, Exchange, FAMILIES, Family, Lab, Load, NIC, Netns, Protocol, ServedPort, UDP_PORT,
    Xdp, cluster_ips, service_at, service_manifest,
};

const MTU: u16 = 9000;

const AWAY: [ServedPort; 2] = [
    ServedPort { name: "bulk", protocol: Protocol::Tcp, port: BULK_PORT, target: BULK_PORT, node_port: 30_900 },
    ServedPort { name: "dns", protocol: Protocol::Udp, port: 53, target: UDP_PORT, node_port: 30_053 },
];

#[test]
fn jumbo_frames_go_through_a_service_whole() -> Result<()> {
    kernel_or_skip!();
    for xdp in [Xdp::Native, Xdp::Off] {
        let lab = Lab::new()?;
        let pods = lab.pods("web", 11..13)?;
        let away = lab.pod("away", 21)?;
        lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
        lab.manifests.write("away.yaml", &service_at("away", 11, "elsewhere", away.ips, &AWAY))?;
        let widen = |ns: &Netns, device: &str| ns.ip(&format!("link set {device} mtu {MTU}\n"));
        for pod in pods.iter().chain([&away]) {
            widen(&pod.ns, "eth0")?;
            widen(&lab.node, &pod.device)?;
        }
        widen(&lab.outside, "eth0")?;
        widen(&lab.node, NIC)?;
        let agent = Agent::start(&lab, AgentOptions { xdp, ..AgentOptions::USUAL })?;
        let devices = agent.json(&["devices"])?;
        let nic = devices.as_array().into_iter().flatten().find(|row| row["device"] == NIC);
        let ingress = nic.and_then(|row| row["ingress"].as_str()).with_context(|| format!("no {NIC}: {devices}"))?;
        assert_eq!(ingress.contains("native"), xdp == Xdp::Native, "{devices}");
        // To pods of the node, and to one that is said to be elsewhere, for which packets leave at once.
        for (n, family) in [10, 11].into_iter().flat_map(|n| FAMILIES.map(|family| (n, family))) {
            let to = |port| SocketAddr::new(family.cluster_ip(n), port);
            let headers = if family == Family::V4 { 28 } else { 48 };
            let bulk = Exchange::Bulk { up: 5_000_001, down: 5_000_001 };
            // One that fits a page, those that do not, and the longest that comes in one frame.
            let datagrams =
                [3000, 3500, 5000, usize::from(MTU) - headers].map(|size| Exchange::Udp { size, connected: true });
            for (exchange, port) in [(bulk, BULK_PORT)].into_iter().chain(datagrams.map(|datagram| (datagram, 53))) {
                let report = lab.outside().run(Load::new(exchange, to(port), 2)).with_context(|| format!("{xdp:?}"))?;
                assert_eq!(report.failures(), [""; 0], "{xdp:?} {family:?} {n}: {exchange:?}");
            }
        }
    }
    Ok(())
}
