//! Packets that are longer than their way to a backend on another node: the node says so, and real sockets send shorter
//! ones. Neither end knows the narrow link from its own devices.

use std::fs;
use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, BULK_PORT, Exchange, FAMILIES, Family, Lab, Load, NIC, OFFLOADS, Offload, Tc, Xdp,
};

const NODE_PORT: u16 = 30_900;

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

/// A Service whose backend is a pod that is said to be on another node: toward it, packets leave at once.
fn declare(lab: &Lab, backend: impl Fn(Family) -> std::net::IpAddr) -> Result<()> {
    let ips = FAMILIES.map(|family| family.cluster_ip(10));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "type": "NodePort", "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "name": "bulk", "port": BULK_PORT, "nodePort": NODE_PORT }],
        },
    });
    let slices = FAMILIES.map(|family| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": format!("web-{family:?}").to_lowercase(), "namespace": "default",
                          "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
            "endpoints": [{ "addresses": [backend(family)], "nodeName": "elsewhere", "conditions": { "ready": true } }],
            "ports": [{ "name": "bulk", "port": BULK_PORT }],
        })
    });
    let items: Vec<_> = [service].into_iter().chain(slices).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    Ok(fs::write(lab.manifests.dir().join("web.json"), serde_json::to_string(&list)?)?)
}

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
        declare(&lab, |family| backend.ip(family))?;
        let agent = Agent::start(&lab, AgentOptions { xdp, tc, ..AgentOptions::USUAL })?;
        let narrow = |device: &str, mtu: u16| lab.node.ip(&format!("link set {device} mtu {mtu}\n"));
        for family in FAMILIES {
            let row = format!("{xdp:?} {tc:?} {offload:?} {family:?}");
            let to = SocketAddr::new(family.node_ip(), NODE_PORT);
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
