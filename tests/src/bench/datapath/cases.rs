//! The kinds of packets that are measured, and what must become of them.

use std::net::SocketAddr;

use lb_common::verdict::Reason;
use lb_userspace::bpf::Hook;

use super::world::{SOLO, client, vip};
use crate::bench::front::Variation;
use crate::packets::world::{Net, Network, pod};
use crate::packets::{ACK, L4, SYN, packet};

/// A kind of packet.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) hook: Hook,
    pub(super) frame: Vec<u8>,
    pub(super) vary: Variation,
    /// What the native run must say to it, and the program do.
    pub(super) reason: Reason,
    pub(super) goal: Option<f64>,
    /// Whether its flows are taken away before each run, which has so few packets that there is room for theirs.
    pub(super) afresh: bool,
}

/// Flows of the cases with many, and what the design allows one packet then. A CPU's caches hold the first.
const FLOWS: [(u32, Option<f64>); 3] = [(1 << 14, None), (1 << 17, Some(180.0)), (1 << 20, Some(250.0))];

/// Client, frontend and backend of an established flow.
pub(super) type Flow = [SocketAddr; 3];

/// Frames of 64 and 80 bytes, as peers were measured.
pub(super) fn frame(from: SocketAddr, to: SocketAddr, l4: L4) -> Vec<u8> {
    let payload = if from.is_ipv4() { 10 } else { 6 };
    packet(from, to, l4, &[0; 10][..payload])
}

/// What names of cases with the first packets of flows begin with.
pub(super) const FIRST: &str = "first packet";

/// The name of such a case over a table with room for so many flows.
pub(super) fn first_packet(room: u32) -> String {
    format!("{FIRST}, room for 2^{} flows", room.ilog2())
}

/// Clients so many that none comes twice in all runs: who does has a flow by then.
const NEW: Variation = Variation { clients: 1 << 24, services: 0, random: false, answer: false };

/// A first packet, from far away of the clients that have flows, where the table has room for so many.
fn first<A: Net>(hook: Hook, room: u32) -> Case {
    let from = SocketAddr::new(A::host(Network::Client, 200), client::<A>().port());
    Case {
        name: first_packet(room),
        hook,
        frame: frame(from, vip::<A>(0), SYN),
        vary: NEW,
        reason: Reason::NewFlow,
        goal: None,
        afresh: false,
    }
}

/// Those of one family over a table with room for so many flows that it stays in the CPU's caches.
pub(super) fn warm_cases<A: Net>(room: u32) -> Vec<Case> {
    let case = |(hook, goal)| Case { goal, afresh: true, ..first::<A>(hook, room) };
    [(Hook::Xdp, Some(300.0)), (Hook::TcIngress, None)].map(case).into()
}

/// All others of one family with so many Services, over a table with room for so many flows.
pub(super) fn cases<A: Net>([me, service, backend]: Flow, count: u32, room: u32) -> Vec<Case> {
    let other = pod::<A>(200);
    let wrong_port = SocketAddr::new(service.ip(), 81);
    let one = Variation::default();
    let fast = if A::ICMP == 1 { 40.0 } else { 50.0 };
    let case = |name: &str, hook, frame, vary, reason, goal| {
        let name = name.to_owned();
        Case { name, hook, frame, vary, reason, goal, afresh: false }
    };
    let mut all = Vec::new();
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let fast = if hook == Hook::Xdp { fast } else { 45.0 };
        all.push(case("not for a Service", hook, frame(me, other, ACK), one, Reason::NotService, Some(15.0)));
        all.push(case("port it lacks: refused", hook, frame(me, wrong_port, SYN), one, Reason::NoSuchPort, None));
        all.push(case("established", hook, frame(me, service, ACK), one, Reason::EstablishedFlow, Some(fast)));
        for (flows, goal) in FLOWS {
            let vary = Variation { clients: flows, random: true, ..one };
            let name = format!("established, 2^{} flows", flows.ilog2());
            let goal = goal.filter(|_| hook == Hook::Xdp);
            all.push(case(&name, hook, frame(me, SOLO.vip::<A>(), ACK), vary, Reason::EstablishedFlow, goal));
        }
        let first = first::<A>(hook, room);
        // Behind it, which fills the table.
        let over_services = (count >= 8_192).then(|| Case {
            name: format!("{FIRST}, 8,192 Services"),
            frame: first.frame.clone(),
            vary: Variation { services: 8_192, ..NEW },
            goal: (hook == Hook::Xdp).then_some(900.0),
            ..first
        });
        all.push(first);
        all.extend(over_services);
    }
    all.push(case("answer", Hook::TcEgress, frame(backend, me, ACK), one, Reason::Reply, Some(45.0)));
    let stranger = frame(other, me, ACK);
    all.push(case("not for a Service", Hook::TcEgress, stranger.clone(), one, Reason::NotService, Some(15.0)));
    all.push(case("not for a Service", Hook::TcLoopback, stranger, one, Reason::NotService, Some(15.0)));
    all
}
