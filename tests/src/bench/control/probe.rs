//! Clients and backends of all Services: two pods with many addresses each, so that every endpoint answers and no flow
//! comes twice.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::objects;
use crate::lab::{Family, Lab, Pod};

/// Between two datagrams.
const EVERY: Duration = Duration::from_micros(250);
/// Source ports of one source address.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// The pods, and what arrives.
pub(in crate::bench) struct World {
    pub(in crate::bench) client: Pod,
    pub(in crate::bench) backend: Pod,
    sent: Arc<AtomicU32>,
    /// The first datagram at an endpoint of each change.
    pub(super) arrivals: Receiver<Arrival>,
    stop: Arc<AtomicBool>,
    receiver: Option<JoinHandle<Result<()>>>,
}

/// A datagram at an endpoint that a change brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) change: u32,
    pub(super) at: Instant,
}

impl World {
    pub(in crate::bench) fn new(lab: &Lab) -> Result<Self> {
        let client = lab.bare_pod("client", 40)?;
        // Its servers listen at all addresses: a TCP connection to any endpoint succeeds.
        let backend = lab.pod("backend", 50)?;
        for (pod, addresses) in [(&client, objects::CLIENTS.0), (&backend, objects::BACKENDS)] {
            pod.ns.ip(&format!("route add local {addresses} dev lo\n"))?;
            lab.node.ip(&format!("route add {addresses} via {} dev {}\n", pod.ip(Family::V4), pod.device))?;
        }
        // What is not translated goes nowhere, rather than to the node's default gateway and back.
        lab.node.ip(&format!("route add blackhole {}\n", objects::VIRTUAL))?;
        let (stop, (found, arrivals)) = (Arc::new(AtomicBool::new(false)), channel());
        let stopped = stop.clone();
        let socket = backend.ns.run(|| listen().context("cannot listen for datagrams"))?;
        let receiver = backend.ns.start(move || receive(&socket, &found, &stopped))?;
        Ok(Self { client, backend, sent: Arc::default(), arrivals, stop, receiver: Some(receiver) })
    }

    /// The time from `began` until a new connection to each of the frontends has succeeded; none after `patience`.
    pub(in crate::bench) fn wait_for_all(
        &self,
        frontends: &[SocketAddrV4],
        began: Instant,
        patience: Duration,
    ) -> Result<Option<Duration>> {
        self.client.ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut waits = JoinSet::new();
                for frontend in frontends {
                    waits.spawn(wait_for_one(*frontend, began));
                }
                let all = tokio::time::timeout(patience.saturating_sub(began.elapsed()), waits.join_all()).await;
                Ok(all.ok().and_then(|times| times.into_iter().max()))
            })
        })
    }

    /// Sends datagrams to a Service, each a flow of its own, until it is stopped.
    pub(super) fn probe(&self, to: SocketAddrV4) -> Result<Probe> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), self.sent.clone());
        let stopped = stop.clone();
        let thread = self.client.ns.start(move || {
            while !stopped.load(Ordering::Relaxed) {
                let from = source(sent.fetch_add(1, Ordering::Relaxed));
                let socket = UdpSocket::bind(from).with_context(|| format!("cannot send from {from}"))?;
                socket.send_to(&[0], to).with_context(|| format!("cannot send to {to}"))?;
                std::thread::sleep(EVERY);
            }
            Ok(())
        })?;
        Ok(Probe { stop, thread })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.join();
        }
    }
}

/// Datagrams under way.
pub(super) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Probe {
    /// Ends it; fails if it could not send.
    pub(super) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err(anyhow!("the prober panicked")))
    }
}

/// The address and port of the `n`th datagram.
fn source(n: u32) -> SocketAddrV4 {
    let ports = PORTS.len() as u32;
    let address = u32::from(objects::CLIENTS.1) + 1 + n / ports;
    SocketAddrV4::new(address.into(), PORTS.start + (n % ports) as u16)
}

/// Tries again and again. An attempt takes at most a fiftieth of the time that has passed, which bounds the error and
/// the load alike.
async fn wait_for_one(frontend: SocketAddrV4, began: Instant) -> Duration {
    loop {
        let patience = (began.elapsed() / 50).max(Duration::from_millis(5));
        let attempt = Instant::now();
        if let Ok(Ok(_)) = tokio::time::timeout(patience, TcpStream::connect(frontend)).await {
            return began.elapsed();
        }
        // Refused: at once, and as often as it would be asked.
        tokio::time::sleep(patience.saturating_sub(attempt.elapsed())).await;
    }
}

/// A socket at all addresses, which says at which of them a datagram arrived.
fn listen() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, objects::TARGET_PORT))?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    // So that it sees when it shall stop.
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, found: &Sender<Arrival>, stop: &AtomicBool) -> Result<()> {
    let mut space = nix::cmsg_space!(libc::in_pktinfo);
    let mut latest = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut datagram = [0; 1];
        let mut buffers = [IoSliceMut::new(&mut datagram)];
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty()) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error).context("cannot receive a datagram"),
        };
        let at = Instant::now();
        let change = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => objects::change_of(u32::from_be(info.ipi_addr.s_addr).into()),
            _ => None,
        });
        // Datagrams of earlier flows may still come in.
        let Some(change) = change.filter(|change| *change > latest) else { continue };
        latest = change;
        if found.send(Arrival { change, at }).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_datagrams_come_from_the_same_place() {
        let mut seen: Vec<_> = (0..200_000).map(source).collect();
        seen.dedup();
        assert_eq!(seen.len(), 200_000);
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
