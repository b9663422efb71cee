//! Full tables: a flood of half-open connections, retried SYNs, and no room for one more established flow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, Exchange, FAMILIES, Family, Frames, HTTP_PORT, Lab, Load, NIC, Netns, Overruns, Place, Pod,
    Running, WithSpare, Xdp, cluster_ips, endpoint_slice, service_manifest,
};
use sluice_tests::packets::{self, SYN};

/// Frames of one flood, of both families together.
const FLOOD: u32 = 100_000;

/// At the NIC, where a flood comes in.
const PATHS: [Xdp; 2] = [Xdp::Native, Xdp::Off];

fn web(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(10), port)
}

/// Of eight pods two serve: once all do, three of four new flows go elsewhere than before.
fn world(lab: &Lab) -> Result<(WithSpare<'_>, Pod)> {
    Ok((WithSpare::new(lab, 2, 6)?, lab.bare_pod("client", 40)?))
}

/// Client number `n` of a flood, an address that nobody has: answers to it end outside.
fn nobody(family: Family, n: u32) -> SocketAddr {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 | n & 0xffff)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(0xfd00_0bad << 96 | u128::from(n & 0xffff))),
    };
    SocketAddr::new(ip, 1024 + (n >> 16) as u16 * 7 + (n % 30_000) as u16)
}

/// A SYN as the wire outside carries it.
fn syn(gateway: [u8; 6], from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut frame = packets::packet(from, to, SYN, b"");
    frame[..6].copy_from_slice(&gateway);
    frame
}

/// A Service whose only backend never answers: its flows stay half open, and no server's own defence against floods
/// has a part in the test.
fn silent(lab: &Lab) -> Result<Pod> {
    let pod = lab.bare_pod("silent", 50)?;
    pod.ns.ip("route del default\nroute del default via fe80::1 dev eth0\n")?;
    let text = service_manifest("silent", &cluster_ips(11)).replace("  selector:\n    app: silent\n", "");
    lab.manifests.write("silent.yaml", &text)?;
    for family in FAMILIES {
        let name = format!("silent-{family:?}").to_lowercase();
        // On this node: else a client outside would be masqueraded, and be counted where its packet is sent on.
        let here = endpoint_slice(&name, "silent", &[pod.ip(family)]).replace("- addr", "- nodeName: node\n  addr");
        lab.manifests.write(&format!("{name}.yaml"), &here)?;
    }
    Ok(pod)
}

/// Frames of the flood that may be on their way at once: less than the ring of a veth (256) and a CPU's backlog hold, and
/// the exchanges beside it fit too.
const BURST: u64 = 64;
/// What did not come by then has been lost, or was the first for a neighbour that was not known.
const LOST: Duration = Duration::from_millis(50);

/// Sends the flood as fast as it arrives at the pod, so that no queue on its way is overrun; says how long it took.
fn flood(lab: &Lab, silent: &Pod) -> Result<Duration> {
    let gateway = Frames::address(&lab.node, NIC)?;
    let mut wire = Frames::open(&lab.outside, "eth0")?;
    silent.ns.run(|| {
        let (start, before) = (Instant::now(), received()?);
        let (mut sent, mut lost) = (0, 0);
        for n in 0..FLOOD / 2 {
            for family in FAMILIES {
                wire.send(&syn(gateway, nobody(family, n), SocketAddr::new(family.cluster_ip(11), 80)))?;
                sent += 1;
            }
            if sent % BURST != 0 {
                continue;
            }
            let asked = Instant::now();
            loop {
                let missing = (sent - lost).saturating_sub(received()? - before);
                if missing < BURST / 2 {
                    break;
                }
                if asked.elapsed() > LOST {
                    lost += missing;
                    break;
                }
                std::thread::yield_now();
            }
        }
        Ok(start.elapsed())
    })
}

/// Packets that the device of the pod whose namespace this thread is in has received.
fn received() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").context("cannot read the devices' counters")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.context("no device eth0")
}

