//! A node with a pod that asks and a pod that answers, and what makes Services work there.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::Result;
use serde_json::{Value, json};

use super::server::{ASK, CONNECT, FILL, Server};
use crate::bench::client::{Client, Task};
use crate::bench::control::probe::World;
use crate::bench::cpu::CpuTime;
use crate::bench::subject::{Running, START, Subject};
use crate::lab::Lab;
use crate::plane::Plane;

/// Services that lead to the server, beside those that are only there.
pub(super) const MEASURED: u8 = 16;

/// The address of one of them: from the half of the range that the API server gives to nobody.
fn cluster_ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 1, n)
}

/// The only endpoint of that Service: an address of the server's pod, one of those that `control::objects` gives to it. As many as there are
/// Services, so that a client has as many ports to the one as to the other.
fn endpoint(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 143, 0, n)
}

/// What is asked of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Latency,
    Connections,
    Bulk,
}

impl What {
    pub(super) const ALL: [Self; 3] = [Self::Latency, Self::Connections, Self::Bulk];
}

/// By which name a client calls the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The pod's own address.
    Pod,
    /// A Service, translated packet by packet.
    Service,
    /// A Service, translated when the socket connects.
    Socket,
}

/// One node.
pub(super) struct Node<'a> {
    lab: &'a Lab,
    subject: Option<Subject>,
    running: Option<Running<'a>>,
    client: Client,
    /// In the lab's cgroup.
    hooked: Client,
    /// Of both clients and of the server.
    cpu: CpuTime,
    _server: Server,
    world: World,
}

impl<'a> Node<'a> {
    pub(super) fn new(lab: &'a Lab, subject: Option<Subject>) -> Result<Self> {
        let world = World::new(lab)?;
        let server = Server::start(&world.backend.ns)?;
        // Ports of closed connections rest for a minute.
        world.client.ns.sysctl(&[("net/ipv4/ip_local_port_range", "10000 65535"), ("net/ipv4/tcp_tw_reuse", "1")])?;
        let client = Client::start(&world.client.ns, None)?;
        let hooked = Client::start(&world.client.ns, Some(lab.cgroup()))?;
        let cpu = CpuTime::of(&[&[client.id(), hooked.id()], server.ids.as_slice()].concat())?;
        Ok(Self { lab, subject, running: None, client, hooked, cpu, _server: server, world })
    }

    /// Starts what makes Services work there.
    pub(super) fn start(&mut self, plane: &Plane<'_>) -> Result<()> {
        if let Some(subject) = self.subject {
            self.running = Some(subject.start(self.lab, plane, &["--socket-path", "all"])?);
        }
        Ok(())
    }

    /// Waits until all frontends answer. Whether they did in time.
    pub(super) fn wait(&mut self, sample: &[SocketAddrV4]) -> Result<bool> {
        let Some(running) = &mut self.running else { return Ok(true) };
        let measured = (0..MEASURED).map(|n| SocketAddrV4::new(cluster_ip(n), CONNECT));
        let all: Vec<_> = sample.iter().copied().chain(measured).collect();
        let complete = self.world.wait_for_all(&all, running.began, START)?;
        running.expect_alive()?;
        Ok(complete.is_some())
    }

    /// Ends it.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Running::remove)
    }

    /// Has the client do it for about so many milliseconds: microseconds (p50, p99), or so many in a second of CPU time.
    pub(super) fn measure(&mut self, what: What, by: By, time: u64) -> Result<Vec<f64>> {
        let ip = if by == By::Pod { endpoint } else { cluster_ip };
        let to = |n, port| SocketAddr::from((ip(n), port));
        let task = match what {
            // A round trip takes a few dozen microseconds.
            What::Latency => Task::Ask { to: to(0, ASK), count: usize::try_from(time)? * 20 },
            What::Connections => Task::Connect { to: (0..MEASURED).map(|n| to(n, CONNECT)).collect(), time },
            What::Bulk => Task::Fill { to: to(0, FILL), time },
        };
        let client = if by == By::Socket { &mut self.hooked } else { &mut self.client };
        let start = self.cpu.now()?;
        let figures = client.run(&task)?;
        let seconds = (self.cpu.now()? - start).as_secs_f64();
        Ok(if what == What::Latency { figures } else { figures.iter().map(|figure| figure / seconds).collect() })
    }
}

/// The Services that are measured, and their EndpointSlices.
pub(super) fn declared() -> Vec<Value> {
    let ports = [("ask", ASK), ("connect", CONNECT), ("fill", FILL)];
    let pair = |n| {
        let name = format!("measured-{n}");
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "clusterIP": cluster_ip(n),
                "ports": ports.map(|(name, port)| json!({ "name": name, "port": port, "protocol": "TCP" })),
            },
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [endpoint(n)], "conditions": { "ready": true }, "nodeName": "node" }],
            "ports": ports.map(|(name, port)| json!({ "name": name, "port": port, "protocol": "TCP" })),
        });
        [service, slice]
    };
    (0..MEASURED).flat_map(pair).collect()
}
