//! Every checksum and segmentation setting of every device, with real data whose content is checked.

use std::net::SocketAddr;

use anyhow::Result;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, Exchange, FAMILIES, Family, Lab, Load, NIC, OFFLOADS, WORLDS, Way, cluster_ips, service_manifest,
};

/// Payloads: the smallest, odd ones, and one that fills the MTU of 1500.
fn sizes(family: Family) -> [usize; 5] {
    let full = if family == Family::V4 { 1472 } else { 1452 };
    [1, 2, 333, full - 1, full]
}

#[test]
fn every_offload_setting_carries_bulk_data_and_datagrams_whole() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?.without_xdp_outside();
        lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
        let pods = lab.pods("web", 11..13)?;
        let client = lab.bare_pod("client", 40)?;
        let _agent = Agent::start(&lab, options)?;
        for offload in OFFLOADS {
            for pod in pods.iter().chain([&client]) {
                offload.apply(&pod.ns, "eth0")?;
                offload.apply(&lab.node, &pod.device)?;
            }
            offload.apply(&lab.node, NIC)?;
            // A wire carries whole checksums, so the sender toward XDP must make them.
            if !offload.tx_checksum || !ways.contains(&Way::OutsideXdp) {
                offload.apply(&lab.outside, "eth0")?;
            }
            for &way in ways {
                for family in FAMILIES {
                    let row = format!("{way:?} {family:?} {}", offload.name);
                    let vip = |port| SocketAddr::new(family.cluster_ip(10), port);
                    let bulk = Exchange::Bulk { up: 3_000_001, down: 3_000_001 };
                    let report = way.place(&lab, &client).run(Load::new(bulk, vip(9000), 3))?;
                    assert_eq!(report.failures(), [""; 0], "{row} {bulk:?}");
                    let datagrams = sizes(family).map(|size| Exchange::Udp { size, connected: false });
                    let burst = Exchange::UdpBurst { size: 1200, segments: 20 };
                    for udp in datagrams.into_iter().chain([burst]) {
                        let load = Load { timeout_ms: 500, ..Load::new(udp, vip(53), 3) };
                        let report = way.place(&lab, &client).run(load)?;
                        assert_eq!(report.failures(), [""; 0], "{row} {udp:?}");
                    }
                }
            }
        }
    }
    Ok(())
}
