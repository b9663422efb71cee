//! Packets that are longer than their way to a backend on another node: the node says so, and real sockets send shorter
//! ones. Neither end knows the narrow link from its own devices.

use std::net::SocketAddr;

use anyhow::Result;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, BULK_PORT, Exchange, FAMILIES, Lab, Load, NIC, OFFLOADS, Offload, Protocol, ServedPort, Tc,
    Xdp, service_at,
};

const BULK: ServedPort =
    ServedPort { name: "bulk", protocol: Protocol::Tcp, port: BULK_PORT, target: BULK_PORT, node_port: 30_900 };

/// Of the narrow link.
const NARROW: u16 = 1400;

/// Where packets are translated, and how the client's device sends them: XDP needs whole checksums; TC must do with
/// aggregates, too, whose checksums a device is to complete.
const WORLDS: [(Xdp, Tc, Option<Offload>); 4] = [
    (Xdp::Native, Tc::Tcx, None),
    (Xdp::Off, Tc::Tcx, None),
    (Xdp::Off, Tc::Tcx, Some(OFFLOADS[1])),
    (Xdp::Off, Tc::Clsact, Some(OFFLOADS[1])),
];

#[test]
fn the_mtu_of_the_way_to_another_node_is_discovered() -> Result<()> {
    kernel_or_skip!();
    for (xdp, tc, offload) in WORLDS {
        let mut lab = Lab::new()?;
        if let Some(offload) = offload {
            lab = lab.without_xdp_outside();
            offload.apply(&lab.outside, "eth0")?;
            offload.apply(&lab.node, NIC)?;
        }
        let backend = lab.pod("web-1", 11)?;
        lab.manifests.write("web.yaml", &service_at("web", 10, "elsewhere", backend.ips, &[BULK]))?;
        let agent = Agent::start(&lab, AgentOptions { xdp, tc, ..AgentOptions::USUAL })?;
        let narrow = |device: &str, mtu: u16| lab.node.ip(&format!("link set {device} mtu {mtu}\n"));
        for family in FAMILIES {
            let row = format!("{xdp:?} {tc:?} {offload:?} {family:?}");
            let to = SocketAddr::new(family.node_ip(), BULK.node_port);
            for (device, up, down) in [(&*backend.device, 3_000_001, 1000), (NIC, 1000, 3_000_001)] {
                narrow(device, NARROW)?;
                let report = lab.outside().run(Load::new(Exchange::Bulk { up, down }, to, 2))?;
                assert_eq!(report.failures(), [""; 0], "{row}: {up} bytes up, {down} down");
                narrow(device, 1500)?;
            }
        }
        let status = agent.json(&["status"])?.to_string();
        assert!(status.contains("\"too_long\""), "{status}");
    }
    Ok(())
}
