//! Established flows that leave the node again keep their next hop, and lose it when the kernel would choose another: at once
//! while the agent runs, within a tick without it. Frames show by their MACs where they were sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::tables::TICK;
use lb_userspace::bpf::now;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, FAMILIES, Family, Frames, Lab, NIC, Protocol, ServedPort, UDP_PORT, Xdp, service_at,
};
use sluice_tests::packets::{FROM, TO, UDP, ends, packet};

const PORT: ServedPort =
    ServedPort { name: "dns", protocol: Protocol::Udp, port: 53, target: UDP_PORT, node_port: 30_053 };
const CLIENT_PORT: u16 = 20_000;

/// Two routers to the other node, and a MAC that the first may get.
const ROUTERS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];
const OTHER: [u8; 6] = [2, 0, 0, 0, 1, 3];

const A_TICK: Duration = Duration::from_nanos(TICK);
/// How long the news of the kernel may take until packets follow: so short that no tick ends meanwhile.
const AT_ONCE: Duration = Duration::from_millis(500);

fn router(family: Family, n: u8) -> IpAddr {
    family.pick(Ipv4Addr::new(192, 168, 50, 101 + n), Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x101 + u16::from(n)))
}

fn backend(family: Family) -> SocketAddr {
    SocketAddr::new(family.pod_ip_on(1, 10), UDP_PORT)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A change, and the MAC to which packets go then. [`FROM`] means that their sender is told of the MTU.
struct Change {
    name: &'static str,
    to: [u8; 6],
    does: fn(Family) -> String,
    undoes: fn(Family) -> String,
}

const CHANGES: [Change; 4] = [
    Change {
        name: "a route",
        to: ROUTERS[1],
        does: |f| format!("route replace {} via {} dev {NIC}", backend(f).ip(), router(f, 1)),
        undoes: |f| format!("route replace {} via {} dev {NIC}", backend(f).ip(), router(f, 0)),
    },
    Change {
        name: "a rule",
        to: ROUTERS[1],
        does: |f| format!("rule add to {} lookup 77 priority 77", backend(f).ip()),
        undoes: |f| format!("rule del to {} lookup 77 priority 77", backend(f).ip()),
    },
    Change {
        name: "a neighbour's MAC",
        to: OTHER,
        does: |f| format!("neigh replace {} lladdr {} dev {NIC} nud permanent", router(f, 0), text(OTHER)),
        undoes: |f| format!("neigh replace {} lladdr {} dev {NIC} nud permanent", router(f, 0), text(ROUTERS[0])),
    },
    Change {
        name: "a device's MTU",
        to: FROM,
        does: |_| format!("link set {NIC} mtu 1300"),
        undoes: |_| format!("link set {NIC} mtu 1500"),
    },
];

/// A node, its wire, and an agent that leads a NodePort to a backend behind the routers.
struct Scene {
    lab: Lab,
    xdp: Xdp,
}

impl Scene {
    fn new(xdp: Xdp) -> Result<Self> {
        let lab = Lab::new()?;
        lab.outside.ip(&format!("link set eth0 address {}\n", text(FROM)))?;
        lab.node.ip(&format!("link set {NIC} address {}\n", text(TO)))?;
        lab.node.sysctl(&[("net/ipv4/conf/all/send_redirects", "0"), ("net/ipv4/conf/nic0/send_redirects", "0")])?;
        for family in FAMILIES {
            let (outside, backend, [one, two]) =
                (family.outside_ip(), backend(family).ip(), [0, 1].map(|n| router(family, n)));
            lab.node.ip(&format!(
                "neigh replace {outside} lladdr {} dev {NIC} nud permanent
                 neigh replace {one} lladdr {} dev {NIC} nud permanent
                 neigh replace {two} lladdr {} dev {NIC} nud permanent
                 route add {backend} via {one} dev {NIC}
                 route add {backend} via {two} dev {NIC} table 77\n",
                text(FROM),
                text(ROUTERS[0]),
                text(ROUTERS[1])
            ))?;
        }
        Ok(Self { lab, xdp })
    }

    fn start(&self) -> Result<Agent<'_>> {
        let backends = FAMILIES.map(|family| backend(family).ip());
        self.lab.manifests.write("web.yaml", &service_at("web", 10, "elsewhere", backends, &[PORT]))?;
        Agent::start(&self.lab, AgentOptions { xdp: self.xdp, ..AgentOptions::USUAL })
    }

    /// Runs `ip` on the node.
    fn change(&self, family: Family, command: &str) -> Result<String> {
        let flag = if family == Family::V4 { "-4" } else { "-6" };
        let mut ip = Command::new("ip");
        ip.arg(flag).args(command.split_whitespace());
        let output = self.lab.node.run(|| ip.output().context("cannot run ip"))?;
        ensure!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A flow from outside, by frames.
struct Wire {
    frames: Frames,
    family: Family,
    sent: u32,
}

impl Wire {
    /// Opens a flow and has it answered.
    fn establish(scene: &Scene, family: Family) -> Result<Self> {
        let mut wire = Self { frames: Frames::open(&scene.lab.outside, "eth0")?, family, sent: 0 };
        let there = wire.probe()?;
        let (node, _) = ends(&there);
        let mut answer = packet(backend(family), node, UDP, b"answer");
        answer[..12].copy_from_slice(&[TO, FROM].concat());
        wire.frames.send(&answer)?;
        wire.frames.receive(Duration::from_secs(2), |frame| frame.ends_with(b"answer"))?.context("no answer")?;
        wire.next_hop()?;
        Ok(wire)
    }

    /// Sends a datagram; what comes of it.
    fn probe(&mut self) -> Result<Vec<u8>> {
        self.sent += 1;
        let mark = format!("datagram number {} of this flow", self.sent);
        let mut payload = mark.clone().into_bytes();
        // With which it is longer than 1,300 bytes by as much as a veth of that MTU lets come in: by a VLAN's tag.
        payload.resize(if self.family == Family::V4 { 1304 - 28 } else { 1304 - 48 }, 0x5a);
        let (client, node) = (
            SocketAddr::new(self.family.outside_ip(), CLIENT_PORT),
            SocketAddr::new(self.family.node_ip(), PORT.node_port),
        );
        let mut frame = packet(client, node, UDP, &payload);
        frame[..12].copy_from_slice(&[TO, FROM].concat());
        self.frames.send(&frame)?;
        let is_it = |frame: &[u8]| frame.windows(mark.len()).any(|bytes| bytes == mark.as_bytes());
        self.frames.receive(Duration::from_secs(3), is_it)?.with_context(|| format!("{mark} was lost"))
    }

    /// The MAC to which a datagram goes.
    fn next_hop(&mut self) -> Result<[u8; 6]> {
        Ok(self.probe()?[..6].try_into()?)
    }

    /// How long it takes until datagrams go to a MAC.
    fn until(&mut self, to: [u8; 6], patience: Duration) -> Result<Duration> {
        let began = Instant::now();
        while self.next_hop()? != to {
            ensure!(began.elapsed() < patience, "after {patience:?} datagrams do not go to {}", text(to));
        }
        Ok(began.elapsed())
    }

    /// Waits for a tick to begin, and has the next hop looked up in it.
    fn begin_tick(&mut self) -> Result<Instant> {
        let last = now();
        while now() == last {
            sleep(Duration::from_millis(1));
        }
        // The programs' clock is a coarse one.
        sleep(Duration::from_millis(20));
        let began = Instant::now();
        self.next_hop()?;
        Ok(began)
    }
}

#[test]
fn a_flow_follows_what_changes_at_once_with_the_agent_and_within_a_tick_without() -> Result<()> {
    kernel_or_skip!();
    for xdp in [Xdp::Native, Xdp::Off] {
        let scene = Scene::new(xdp)?;
        let mut agent = scene.start()?;
        for alive in [true, false] {
            if !alive {
                agent.kill()?;
            }
            for (family, change) in FAMILIES.into_iter().flat_map(|family| CHANGES.iter().map(move |c| (family, c))) {
                let row = format!("{xdp:?} {family:?}: {} changes, agent alive: {alive}", change.name);
                let mut wire = Wire::establish(&scene, family).with_context(|| row.clone())?;
                assert_eq!(wire.next_hop()?, ROUTERS[0], "{row}: before");
                let tick = wire.begin_tick()?;
                scene.change(family, &(change.does)(family))?;
                if alive {
                    let took = wire.until(change.to, AT_ONCE).with_context(|| row.clone())?;
                    println!("{row}: {took:?}, {:?} into the tick", tick.elapsed());
                } else {
                    let before = wire.next_hop()?;
                    // On a machine that was too slow for it, nothing is to be seen.
                    assert!(before == ROUTERS[0] || tick.elapsed() > AT_ONCE, "{row}: it was asked, not kept");
                    let took = wire.until(change.to, 2 * A_TICK).with_context(|| row.clone())?;
                    println!("{row}: {took:?}, {:?} into the tick", tick.elapsed());
                    assert!(tick.elapsed() < A_TICK + AT_ONCE, "{row}: {:?}", tick.elapsed());
                }
                scene.change(family, &(change.undoes)(family))?;
                wire.until(ROUTERS[0], 3 * A_TICK)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_neighbour_that_the_kernel_has_forgotten_is_found_again() -> Result<()> {
    kernel_or_skip!();
    for xdp in [Xdp::Native, Xdp::Off] {
        let scene = Scene::new(xdp)?;
        let lab = &scene.lab;
        let mut agent = scene.start()?;
        for (alive, family) in [true, false].into_iter().flat_map(|alive| FAMILIES.map(|family| (alive, family))) {
            if !alive && family == FAMILIES[0] {
                agent.kill()?;
            }
            let row = format!("{xdp:?} {family:?}, agent alive: {alive}");
            // A router that answers whoever asks for it.
            let (third, backend, len) =
                (router(family, 2), backend(family).ip(), if family == Family::V4 { 24 } else { 64 });
            let nodad = if family == Family::V4 { "" } else { "nodad" };
            lab.outside.ip(&format!("addr replace {third}/{len} dev eth0 {nodad}\n"))?;
            lab.node.ip(&format!("route replace {backend} via {third} dev {NIC}\n"))?;
            let known = || scene.change(family, &format!("neigh show {third} dev {NIC}"));
            let mut wire = Wire::establish(&scene, family).with_context(|| row.clone())?;
            wire.until(FROM, 3 * A_TICK).with_context(|| row.clone())?;
            ensure!(known()?.contains(&text(FROM)), "{row}: {}", known()?);
            // What nobody else uses becomes stale. Packets go on.
            lab.node.ip(&format!("neigh change {third} dev {NIC} nud stale\n"))?;
            for _ in 0..2 {
                wire.begin_tick()?;
                assert_eq!(wire.next_hop()?, FROM, "{row}: stale");
            }
            // Packets at TC use it, so that the kernel looks after it.
            let state = known()?;
            assert!(xdp == Xdp::Native || !state.contains("STALE"), "{row}: {state}");
            // And at last the kernel drops it.
            lab.node.ip(&format!("neigh del {third} dev {NIC}\n"))?;
            wire.begin_tick()?;
            assert_eq!(wire.next_hop()?, FROM, "{row}: dropped");
            ensure!(known()?.contains(&text(FROM)), "{row}: {}", known()?);
            lab.node.ip(&format!("route replace {backend} via {} dev {NIC}\n", router(family, 0)))?;
        }
    }
    Ok(())
}

#[test]
fn a_next_hop_that_xdp_alone_sends_to_is_found_again_where_it_moved_silently() -> Result<()> {
    kernel_or_skip!();
    let scene = Scene::new(Xdp::Native)?;
    let lab = &scene.lab;
    let _agent = scene.start()?;
    for family in FAMILIES {
        // The kernel shall not take long to doubt a neighbour, nor to give it up.
        let ip = if family == Family::V4 { "ipv4" } else { "ipv6" };
        let [reachable, delay, pause] = ["base_reachable_time_ms", "delay_first_probe_time", "retrans_time_ms"]
            .map(|setting| format!("net/{ip}/neigh/{NIC}/{setting}"));
        lab.node.sysctl(&[(&reachable, "1000"), (&delay, "1"), (&pause, "100")])?;
        let (third, backend, len) =
            (router(family, 2), backend(family).ip(), if family == Family::V4 { 24 } else { 64 });
        let nodad = if family == Family::V4 { "" } else { "nodad" };
        lab.outside.ip(&format!("addr replace {third}/{len} dev eth0 {nodad}\n"))?;
        lab.node.ip(&format!("route replace {backend} via {third} dev {NIC}\n"))?;
        let mut wire = Wire::establish(&scene, family)?;
        wire.until(FROM, 3 * A_TICK)?;
        // TC, which found it, uses it no more.
        sleep(Duration::from_secs(4));
        // It has another MAC from now on, and tells nobody.
        lab.outside.ip(&format!("link set eth0 address {}\n", text(OTHER)))?;
        let took = wire.until(OTHER, Duration::from_secs(10)).with_context(|| {
            format!(
                "{family:?}: {}",
                scene.change(family, &format!("neigh show {third} dev {NIC}")).unwrap_or_default()
            )
        })?;
        println!("{family:?}: found again after {took:?}");
        lab.outside.ip(&format!("link set eth0 address {}\n", text(FROM)))?;
    }
    Ok(())
}
