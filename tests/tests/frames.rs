//! Frames that are not for a Service pass the node as if Sluice were not there, byte for byte.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use etherparse::{IpNumber, PacketBuilder, SlicedPacket};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, DEFAULT, Exchange, FAMILIES, Frames, Lab, Load, Pod, WORLDS, cluster_ips, service_manifest,
};

/// The two addresses of a side.
type Host = ([u8; 4], [u8; 16]);

const POD4: [u8; 4] = [10, 244, 0, 17];
const OUT4: [u8; 4] = [192, 168, 50, 2];
const POD6: [u8; 16] = [0xfd, 0, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17];
const OUT6: [u8; 16] = [0xfd, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Tells one frame from another, and from errors that quote one.
fn mark(way: &str, name: &str) -> String {
    format!("mark of {name} {way} ")
}

/// Writes one packet with the given payload.
type Write<'a> = &'a dyn Fn(&mut Vec<u8>, &[u8]) -> Result<()>;

/// Frames between the two addresses, after their Ethernet header. The mark in the payload tells them apart.
fn packets(way: &str, (from4, from6): Host, (to4, to6): Host) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut rows = Vec::new();
    let mut add = |name, write: Write<'_>| -> Result<()> {
        let mut bytes = Vec::new();
        write(&mut bytes, mark(way, name).as_bytes())?;
        rows.push((name, bytes));
        Ok(())
    };
    add("UDP", &|to, p| Ok(PacketBuilder::ipv4(from4, to4, 64).udp(4000, 80).write(to, p)?))?;
    add("UDP over IPv6", &|to, p| Ok(PacketBuilder::ipv6(from6, to6, 64).udp(4000, 80).write(to, p)?))?;
    add("TCP SYN", &|to, p| Ok(PacketBuilder::ipv4(from4, to4, 64).tcp(4001, 80, 7, 9).syn().write(to, p)?))?;
    add("TCP with odd flags over IPv6", &|to, p| {
        Ok(PacketBuilder::ipv6(from6, to6, 64).tcp(4001, 80, 7, 9).syn().fin().urg(5).write(to, p)?)
    })?;
    add("ICMP echo", &|to, p| Ok(PacketBuilder::ipv4(from4, to4, 64).icmpv4_echo_reply(1, 2).write(to, p)?))?;
    add("ICMPv6 echo", &|to, p| Ok(PacketBuilder::ipv6(from6, to6, 64).icmpv6_echo_reply(1, 2).write(to, p)?))?;
    add("an unknown protocol", &|to, p| Ok(PacketBuilder::ipv4(from4, to4, 64).write(to, IpNumber(253), p)?))?;
    add("UDP with a wrong checksum", &|to, p| {
        PacketBuilder::ipv4(from4, to4, 64).udp(4002, 80).write(to, p)?;
        to[26] ^= 0x55;
        Ok(())
    })?;
    add("a fragment after the first", &|to, p| {
        PacketBuilder::ipv4(from4, to4, 64).write(to, IpNumber::UDP, p)?;
        to[6..8].copy_from_slice(&[0, 100]);
        fix_ipv4_checksum(to);
        Ok(())
    })?;
    add("TCP cut after its ports", &|to, p| Ok(PacketBuilder::ipv4(from4, to4, 64).write(to, IpNumber::TCP, p)?))?;
    Ok(rows)
}

fn fix_ipv4_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum: u32 = packet[..20].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

/// What a router changes, and only that: IPv4's TTL and header checksum, IPv6's hop limit.
fn routed(packet: &[u8]) -> Vec<u8> {
    let mut routed = packet.to_vec();
    if packet[0] >> 4 == 4 {
        routed[8] -= 1;
        fix_ipv4_checksum(&mut routed);
    } else {
        routed[7] -= 1;
    }
    routed
}

fn mac(ns: &sluice_tests::lab::Netns) -> Result<[u8; 6]> {
    // `/proc/net` is that of the process, whose namespace is another.
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/arp").context("cannot read the neighbours"))?;
    let field = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)).context("no neighbour yet")?;
    let bytes: Vec<u8> = field.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes.try_into().ok().context("no hardware address in the neighbour table")
}

fn check(from: &mut Frames, gateway: [u8; 6], to: &mut Frames, packets: &[(&str, Vec<u8>)], way: &str) -> Result<()> {
    for (name, packet) in packets {
        let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let frame = [&gateway[..], &[2, 0, 0, 0, 0, 1], &ethertype, packet].concat();
        assert!(SlicedPacket::from_ethernet(&frame).is_ok() || name.contains("cut"), "{name} is no packet");
        from.send(&frame)?;
        let mark = mark(way, name);
        let got = to.receive(Duration::from_secs(2), |f| f.windows(mark.len()).any(|w| w == mark.as_bytes()))?;
        let got = got.with_context(|| format!("{name}, {way}, did not arrive"))?;
        assert_eq!(got[14..], routed(packet), "{name}, {way}");
    }
    Ok(())
}

/// Both sides learn the gateway's address from one connection that fails.
fn meet(lab: &Lab, pod: &Pod) -> Result<()> {
    for family in FAMILIES {
        let load = |ip| Load { timeout_ms: 300, ..Load::new(Exchange::Http, SocketAddr::new(ip, 9), 1) };
        pod.client().run(load(family.outside_ip()))?;
        lab.outside().run(load(pod.ip(family)))?;
    }
    Ok(())
}

#[test]
fn frames_that_are_not_for_a_service_pass_byte_for_byte() -> Result<()> {
    kernel_or_skip!();
    let worlds = [None, Some(WORLDS[0].0), Some(WORLDS[1].0)];
    for options in worlds {
        let lab = Lab::new()?;
        lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
        let _backends = lab.pods("web", 21..23)?;
        let pod = lab.bare_pod("raw", 17)?;
        DEFAULT.apply(&lab.outside, "eth0")?;
        // Without the agent first: what the kernel does by itself is the measure.
        let _agent = options.map(|options| Agent::start(&lab, options)).transpose()?;
        meet(&lab, &pod)?;

        let mut pod_side = Frames::open(&pod.ns, "eth0")?;
        let mut outside = Frames::open(&lab.outside, "eth0")?;
        let (inside, beyond) = ((POD4, POD6), (OUT4, OUT6));
        let case = options.map_or("no agent".to_owned(), |options| format!("{:?}", options.xdp));
        let out = packets("out", inside, beyond)?;
        check(&mut pod_side, mac(&pod.ns)?, &mut outside, &out, "out").context(case.clone())?;
        let back = packets("in", beyond, inside)?;
        check(&mut outside, mac(&lab.outside)?, &mut pod_side, &back, "in").context(case)?;
    }
    Ok(())
}