fn counter(agent: &Agent, reason: &str) -> Result<u64> {
    let status = agent.json(&["status"])?;
    let row = status["counters"].as_array().into_iter().flatten().find(|row| row["reason"] == reason);
    row.and_then(|row| row["packets"].as_u64()).with_context(|| format!("no counter {reason} in {status}"))
}

/// Connections and datagram exchanges that are established before anything happens: from outside and from a pod.
fn long_exchanges(lab: &Lab, client: &Pod, for_ms: u64) -> Result<Vec<(String, Running)>> {
    let mut streams = Vec::new();
    for (name, place) in [("outside", lab.outside()), ("pod", client.client())] {
        for family in FAMILIES {
            for n in 0..4 {
                let lines = Load::new(Exchange::Lines { for_ms }, web(family, 7), 1);
                // What is silent is what an LRU table would forget first.
                let silence = Load { exchange: Exchange::Silence { for_ms }, ..lines.clone() };
                let datagrams = Load::steady(Exchange::Udp { size: 64, connected: false }, web(family, 53), 20);
                for load in [lines, silence, Load { one_socket: true, ..datagrams }] {
                    streams.push((format!("{name} {family:?} {:?} {n}", load.exchange), place.start(load)?));
                }
            }
        }
    }
    Ok(streams)
}

/// No exchange failed, and none saw another pod than at its begin. Nobody sends a datagram again: of those no more may
/// lack than the kernel dropped at a full queue.
fn assert_undisturbed(case: &str, streams: Vec<(String, Running)>, overruns: impl Fn() -> Result<u64>) -> Result<()> {
    let mut lost = Vec::new();
    for (name, stream) in streams {
        let report = stream.stop()?;
        assert!(!report.answers.is_empty(), "{case}, {name}");
        let failures = report.failures();
        match name.contains("Udp") {
            true => lost.extend(failures.into_iter().map(|failure| format!("{name}: {failure}"))),
            false => assert_eq!(failures, [""; 0], "{case}, {name}: of {}", report.answers.len()),
        }
        assert_eq!(report.by_pod().len(), 1, "{case}, {name}: it moved: {:?}", report.by_pod());
    }
    let dropped = overruns()?;
    println!("{case}: {} datagrams lost, {dropped} packets dropped at full queues", lost.len());
    assert!(lost.len() as u64 <= dropped, "{case}: {lost:?}");
    Ok(())
}

