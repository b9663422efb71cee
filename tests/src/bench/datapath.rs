//! Nanoseconds per packet of the loaded programs, by prog run: every kind of packet, both families, one Service and many.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use lb_common::ip::{V4, V6};
use lb_common::mem::Frame;
use lb_common::tables::Side;
use lb_common::verdict::Reason;
use lb_userspace::bpf::{Capacities, Hook};

use super::front::{Front, Layer, Variation};
use super::report::{Report, Row};
use super::world::{SOLO, client, services, vip};
use crate::kernel::{Kernel, code};
use crate::packets::world::{Net, Network, pod};
use crate::packets::{ACK, L4, SYN, SYN_ACK, packet};

/// How long to measure, and where to leave the figures.
#[derive(Clone, Debug)]
pub struct Options {
    /// The object with the front programs.
    pub front: PathBuf,
    /// Runs of each case; their minimum and median count.
    pub runs: usize,
    /// Packets a run.
    pub rounds: u32,
    /// Services of the second set of tables.
    pub many: u32,
    /// Where the JSON goes.
    pub json: PathBuf,
}

/// A kind of packet.
struct Case {
    name: String,
    hook: Hook,
    frame: Vec<u8>,
    vary: Variation,
    /// What the native run must say to it, and the program do.
    reason: Reason,
    goal: Option<f64>,
}

/// Flows of the cases with many; the second is beyond what a CPU's caches hold.
const FLOWS: [u32; 2] = [1 << 14, 1 << 17];

/// Measures, prints the table, and saves the JSON.
///
/// # Errors
/// The programs cannot be loaded, or one does not do what its case says.
pub fn run(options: &Options) -> Result<()> {
    let mut front = Front::load(&options.front)?;
    let mut report = Report::new(options.runs, options.rounds);
    for count in [1, options.many] {
        family::<V4>(&mut front, &mut report, options, count)?;
        family::<V6>(&mut front, &mut report, options, count)?;
    }
    println!("{}", report.table());
    report.save(&options.json)?;
    println!("\nsaved as {}", options.json.display());
    Ok(())
}

fn family<A: Net>(front: &mut Front, report: &mut Report, options: &Options, count: u32) -> Result<()> {
    let name = if A::ICMP == 1 { "IPv4" } else { "IPv6" };
    let capacities = Capacities { services: 1 << 18, flows: 1 << 19, half_open: 1 << 19, ..Capacities::default() };
    let mut kernel = Kernel::new(&services::<A>(count, 10), &capacities)?;
    let established = flow::<A>(&mut kernel)?;
    let cases = cases::<A>(established, count);
    let bar = ProgressBar::new((cases.len() * options.runs) as u64);
    bar.set_style(ProgressStyle::with_template("{prefix:>24} {wide_bar} {pos}/{len}  {msg}")?);
    bar.set_prefix(format!("{name}, {count} Services"));
    for case in &cases {
        bar.set_message(case.name.clone());
        if case.vary.random {
            establish::<A>(front, &mut kernel, case.vary.clients)?;
        }
        check(&mut kernel, case)?;
        let (min, median) = measure(front, &kernel, case, options, &bar)?;
        let hook = match case.hook {
            Hook::Xdp => "XDP",
            Hook::TcIngress => "TC ingress",
            Hook::TcEgress => "TC egress",
        };
        let (case, goal) = (case.name.clone(), case.goal);
        report.rows.push(Row { case, family: name, hook, services: count, min, median, goal });
    }
    bar.finish_and_clear();
    Ok(())
}

/// Client, frontend and backend of an established flow.
type Flow = [SocketAddr; 3];

/// Opens the flow of the cases with one.
fn flow<A: Net>(kernel: &mut Kernel) -> Result<Flow> {
    let (me, service) = (client::<A>(), vip::<A>(0));
    kernel.programs.run(Hook::TcIngress, &frame(me, service, SYN), 1)?;
    let tables = kernel.tables()?;
    let there = A::flows(&tables).half_open.iter().find(|(key, _)| key.side == Side::Ingress as u8);
    let (_, there) = there.context("a SYN to a Service opened no flow")?;
    let backend = SocketAddr::new(there.dst.into(), there.dport.get());
    kernel.programs.run(Hook::TcEgress, &frame(backend, me, SYN_ACK), 1)?;
    kernel.programs.run(Hook::TcIngress, &frame(me, service, ACK), 1)?;
    Ok([me, service, backend])
}

/// Frames of 64 and 80 bytes, as peers were measured.
fn frame(from: SocketAddr, to: SocketAddr, l4: L4) -> Vec<u8> {
    let payload = if from.is_ipv4() { 10 } else { 6 };
    packet(from, to, l4, &[0; 10][..payload])
}

