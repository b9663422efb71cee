//! Tagged frames (802.1Q). The kernel that runs these tests has no VLAN devices, so frames are made by hand; which devices
//! are VLANs' is tested where devices are told apart.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, Exchange, FAMILIES, Family, Frames, Lab, Load, NIC, WORLDS, cluster_ips, pattern, service_manifest,
};
use sluice_tests::packets::{self, UDP};

/// A tag with a priority, and the number of no VLAN.
const PRIORITY: u16 = 3 << 13;
/// The same, and number 100.
const VLAN: u16 = PRIORITY | 100;

/// A datagram to a Service that comes from outside with a tag.
fn tagged(lab: &Lab, family: Family, from: u16, tag: u16) -> Result<Vec<u8>> {
    let (src, dst) = (SocketAddr::new(family.outside_ip(), from), SocketAddr::new(family.cluster_ip(10), 53));
    let frame = packets::packet(src, dst, UDP, &pattern(0, 100));
    let macs = [Frames::address(&lab.node, NIC)?, Frames::address(&lab.outside, "eth0")?].concat();
    Ok([&macs, &[0x81, 0][..], &tag.to_be_bytes(), &frame[12..]].concat())
}

#[test]
fn a_frame_of_a_vlan_is_not_the_nic_s_and_one_with_a_priority_alone_is() -> Result<()> {
    kernel_or_skip!();
    for (options, _) in WORLDS {
        let lab = Lab::new()?;
        lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
        let _pods = lab.pods("web", 11..12)?;
        let agent = Agent::start(&lab, options)?;
        let mut outside = Frames::open(&lab.outside, "eth0")?;
        for family in FAMILIES {
            // Neighbours get to know each other.
            let load =
                Load::new(Exchange::Udp { size: 100, connected: true }, SocketAddr::new(family.cluster_ip(10), 53), 1);
            assert_eq!(lab.outside().run(load)?.failures(), [""; 0]);
            for (tag, from, is_ours) in [(VLAN, 40_100, false), (PRIORITY, 40_000, true)] {
                outside.send(&tagged(&lab, family, from, tag)?)?;
                let answer = |frame: &[u8]| {
                    let packet =
                        etherparse::SlicedPacket::from_ethernet(frame).ok().and_then(|packet| packet.transport);
                    matches!(packet, Some(etherparse::TransportSlice::Udp(udp)) if udp.destination_port() == from)
                };
                let answered = outside.receive(Duration::from_millis(500), answer)?;
                ensure!(answered.is_some() == is_ours, "{:?} {family:?} tag {tag:#x}: {answered:x?}", options.xdp);
            }
            let flows = agent.json(&["flows"])?.to_string();
            ensure!(!flows.contains("40100"), "{:?} {family:?}: a flow of a VLAN: {flows}", options.xdp);
        }
    }
    Ok(())
}
