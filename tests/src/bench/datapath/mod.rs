//! Nanoseconds per packet of the loaded programs, by prog run: every kind of packet, both families, one Service and many.

mod cases;
mod connect;
mod report;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use lb_common::ip::{V4, V6};
use lb_common::mem::Frame;
use lb_common::tables::{Side, map};
use lb_common::verdict::Reason;
use lb_userspace::bpf::{Capacities, Hook, Of};

use self::cases::{Case, Flow, cases, frame, warm_cases};
pub(super) use self::report::Report;
use self::report::Row;
use self::world::{SOLO, client, client_number, services, vip};
use super::front::{Front, Layer, Variation};
use super::progress;
use super::report::{Findings as _, Machine, Runs};
use super::usage::charged;
use crate::kernel::{Kernel, code};
use crate::lab::Lab;
use crate::packets::world::Net;
use crate::packets::{ACK, SYN, SYN_ACK};

/// How long to measure, and where to leave the figures.
#[derive(Clone, Debug)]
pub struct Options {
    /// The object with the benchmark's own programs.
    pub programs: PathBuf,
    /// Runs of each case; their minimum and median count.
    pub runs: usize,
    /// Packets a run.
    pub rounds: u32,
    /// Numbers of Services, ascending.
    pub services: Vec<u32>,
    /// Most flows of a case.
    pub flows: u32,
    /// The folder where the JSON goes.
    pub out: PathBuf,
}

/// Measures, prints the table, and keeps the JSON.
///
/// # Errors
/// The programs cannot be loaded, or one does not do what its case says.
pub fn run(options: &Options) -> Result<()> {
    let lab = Lab::new()?;
    let mut front = Front::load(&options.programs)?;
    front.settle(&lab)?;
    let mut report =
        Report { machine: Machine::this(), rounds: options.rounds, rows: Vec::new(), flow_bytes: Vec::new() };
    for &count in &options.services {
        family::<V4>(&mut front, &mut report, options, count)?;
        family::<V6>(&mut front, &mut report, options, count)?;
    }
    report.rows.extend(connect::measure(options)?);
    report.save(&options.out)
}

fn family<A: Net + Of>(front: &mut Front, report: &mut Report, options: &Options, count: u32) -> Result<()> {
    // Beside the flows of the cases with many, the half-open ones of the cases with new flows.
    let most = 2 * options.flows;
    let mut kernel = kernel_with::<A>(count, most)?;
    let established = flow::<A>(&mut kernel)?;
    let mut all = cases::<A>(established, count, most);
    all.retain(|case| !case.vary.random || case.vary.clients <= options.flows);
    all_of::<A>(front, report, options, count, &mut kernel, &all)?;
    if count == options.services[0] {
        report.flow_bytes.push((name::<A>().to_owned(), flow_bytes::<A>(&kernel)?));
    }
    drop(kernel);
    let mut kernel = kernel_with::<A>(count, map::FLOWS_AT_FIRST)?;
    all_of::<A>(front, report, options, count, &mut kernel, &warm_cases::<A>(map::FLOWS_AT_FIRST))
}

/// So many Services, and room for so many flows.
fn kernel_with<A: Net>(count: u32, flows: u32) -> Result<Kernel> {
    let capacities = Capacities { services: 1 << 18, flows, flows_at_first: flows, ..Capacities::default() };
    Kernel::new(&services::<A>(count, 10), &capacities)
}

fn name<A: Net>() -> &'static str {
    if A::ICMP == 1 { "IPv4" } else { "IPv6" }
}

/// Measures cases one after the other, on the same tables.
fn all_of<A: Net + Of>(
    front: &mut Front,
    report: &mut Report,
    options: &Options,
    count: u32,
    kernel: &mut Kernel,
    cases: &[Case],
) -> Result<()> {
    let bar = progress::bar(format!("{}, {count} Services", name::<A>()), (cases.len() * options.runs) as u64, "runs")?;
    // All are looked at before there are a million flows: the native run needs a copy of every one.
    establish::<A>(front, kernel, 1)?;
    for case in cases {
        check(kernel, case)?;
    }
    for case in cases {
        bar.set_message(case.name.clone());
        if case.vary.random {
            establish::<A>(front, kernel, case.vary.clients)?;
        }
        let times = measure::<A>(front, kernel, case, options, &bar)?;
        let hook = match case.hook {
            Hook::Xdp => "XDP",
            Hook::TcIngress => "TC ingress",
            Hook::TcEgress => "TC egress",
            Hook::TcService => "service device",
            Hook::TcLoopback => "loopback device",
        };
        report.rows.push(Row::new(&case.name, name::<A>(), hook, count, times, case.goal));
    }
    bar.finish_and_clear();
    Ok(())
}

