//! Datagrams above the MTU go through a Service in pieces, there and back: real sockets, every way, both families.

use std::net::SocketAddr;

use anyhow::Result;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{Agent, Exchange, FAMILIES, Lab, Load, WORLDS, cluster_ips, service_manifest};

/// Number of the ClusterIPs of the Service `web`.
const WEB: u8 = 10;

#[test]
fn datagrams_above_the_mtu_are_whole_at_both_ends() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(WEB)))?;
        let pods = lab.pods("web", 11..13)?;
        let client = lab.bare_pod("client", 40)?;
        let agent = Agent::start(&lab, options)?;
        for (&way, family) in ways.iter().flat_map(|way| FAMILIES.map(|family| (way, family))) {
            let to = SocketAddr::new(family.cluster_ip(WEB), 53);
            // The second client is a backend itself: in one of two cases it talks to itself.
            for (from, size) in [&client, &pods[0]].into_iter().flat_map(|pod| [1473, 4000, 60_000].map(|n| (pod, n))) {
                for one_socket in [false, true] {
                    let load = Load { one_socket, ..Load::new(Exchange::Udp { size, connected: true }, to, 6) };
                    let report = way.place(&lab, from).run(load)?;
                    let row = format!("{way:?} {family:?} {size} bytes from {}, one socket {one_socket}", from.name);
                    assert_eq!(report.failures(), [""; 0], "{row}");
                }
            }
        }
        let lost = agent.json(&["status"])?.to_string();
        assert!(!lost.contains("\"fragment\":"), "fragments in order were not known: {lost}");
    }
    Ok(())
}