fn cases<A: Net>([me, service, backend]: Flow, count: u32) -> Vec<Case> {
    let other = pod::<A>(200);
    let wrong_port = SocketAddr::new(service.ip(), 81);
    // Far from the clients that have flows.
    let fresh = SocketAddr::new(A::host(Network::Client, 200), me.port());
    let one = Variation::default();
    let fast = if A::ICMP == 1 { 40.0 } else { 50.0 };
    let case =
        |name: &str, hook, frame, vary, reason, goal| Case { name: name.into(), hook, frame, vary, reason, goal };
    let mut all = Vec::new();
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let at_nic = |goal| (hook == Hook::Xdp).then_some(goal);
        let fast = if hook == Hook::Xdp { fast } else { 45.0 };
        let new = Variation { clients: 1 << 20, ..one };
        all.push(case("not for a Service", hook, frame(me, other, ACK), one, Reason::NotService, Some(15.0)));
        all.push(case("port it lacks: refused", hook, frame(me, wrong_port, SYN), one, Reason::NoSuchPort, None));
        all.push(case("established", hook, frame(me, service, ACK), one, Reason::EstablishedFlow, Some(fast)));
        for (flows, goal) in FLOWS.into_iter().zip([None, Some(180.0)]) {
            let vary = Variation { clients: flows, random: true, ..one };
            let name = format!("established, 2^{} flows", flows.ilog2());
            let goal = goal.filter(|_| hook == Hook::Xdp);
            all.push(case(&name, hook, frame(me, SOLO.vip::<A>(), ACK), vary, Reason::EstablishedFlow, goal));
        }
        all.push(case("first packet", hook, frame(fresh, service, SYN), new, Reason::NewFlow, at_nic(300.0)));
        if count >= 8_192 {
            let vary = Variation { services: 8_192, ..new };
            let name = "first packet, 8,192 Services";
            all.push(case(name, hook, frame(fresh, service, SYN), vary, Reason::NewFlow, at_nic(900.0)));
        }
    }
    all.push(case("answer", Hook::TcEgress, frame(backend, me, ACK), one, Reason::Reply, Some(45.0)));
    let stranger = frame(other, me, ACK);
    all.push(case("not for a Service", Hook::TcEgress, stranger, one, Reason::NotService, Some(15.0)));
    all
}

/// The program must do with the packet what the native run does, or the figure is of something else.
fn check(kernel: &mut Kernel, case: &Case) -> Result<()> {
    let side = if case.hook == Hook::TcEgress { Side::Egress } else { Side::Ingress };
    let mut tables = kernel.tables()?;
    let mut expected = Frame(case.frame.clone());
    let verdict = expected.run(&mut tables, side, 0);
    // The client of an earlier case may have come by: what is measured are its 2^20 successors.
    let reason = if verdict.reason() == Reason::HalfOpenFlow { Reason::NewFlow } else { verdict.reason() };
    ensure!(reason == case.reason, "{}: {verdict:?}, not {:?}", case.name, case.reason);
    let run = kernel.programs.run(case.hook, &case.frame, 1)?;
    ensure!(run.code == code(case.hook, verdict), "{}: the program returned {}", case.name, run.code);
    ensure!(run.frame == expected.0, "{}: the program wrote other bytes than the native run", case.name);
    Ok(())
}

/// Brings `clients` flows to the table of established ones, as real packets would: SYN, answer, ACK.
fn establish<A: Net>(front: &mut Front, kernel: &mut Kernel, clients: u32) -> Result<()> {
    let (me, service, backend) = (client::<A>(), SOLO.vip::<A>(), SOLO.backend::<A>());
    let there = Variation { clients, ..Variation::default() };
    let back = Variation { answer: true, ..there };
    let steps = [
        (Hook::TcIngress, frame(me, service, SYN), there),
        (Hook::TcEgress, frame(backend, me, SYN_ACK), back),
        (Hook::TcIngress, frame(me, service, ACK), there),
    ];
    for (hook, frame, vary) in steps {
        front.set(&frame, vary)?;
        front.time(Layer::Tc, Some(kernel.programs.fd(hook)?), frame.len(), clients)?;
    }
    let (tables, wanted) = (kernel.tables()?, 2 * clients as usize);
    let entries = A::flows(&tables).established.len();
    ensure!(entries >= wanted, "{entries} entries of established flows after {clients} handshakes, not {wanted}");
    Ok(())
}

fn measure(
    front: &mut Front,
    kernel: &Kernel,
    case: &Case,
    options: &Options,
    bar: &ProgressBar,
) -> Result<(f64, f64)> {
    let layer = if case.hook == Hook::Xdp { Layer::Xdp } else { Layer::Tc };
    let target = kernel.programs.fd(case.hook)?;
    front.set(&case.frame, case.vary)?;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..options.runs {
        times[0].push(front.time(layer, None, case.frame.len(), options.rounds)?);
        times[1].push(front.time(layer, Some(target), case.frame.len(), options.rounds)?);
        bar.inc(1);
    }
    let [empty, full] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        (times[0], times[times.len() / 2])
    });
    Ok((full.0 - empty.0, full.1 - empty.1))
}

/// Where `cargo xtask bench` leaves its figures.
pub fn json(target: &Path) -> PathBuf {
    target.join("bench/datapath.json")
}