#[test]
fn a_flood_of_half_open_connections_disturbs_nobody() -> Result<()> {
    kernel_or_skip!();
    for xdp in PATHS {
        let case = format!("{xdp:?}");
        let lab = Lab::new()?;
        let (served, client) = world(&lab)?;
        let silent = silent(&lab)?;
        let room = AgentOptions { max_flows: Some(2052), ..AgentOptions::USUAL };
        let agent = Agent::start(&lab, AgentOptions { xdp, ..room })?;

        let spaces = || [&lab.outside, &lab.node, &client.ns].into_iter().chain(served.pods.iter().map(|pod| &pod.ns));
        let before_all = Overruns::count(spaces())?;
        let long = long_exchanges(&lab, &client, 9000)?;
        std::thread::sleep(Duration::from_millis(300));
        // From here on a flow that is forgotten goes elsewhere, three times in four.
        served.add(&agent)?;
        let mut new = Vec::new();
        for (name, place) in [("outside", lab.outside()), ("pod", client.client()), ("host", lab.host())] {
            for family in FAMILIES {
                // Time for SYNs that are sent again after one and after three seconds.
                let load = Load { timeout_ms: 8000, ..Load::steady(Exchange::Http, web(family, 80), 10) };
                new.push((format!("{case}, {name} {family:?}"), place.start(load)?));
            }
        }
        std::thread::sleep(Duration::from_millis(200));
        let before = counter(&agent, "new_flow")?;
        let took = flood(&lab, &silent)?;
        println!("{case}: {FLOOD} frames in {took:?}");
        let chosen = counter(&agent, "new_flow")? - before;
        for (name, stream) in new {
            let report = stream.stop()?;
            let slowest = report.answers.iter().map(|answer| answer.took_us).max().unwrap_or_default();
            println!("{name}: {} connections, the slowest {} ms", report.answers.len(), slowest / 1000);
            assert!(report.answers.len() > 20, "{name}: {} connections", report.answers.len());
            assert_eq!(report.failures(), [""; 0], "{name}: of {}", report.answers.len());
        }
        assert_undisturbed(&case, long, || {
            let after = Overruns::count(spaces())?;
            let dropped = after.since(&before_all);
            println!("{case}: full queues: {dropped:?}");
            Ok(dropped.values().sum())
        })?;

        // What happened can be read.
        println!("{case}: {chosen} flows");
        assert!(chosen >= u64::from(FLOOD) * 9 / 10, "{case}: of {FLOOD} SYNs {chosen} were let in");
        assert_eq!(counter(&agent, "flow_table_full")?, 0, "{case}: only half-open flows were pushed out");
        for n in [4, 6] {
            let (entries, capacity) = agent.fill(&format!("FLOWS_V{n}"))?;
            assert_eq!(capacity, 2052, "{case}");
            assert!((32..capacity).contains(&entries), "{case}: {entries} established of {capacity}");
        }
        let table = String::from_utf8(agent.cli(&["status"])?.stdout)?;
        assert!(table.contains("--max-flows") && table.contains("new_flow"), "{case}:\n{table}");
    }
    Ok(())
}

/// Where the copies of a SYN from `from` arrived, by pod: how many, and at which of the pod's ports.
type Arrivals = BTreeMap<SocketAddr, BTreeMap<usize, Vec<u16>>>;

/// Notes every SYN that a pod's device has received.
fn arrivals(pods: &mut [Frames], clients: &BTreeSet<SocketAddr>, found: &mut Arrivals) -> Result<()> {
    for (n, frames) in pods.iter_mut().enumerate() {
        while let Some(frame) = frames.receive(Duration::from_millis(60), |_| true)? {
            let Ok(parsed) = SlicedPacket::from_ethernet(&frame) else { continue };
            let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { continue };
            let from = match parsed.net {
                Some(NetSlice::Ipv4(ip)) => IpAddr::V4(ip.header().source_addr()),
                Some(NetSlice::Ipv6(ip)) => IpAddr::V6(ip.header().source_addr()),
                _ => continue,
            };
            let from = SocketAddr::new(from, tcp.source_port());
            if tcp.syn() && !tcp.ack() && clients.contains(&from) {
                found.entry(from).or_default().entry(n).or_default().push(tcp.destination_port());
            }
        }
    }
    Ok(())
}

