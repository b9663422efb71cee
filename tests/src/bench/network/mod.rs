//! What a pod notices of a Service in front of another pod: round trips, new connections, bulk. Each way is measured in turn
//! with the same between two pods of a node on which nothing else runs; nodes are alike, and all run at once.

mod node;
mod report;
mod server;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use self::node::{By, Node, What};
pub(super) use self::report::Report;
use self::report::Row;
use super::control::api::Api;
use super::control::objects::Objects;
use super::progress;
use super::report::{Findings as _, Machine};
use super::subject::{self, Subject};
use crate::lab::Lab;
use crate::plane::{Plane, PlaneOptions};

/// How long to measure, and where to leave the figures.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of Services, ascending.
    pub services: Vec<u32>,
    /// Pairs of runs of each case.
    pub runs: usize,
    /// Milliseconds of a run, about.
    pub time: u64,
    /// The folder where the JSON goes.
    pub out: PathBuf,
}

/// What runs on each node. On the first, nothing: what the others are compared with.
const NODES: [Option<Subject>; 4] = [None, Some(Subject::Sluice), Some(Subject::Nftables), Some(Subject::Iptables)];

/// What is measured: its name, on which node, how the client calls the server.
const WAYS: [(&str, usize, By); 7] = [
    ("Sluice, packets", 1, By::Service),
    ("Sluice, sockets", 1, By::Socket),
    ("kube-proxy nftables", 2, By::Service),
    ("kube-proxy iptables", 3, By::Service),
    ("no Service, beside Sluice", 1, By::Pod),
    ("no Service, beside kube-proxy nftables", 2, By::Pod),
    ("no Service, beside kube-proxy iptables", 3, By::Pod),
];

/// After all rules are in force, what was put off is done.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures, prints the tables, and keeps the JSON.
///
/// # Errors
/// The lab or the control plane cannot run here, or a program under measurement fails.
pub fn run(options: &Options) -> Result<()> {
    let labs = NODES.iter().map(|_| Lab::new()).collect::<Result<Vec<_>>>()?;
    let mut plane = Plane::start(&labs[0], PlaneOptions { api_servers: 1, controllers: false })?;
    let mut nodes = Vec::new();
    for (n, (lab, subject)) in labs.iter().zip(NODES).enumerate() {
        if n > 0 {
            plane.join(&lab.node)?;
        }
        nodes.push(Node::new(lab, subject)?);
    }
    let mut api = Api::new(&plane)?;
    for object in node::declared() {
        plane.apply(&object.to_string())?;
    }
    let mut report = Report { machine: Machine::this().beside(subject::version()?), rows: Vec::new() };
    for &services in &options.services {
        api.populate(services)?;
        let rows = stage(&plane, &mut nodes, options, services);
        report.rows.extend(rows.with_context(|| format!("with {services} Services"))?);
    }
    report.save(&options.out)
}

/// All ways with so many Services.
fn stage(plane: &Plane<'_>, nodes: &mut [Node<'_>], options: &Options, services: u32) -> Result<Vec<Row>> {
    let bar = progress::bar(format!("{services} Services"), (options.runs * WAYS.len()) as u64, "pairs")?;
    bar.set_message("start");
    for node in nodes.iter_mut() {
        node.start(plane)?;
    }
    let sample = Objects { services }.sample();
    let complete = nodes.iter_mut().map(|node| node.wait(&sample)).collect::<Result<Vec<_>>>()?;
    sleep(SETTLE);
    let mut rows: Vec<_> = WAYS.iter().map(|(name, _, _)| Row::new(name, services)).collect();
    for _ in 0..options.runs {
        for (&(name, at, by), row) in WAYS.iter().zip(&mut rows) {
            bar.set_message(name);
            for what in if complete[at] { &What::ALL[..] } else { &[] } {
                let base = nodes[0].measure(*what, By::Pod, options.time)?;
                let what_failed = || format!("{name}, {what:?}");
                let value = match nodes[at].measure(*what, by, options.time).with_context(what_failed) {
                    Ok(value) => value,
                    // Others may fail; that is told, and the rest goes on.
                    Err(error) if NODES[at] != Some(Subject::Sluice) => {
                        row.failures.push(format!("{error:#}"));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                match what {
                    What::Latency => {
                        row.p50.push(value[0], base[0]);
                        row.p99.push(value[1], base[1]);
                    }
                    What::Connections => row.connections.push(value[0], base[0]),
                    What::Bulk => row.bulk.push(value[0] / 1e9, base[0] / 1e9),
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    for node in nodes.iter_mut() {
        node.stop()?;
    }
    Ok(rows)
}
