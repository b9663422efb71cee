//! A node that sends packets on, and the other end of its wire: generator, router and the other node in one.
//!
//! ```text
//!  outside                                 node
//!  eth0 ───────────── veth ─────────────── nic0
//!  192.168.50.2  sends packets to a Service
//!  192.168.50.3  the other node: counts those that arrive for its pod, 10.244.1.10
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::bench::Receiver;
use nix::net::if_::if_nametoindex;
use nix::unistd::gettid;

use super::{Way, client};
use crate::bench::cpu::{CpuTime, pin};
use crate::bench::front::{Front, Variation};
use crate::bench::subject::Running;
use crate::lab::{DEFAULT, FAMILIES, Family, Lab, NIC, Offload};
use crate::packets::{FROM, TO, UDP, packet};
use crate::plane::Plane;

/// The port of the backend.
pub(super) const BACKEND_PORT: u16 = 8080;
/// The first port of the clients, see [`Variation`].
const CLIENT_PORT: u16 = 30_000;
/// Flows from one address: the frames of a measurement differ in their source port only, since an IPv4 header has a checksum.
const MOST_FLOWS: u32 = 4096;
/// What is under way when the last frame was sent has then arrived.
const REST: Duration = Duration::from_millis(2);
/// How long a program may take until it serves one Service.
const READY: Duration = Duration::from_secs(30);
/// The first guess of how many frames to send.
const FRAMES: u32 = 8192;

/// The backend, on the other node.
pub(super) fn backend(family: Family) -> IpAddr {
    family.pod_ip_on(1, 10)
}

/// The other node.
fn other(family: Family) -> IpAddr {
    family.pick(Ipv4Addr::new(192, 168, 50, 3), Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 3))
}

/// One node, what runs on it, and its wire.
pub(super) struct Node<'a> {
    pub(super) way: Way,
    lab: &'a Lab,
    front: Front,
    running: Option<Running<'a>>,
    ready: bool,
    /// Index of the generator's device.
    device: u32,
    /// Bytes of a frame, and how many frames the next run sends.
    len: usize,
    frames: u32,
}

impl<'a> Node<'a> {
    pub(super) fn new(lab: &'a Lab, plane: &Plane<'_>, way: Way, programs: &Path) -> Result<Self> {
        wire(lab)?;
        let mut front = Front::load(programs)?;
        let device = lab.outside.run(|| {
            let device = if_nametoindex("eth0")?;
            front.attach("receive_xdp", device)?;
            Ok(device)
        })?;
        // Live frames are taken only by a device that polls: for XDP, or to merge what it receives. XDP at the other end has
        // switched TSO off.
        Offload { gro: true, tso: false, ..DEFAULT }.apply(&lab.node, NIC)?;
        let mut running = None;
        match way {
            Way::Wire => lab.node.run(|| front.attach("send_xdp", if_nametoindex(NIC)?))?,
            Way::Plain => {}
            Way::Service(_, subject, options) => running = Some(subject.start(lab, plane, options)?),
        }
        Ok(Self { way, lab, front, running, ready: false, device, len: 0, frames: FRAMES })
    }

    /// Opens `flows` flows from outside to `to`, there and back and there again. Whether they arrive at the backend.
    pub(super) fn establish(&mut self, to: SocketAddr, flows: u32) -> Result<bool> {
        ensure!(flows <= MOST_FLOWS, "{flows} flows, of at most {MOST_FLOWS}");
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let frame = frame(SocketAddr::new(client(family), CLIENT_PORT), to);
        (self.len, self.frames) = (frame.len(), FRAMES);
        self.front.set(&frame, Variation { clients: flows, ..Variation::default() })?;
        let port = BACKEND_PORT.into();
        self.front.receive(Receiver { port, answers: 1 })?;
        let began = Instant::now();
        // What has just been started may need its time; what has sent packets on once is ready.
        let patience = if self.ready { Duration::ZERO } else { READY };
        let works = loop {
            let arrived = (0..2).map(|_| self.send(flows)).collect::<Result<Vec<_>>>()?;
            if arrived.iter().all(|(arrived, _)| *arrived >= u64::from(flows)) {
                break true;
            }
            if let Some(running) = &mut self.running {
                running.expect_alive()?;
            }
            if began.elapsed() > patience {
                break false;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        self.front.receive(Receiver { port, answers: 0 })?;
        self.ready |= works;
        Ok(works)
    }

    /// Packets a second of CPU time, and the share that does not arrive, in a run of about so many milliseconds.
    pub(super) fn rate(&mut self, time: u64) -> Result<(f64, f64)> {
        let frames = self.frames;
        let (arrived, took) = self.send(frames)?;
        let (arrived, frames, took) = (arrived as f64, f64::from(frames), took.as_secs_f64());
        self.frames = ((frames / took * time as f64 / 1e3) as u32).max(FRAMES);
        Ok((arrived / took, 1.0 - arrived / frames))
    }

    /// Sends frames. Returns how many arrived until a little later, and the CPU time of it all.
    fn send(&mut self, frames: u32) -> Result<(u64, Duration)> {
        let (front, device, len) = (&mut self.front, self.device, self.len);
        let before = front.received()?;
        let took = self.lab.outside.run(|| {
            pin()?;
            // The node and the receiver do their work in the time of this thread.
            let cpu = CpuTime::of(&[gettid().as_raw()])?;
            let start = cpu.now()?;
            front.send(device, len, frames)?;
            Ok(cpu.now()? - start)
        })?;
        std::thread::sleep(REST);
        Ok((self.front.received()? - before, took))
    }

    /// Ends what runs on it.
    pub(super) fn remove(self) -> Result<()> {
        self.running.map_or(Ok(()), Running::remove).context(self.way.name())
    }
}

/// Addresses and routes beside those of every lab. Nobody has to be asked for a MAC, and nobody is told a better way.
fn wire(lab: &Lab) -> Result<()> {
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    lab.outside.ip(&format!("link set eth0 address {}\n", mac(FROM)))?;
    lab.node.ip(&format!("link set {NIC} address {}\n", mac(TO)))?;
    lab.node
        .sysctl(&[("net/ipv4/conf/all/send_redirects", "0"), (&format!("net/ipv4/conf/{NIC}/send_redirects"), "0")])?;
    for family in FAMILIES {
        let (other, outside, node, backend) = (other(family), family.outside_ip(), family.node_ip(), backend(family));
        let (own, nodad) = if family == Family::V4 { (24, "") } else { (64, "nodad") };
        lab.outside.ip(&format!(
            "addr add {other}/{own} dev eth0 {nodad}
             neigh replace {node} lladdr {} dev eth0 nud permanent\n",
            mac(TO)
        ))?;
        lab.node.ip(&format!(
            "neigh replace {other} lladdr {from} dev {NIC} nud permanent
             neigh replace {outside} lladdr {from} dev {NIC} nud permanent
             route add {backend} via {other} dev {NIC}\n",
            from = mac(FROM)
        ))?;
    }
    Ok(())
}

/// A datagram without a checksum, 64 bytes long for IPv4, 80 for IPv6: its source port varies.
fn frame(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (payload, checksum) = if to.is_ipv4() { (22, 14 + 20 + 6) } else { (18, 14 + 40 + 6) };
    let mut frame = packet(from, to, UDP, &[0; 22][..payload]);
    frame[checksum..checksum + 2].fill(0);
    frame
}