#[test]
fn a_syn_that_is_sent_again_reaches_the_same_backend() -> Result<()> {
    kernel_or_skip!();
    for xdp in PATHS {
        let lab = Lab::new()?;
        let (served, _client) = world(&lab)?;
        let agent = Agent::start(&lab, AgentOptions { xdp, ..AgentOptions::USUAL })?;
        // Every pod's hardware address is known, or a burst would not fit where packets wait for it.
        for (pod, family) in served.pods.iter().flat_map(|pod| FAMILIES.map(|family| (pod, family))) {
            let met = lab.outside().run(Load::new(Exchange::Http, pod.at(family, HTTP_PORT), 1))?;
            assert_eq!(met.failures(), [""; 0], "{} {family:?}", pod.name);
        }
        let clients: BTreeSet<_> = FAMILIES.iter().flat_map(|&f| (0..100).map(move |n| nobody(f, n))).collect();
        let gateway = Frames::address(&lab.node, NIC)?;
        let mut wire = Frames::open(&lab.outside, "eth0")?;
        let open = |ns: &Netns| Frames::open(ns, "eth0");
        let mut devices = served.pods.iter().map(|pod| open(&pod.ns)).collect::<Result<Vec<_>>>()?;
        let mut found = Arrivals::new();
        for again in [false, true] {
            if again {
                // Whoever chooses anew now chooses another backend, three times in four.
                served.add(&agent)?;
            }
            for &from in &clients {
                let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
                wire.send(&syn(gateway, from, web(family, 80)))?;
            }
            arrivals(&mut devices, &clients, &mut found)?;
        }
        assert_eq!(found.len(), clients.len(), "{xdp:?}: some never arrived");
        let mut pods_used = BTreeSet::<usize>::new();
        for (from, pods) in &found {
            let copies: Vec<_> = pods.values().flatten().copied().collect();
            assert_eq!(copies, [HTTP_PORT; 2], "{xdp:?} {from}: {pods:?}");
            assert_eq!(pods.len(), 1, "{xdp:?} {from}: its second SYN went elsewhere: {pods:?}");
            pods_used.extend(pods.keys());
        }
        assert_eq!(pods_used.len(), 2, "{xdp:?}: not all to one");
        assert_eq!(counter(&agent, "new_flow")?, clients.len() as u64, "{xdp:?}");
        assert!(counter(&agent, "half_open_flow")? >= clients.len() as u64, "{xdp:?}");
    }
    Ok(())
}

/// Every kind of exchange, one after another and many at once.
fn assert_served(case: &str, place: Place<'_>) -> Result<()> {
    for family in FAMILIES {
        for (exchange, port, times) in [
            // Enough to fill the table.
            (Exchange::Http, 80, 700),
            (Exchange::Udp { size: 100, connected: false }, 53, 30),
            (Exchange::Bulk { up: 200_000, down: 200_000 }, 9000, 30),
        ] {
            let report = place.run(Load::new(exchange, web(family, port), times))?;
            assert_eq!(report.failures(), [""; 0], "{case} {family:?} {exchange:?}");
            assert_eq!(report.by_pod().len(), 2, "{case} {family:?} {exchange:?}: {:?}", report.by_pod());
        }
        let lines = Load::new(Exchange::Lines { for_ms: 400 }, web(family, 7), 1);
        let many = (0..10).map(|_| place.start(lines.clone())).collect::<Result<Vec<_>>>()?;
        for connection in many {
            assert_eq!(connection.finish()?.failures(), [""; 0], "{case} {family:?}");
        }
    }
    Ok(())
}

#[test]
fn with_the_established_table_full_connections_still_work_and_it_is_shown() -> Result<()> {
    kernel_or_skip!();
    for xdp in PATHS {
        let lab = Lab::new()?;
        let (_served, client) = world(&lab)?;
        let agent = Agent::start(&lab, AgentOptions { xdp, max_flows: Some(1200), ..AgentOptions::USUAL })?;
        for (name, place) in [("outside", lab.outside()), ("pod", client.client())] {
            assert_served(&format!("{xdp:?} {name}"), place)?;
        }
        assert!(counter(&agent, "flow_table_full")? > 0, "{xdp:?}");
        for n in [4, 6] {
            let (entries, capacity) = agent.fill(&format!("FLOWS_V{n}"))?;
            assert!(capacity == 1200 && entries * 10 > capacity * 9, "{xdp:?}: {entries} of {capacity}");
        }
        let table = String::from_utf8(agent.cli(&["status"])?.stdout)?;
        let line = |words: &[&str]| table.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(line(&["FLOWS_V4", "--max-flows"]), "{xdp:?}:\n{table}");
        assert!(line(&["flow_table_full", "--max-flows"]), "{xdp:?}:\n{table}");
        // Flows that are where a flood could push them out are shown like any other.
        let flows = agent.json(&["flows"])?;
        assert!(flows.as_array().is_some_and(|all| all.len() > 4), "{xdp:?}: {flows}");
    }
    Ok(())
}