/// Opens the flow of the cases with one.
fn flow<A: Net>(kernel: &mut Kernel) -> Result<Flow> {
    let (me, service) = (client::<A>(), vip::<A>(0));
    kernel.programs.run(Hook::TcIngress, &frame(me, service, SYN), 1)?;
    let tables = kernel.tables()?;
    let there = A::flows(&tables).flows.iter().find(|(key, _)| key.side == Side::Ingress as u8);
    let (_, there) = there.context("a SYN to a Service opened no flow")?;
    let backend = SocketAddr::new(there.dst.into(), there.dport.get());
    kernel.programs.run(Hook::TcEgress, &frame(backend, me, SYN_ACK), 1)?;
    kernel.programs.run(Hook::TcIngress, &frame(me, service, ACK), 1)?;
    Ok([me, service, backend])
}

/// The program must do with the packet what the native run does, or the figure is of something else.
fn check(kernel: &mut Kernel, case: &Case) -> Result<()> {
    let side = if case.hook == Hook::TcEgress { Side::Egress } else { Side::Ingress };
    let mut tables = kernel.tables()?;
    let mut expected = Frame(case.frame.clone());
    let verdict = expected.run(&mut tables, side, 0);
    // The client may have come by for an earlier case: what is measured are its successors.
    let reason = if verdict.reason() == Reason::HalfOpenFlow { Reason::NewFlow } else { verdict.reason() };
    ensure!(reason == case.reason, "{}: {verdict:?}, not {:?}", case.name, case.reason);
    let run = kernel.programs.run(case.hook, &case.frame, 1)?;
    ensure!(run.code == code(case.hook, verdict), "{}: the program returned {}", case.name, run.code);
    ensure!(run.frame == expected.0, "{}: the program wrote other bytes than the native run", case.name);
    Ok(())
}

/// Clients that are at their handshakes at once: far fewer than there is room for half-open flows.
const CROWD: u32 = 1 << 12;

/// Brings `clients` flows to the table of established ones, as real packets would: SYN, answer, ACK.
fn establish<A: Net>(front: &mut Front, kernel: &mut Kernel, clients: u32) -> Result<()> {
    let (service, backend) = (SOLO.vip::<A>(), SOLO.backend::<A>());
    let crowd = clients.min(CROWD);
    let there = Variation { clients: crowd, ..Variation::default() };
    let back = Variation { answer: true, ..there };
    for first in (0..clients).step_by(crowd as usize) {
        let me = client_number::<A>(first);
        let steps = [
            (Hook::TcIngress, frame(me, service, SYN), there),
            (Hook::TcEgress, frame(backend, me, SYN_ACK), back),
            (Hook::TcIngress, frame(me, service, ACK), there),
        ];
        for (hook, frame, vary) in steps {
            front.set(&frame, vary)?;
            front.time(Layer::Tc, Some(kernel.programs.fd(hook)?), frame.len(), crowd)?;
        }
    }
    let (entries, wanted) = (kernel.store.maps().entries(map::FLOWS[A::FAMILY as usize])?, 2 * u64::from(clients));
    ensure!(
        entries >= wanted - wanted / 1_000,
        "{entries} entries of established flows after {clients} handshakes, not {wanted}"
    );
    Ok(())
}

/// Packets of a run whose flows are taken away before the next one: no more than fill a quarter of the table.
const FEW: u32 = map::FLOWS_AT_FIRST / 4;

/// Times of the empty program and of the one under test, one after the other in each run.
fn measure<A: Net + Of>(
    front: &mut Front,
    kernel: &Kernel,
    case: &Case,
    options: &Options,
    bar: &ProgressBar,
) -> Result<[Runs; 2]> {
    let layer = if case.hook == Hook::Xdp { Layer::Xdp } else { Layer::Tc };
    let target = kernel.programs.fd(case.hook)?;
    let rounds = if case.afresh { options.rounds.min(FEW) } else { options.rounds };
    front.set(&case.frame, case.vary)?;
    let mut times = [Runs::default(), Runs::default()];
    for _ in 0..options.runs {
        if case.afresh {
            empty::<A>(kernel)?;
        }
        times[0].push(front.time(layer, None, case.frame.len(), rounds)?);
        times[1].push(front.time(layer, Some(target), case.frame.len(), rounds)?);
        bar.inc(1);
    }
    Ok(times)
}

/// Takes all flows away, as an agent does with those that are over.
fn empty<A: Net + Of>(kernel: &Kernel) -> Result<()> {
    let (maps, mut all) = (kernel.store.maps(), Vec::new());
    maps.flows::<A>(|key, flow| all.push((*key, *flow)))?;
    let removed = maps.seeker()?.remove(&all)?;
    ensure!(removed == all.len(), "of {} entries of flows {removed} could be taken away", all.len());
    Ok(())
}

/// Kernel memory of one established flow: two entries of a full table, and their share of its buckets.
fn flow_bytes<A: Net>(kernel: &Kernel) -> Result<f64> {
    let flows = map::FLOWS[A::FAMILY as usize];
    let (bytes, _) = charged(&kernel.pins.maps().join(flows))?;
    Ok(bytes / f64::from(kernel.store.maps().capacity(flows)))
}
