//! The kinds of packets that are measured, and what must become of them.

use std::net::SocketAddr;

use lb_common::verdict::Reason;
use lb_userspace::bpf::Hook;

use super::world::SOLO;
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

/// All cases of one family with so many Services.
pub(super) fn cases<A: Net>([me, service, backend]: Flow, count: u32) -> Vec<Case> {
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
        // So many that none comes twice in all runs: who does has a flow by then.
        let new = Variation { clients: 1 << 24, ..one };
        all.push(case("not for a Service", hook, frame(me, other, ACK), one, Reason::NotService, Some(15.0)));
        all.push(case("port it lacks: refused", hook, frame(me, wrong_port, SYN), one, Reason::NoSuchPort, None));
        all.push(case("established", hook, frame(me, service, ACK), one, Reason::EstablishedFlow, Some(fast)));
        for (flows, goal) in FLOWS {
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
    all.push(case("not for a Service", Hook::TcEgress, stranger.clone(), one, Reason::NotService, Some(15.0)));
    all.push(case("not for a Service", Hook::TcLoopback, stranger, one, Reason::NotService, Some(15.0)));
    all
}
