//! First packets of flows to a Service: where they lead, and what is remembered of it.

use super::{Stage, count};
use crate::csum;
use crate::flow::{self, state};
use crate::hash;
use crate::ip::Ip;
use crate::packet::{Packet, proto};
use crate::parse::{Header, Parsed, parse};
use crate::service::{Choice, Client, choose, find};
use crate::tables::{Backend, Flow, FlowKey, Origin, Side, Tables, backend, device, frontend};
use crate::verdict::{Reason, Verdict};

/// Decides on such a packet, which came in through a device.
///
/// # Errors
/// The stage that sends it on as its flow says.
#[inline(always)]
pub fn run<A: Header, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    side: Side,
    now: impl Fn() -> u32,
) -> Result<Verdict, Stage> {
    let parsed = match parse::<A, P>(packet) {
        Ok(parsed) => parsed,
        Err(reason) => return Ok(count(tables, Verdict::Pass(reason))),
    };
    let (mut key, now) = (parsed.key(side), now());
    let mut flow = flow::unchanged(&key, now);
    let outcome = first(tables, &parsed, &mut key, packet.device(), now, &mut flow);
    // The packet may have been sent again, or use the ports of a connection that is over; or another CPU was faster.
    if outcome != Ok(Reason::NewFlow) && tables.flow(&key).is_some() {
        return Err(Stage::Flows(A::FAMILY));
    }
    match outcome {
        Ok(reason) => {
            tables.pass(&flow, reason);
            Err(Stage::Onward(A::FAMILY))
        }
        Err(verdict) => Ok(count(tables, verdict)),
    }
}

/// Chooses a backend for the first packet of a flow to a Service, which came in through a device, and writes the way there
/// to `flow`. [`Reason::NewFlow`], or why there is no way. Out of line, and without the packet, so that its stack is its own.
#[inline(never)]
fn admit<A: Ip, T: Tables<A>>(tables: &mut T, key: &FlowKey<A>, device: u32, now: u32, flow: &mut Flow<A>) -> Reason {
    // Before the look-up, so that the CPU computes it while that waits. Opaque, or the compiler does it behind all look-ups.
    let hash = core::hint::black_box(hash::tuple(&key.src, key.sport, &key.dst, key.dport, key.proto));
    let frontend = match find(tables, key.dst, key.dport, key.proto) {
        Ok(frontend) => frontend,
        Err(reason) => return reason,
    };
    // A client's stay begins anew with a flow, not with its first packet sent again. The caller finds the flow.
    if frontend.affinity != 0 && tables.other(key).is_some() {
        return Reason::NoBackend;
    }
    let client = Client { addr: key.src, origin: origin(tables, device), hash, now };
    match choose(tables, &frontend, &client) {
        Choice::Refuse(reason) | Choice::Drop(reason) => reason,
        Choice::Backend { id, backend } => {
            let mut state = masquerade(tables.at_service_device(), client.origin, &backend, &key.src);
            if state & state::SERVICE != 0 && frontend.flags & frontend::OWN_ADDRESS != 0 {
                state |= state::LOOPBACK;
            }
            if state == 0 && client.origin == Origin::Outside && frontend.hides_ports() {
                state = state::APART;
            }
            *flow = flow::there(key, &backend, key.src, state, now);
            flow.backend = id;
            flow.service = frontend.service;
            Reason::NewFlow
        }
    }
}

/// Where clients behind a device are. XDP stands at NICs alone, so there it need not be looked up.
#[inline(always)]
fn origin<A: Ip, T: Tables<A>>(tables: &T, device: u32) -> Origin {
    let inside = !tables.at_xdp() && tables.device(device) & device::INSIDE != 0;
    if inside { Origin::Inside } else { Origin::Outside }
}

/// Whom the first packet of a flow is left to, where that is another proxy: one before this or one after it.
#[inline(always)]
fn left<A: Ip, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, now: u32) -> Option<Reason> {
    if tables.draining() {
        return Some(Reason::Draining);
    }
    let midstream = parsed.proto != proto::UDP && !parsed.opens();
    (midstream && now < tables.strangers_until()).then_some(Reason::Stranger)
}

