//! What the socket path adds to a `connect()`. The kernel runs no hook of sockets on request, so a real socket is connected
//! again and again, or one after the other: UDP, where nothing is sent.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::Options;
use super::report::Row;
use crate::bench::client::{Client, Task};
use crate::bench::progress;
use crate::bench::report::Runs;
use crate::lab::{Agent, AgentOptions, FAMILIES, Family, Lab, SocketPath, UDP_PORT, cluster_ips, service_manifest};

/// A Service's port for datagrams, see [`service_manifest`].
const PORT: u16 = 53;
/// The goal for a connection to a Service.
const GOAL: f64 = 120.0;

/// Sockets that are opened, connected and closed take many times as long as those that are only connected.
const OPENED: u32 = 8;

/// Rows for sockets that connect to a Service, and for those that connect elsewhere; for one socket, and for a new one each time.
pub(super) fn measure(options: &Options) -> Result<Vec<Row>> {
    let lab = Lab::new()?;
    let pods = lab.pods("web", [11])?;
    let pod = pods.first().context("no pod")?;
    lab.manifests.write("service.yaml", &service_manifest("web", &cluster_ips(1)))?;
    let _agent = Agent::start(&lab, AgentOptions { socket_path: SocketPath::All, ..AgentOptions::USUAL })?;
    // One that the hooks do not see, one that they see.
    let mut clients = [Client::start(&lab.node, None)?, Client::start(&lab.node, Some(lab.cgroup()))?];
    let bar = progress::bar("connect()".to_owned(), (2 * options.runs) as u64, "runs")?;
    let mut rows = Vec::new();
    for family in FAMILIES {
        let direct = pod.at(family, UDP_PORT);
        let service = SocketAddr::new(family.cluster_ip(1), PORT);
        let mut times: [[Runs; 3]; 2] = Default::default();
        for _ in 0..options.runs {
            for (at, (client, to)) in [(0, direct), (1, service), (1, direct)].into_iter().enumerate() {
                let again = Task::Associate { to, count: options.rounds };
                times[0][at].push(clients[client].run(&again)?[0]);
                let anew = Task::Open { to, count: options.rounds / OPENED };
                times[1][at].push(clients[client].run(&anew)?[0]);
            }
            bar.inc(1);
        }
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let cases = [("connect()", Some(GOAL)), ("connect() of a new socket", None)];
        for ([base, service, other], (case, goal)) in times.into_iter().zip(cases) {
            rows.push(Row::new(&format!("{case} to a Service"), name, "socket", 1, [base.clone(), service], goal));
            rows.push(Row::new(&format!("{case} elsewhere"), name, "socket", 1, [base, other], None));
        }
    }
    bar.finish_and_clear();
    Ok(rows)
}