/// Whether the node stands between client and backend: bits of [`state`]. A client behind the same device as its backend
/// would be answered past us, and so would one outside by a backend on another node, and whoever came by the service
/// device.
#[inline(always)]
fn masquerade<A: Ip>(service_device: bool, origin: Origin, backend: &Backend<A>, client: &A) -> u32 {
    let own = backend.flags & backend::OWN != 0;
    match origin {
        _ if service_device && own => state::SERVICE | state::MASQUERADE | state::HAIRPIN,
        _ if service_device => state::SERVICE | state::MASQUERADE,
        Origin::Inside if backend.addr == *client => state::MASQUERADE | state::HAIRPIN,
        Origin::Outside if backend.flags & backend::LOCAL == 0 && !own => state::MASQUERADE,
        _ => 0,
    }
}

/// Gives a masqueraded flow the node's address as its source. False where the node has none.
///
/// The node itself would answer its own address past us: what comes to it by the service device comes from the virtual IP,
/// to which the same device leads. What comes there by the loopback device goes back by it, under the backend's own address.
#[inline(never)]
fn mask<A: Ip, T: Tables<A>>(tables: &T, key: &FlowKey<A>, device: u32, flow: &mut Flow<A>) -> bool {
    let from = match flow.state & state::HAIRPIN {
        0 => tables.source(&flow.dst, device),
        // From which a socket without an address of its own answers to there.
        _ if flow.state & state::LOOPBACK != 0 => flow.dst,
        _ if tables.at_service_device() => key.dst,
        _ => tables.node(),
    };
    flow.src = from;
    flow.addrs = csum::addresses([&key.src, &key.dst], [&from, &flow.dst]);
    from != A::default()
}

/// Opens a flow under the first source port that is free.
#[inline(always)]
fn open<A: Ip, T: Tables<A>>(tables: &mut T, key: &mut FlowKey<A>, flow: &mut Flow<A>) -> Reason {
    flow::set_source_port(key, flow);
    match flow::open(tables, key, flow) {
        Reason::NoSourcePort => {
            flow::search_source_port(tables, key, flow);
            flow::open(tables, key, flow)
        }
        reason => reason,
    }
}

/// The first packet of a flow to a Service, which came in through a device: writes the way there to `flow`.
///
/// # Errors
/// What becomes of a packet that has none.
#[inline(always)]
fn first<A: Ip, T: Tables<A>>(
    tables: &mut T,
    parsed: &Parsed<A>,
    key: &mut FlowKey<A>,
    device: u32,
    now: u32,
    flow: &mut Flow<A>,
) -> Result<Reason, Verdict> {
    let mut reason = admit(tables, key, device, now, flow);
    if reason == Reason::NewFlow && flow.state & state::MASQUERADE != 0 && !mask(tables, key, device, flow) {
        reason = Reason::NoNodeAddress;
    }
    if let Some(left) = left(tables, parsed, now)
        && reason != Reason::NotService
        && !(reason == Reason::NewFlow && flow::has_way_back(tables, key, flow))
    {
        return Err(Verdict::Pass(left));
    }
    if reason == Reason::NewFlow {
        reason = if parsed.resets() { Reason::Stateless } else { open(tables, key, flow) };
    }
    if reason == Reason::NewFlow {
        tables.opened(flow.service);
    }
    match reason {
        Reason::NewFlow | Reason::HalfOpenFlow | Reason::EstablishedFlow | Reason::Stateless => Ok(reason),
        Reason::NotService => Err(Verdict::Pass(Reason::NotService)),
        // A reset answered by a reset would go on for ever (RFC 9293, 3.10.7.1).
        Reason::NoEndpoints | Reason::NoSuchPort if !parsed.resets() => Err(Verdict::Reject(reason)),
        _ => Err(Verdict::Drop(reason)),
    }
}
