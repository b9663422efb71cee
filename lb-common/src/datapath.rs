//! The way of a packet, in the order in which it goes.

use crate::flow::{self, state};
use crate::hash;
use crate::icmp;
use crate::ip::{Be16, Ip, V4, V6};
use crate::packet::{Ethernet, Packet, proto, tcp};
use crate::parse::{Parsed, parse};
use crate::rewrite;
use crate::service::{Choice, Client, choose, find};
use crate::tables::{Filter, Flow, FlowKey, FlowTable, Origin, Side, Tables, device};
use crate::verdict::{Reason, Verdict};

/// Decides on a packet of either family at a side of a device, and translates it. Counts the reason.
///
/// `now` is in [`crate::tables::TICK`]s since boot.
#[inline(always)]
pub fn run<P, T>(packet: &mut P, tables: &mut T, side: Side, now: impl Fn() -> u32) -> Verdict
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.load::<Ethernet>(0) else {
        return Verdict::Pass(Reason::NotIp);
    };
    match ethernet.ethertype.get() {
        V4::ETHERTYPE => family::<V4, P, T>(packet, tables, side, now),
        V6::ETHERTYPE => family::<V6, P, T>(packet, tables, side, now),
        _ => Verdict::Pass(Reason::NotIp),
    }
}

#[inline(always)]
fn family<A: icmp::Messages, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    side: Side,
    now: impl Fn() -> u32,
) -> Verdict {
    let verdict = match parse::<A, P>(packet) {
        Err(Reason::Icmp) => icmp::run(packet, tables, side),
        Err(reason) => Verdict::Pass(reason),
        Ok(parsed) => match side {
            Side::Ingress => ingress(packet, tables, &parsed, now),
            Side::Egress => egress(packet, tables, &parsed, now),
        },
    };
    if verdict.reason().is_counted() {
        tables.count(verdict.reason());
    }
    verdict
}

/// A packet that comes in through a device: toward a Service, or an answer to a masqueraded flow.
#[inline(always)]
pub fn ingress<A: Ip, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed<A>,
    now: impl Fn() -> u32,
) -> Verdict {
    let frontend = |port| tables.filtered(Filter::Frontend.bit(&parsed.dst, port));
    let to_service = frontend(Be16::new(0)) || frontend(parsed.ports.dst);
    // A flow outlives its Service, and answers to masqueraded flows come to the node's address.
    if !to_service && !tables.filtered(Filter::Flow.bit(&parsed.dst, parsed.ports.dst)) {
        return Verdict::Pass(Reason::NotService);
    }
    let now = now();
    match follow(packet, tables, parsed, Side::Ingress, now) {
        Some(verdict) => verdict,
        None if to_service => first(packet, tables, parsed, now),
        None => Verdict::Pass(Reason::NotService),
    }
}

/// A packet that goes out through a device: perhaps an answer to the client behind it.
#[inline(always)]
pub fn egress<A: Ip, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed<A>,
    now: impl Fn() -> u32,
) -> Verdict {
    if !tables.filtered(Filter::Flow.bit(&parsed.src, parsed.ports.src)) {
        return Verdict::Pass(Reason::NotService);
    }
    let verdict = follow(packet, tables, parsed, Side::Egress, now());
    verdict.unwrap_or(Verdict::Pass(Reason::NotService))
}

/// A packet of a flow that is known.
#[inline(always)]
fn follow<A: Ip, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed<A>,
    side: Side,
    now: u32,
) -> Option<Verdict> {
    let key = parsed.key(side);
    if let Some(entry) = tables.flow(FlowTable::Established, &key) {
        return follow_in(packet, tables, parsed, FlowTable::Established, &key, entry, now);
    }
    let mut entry = tables.flow(FlowTable::HalfOpen, &key)?;
    flow::half_open(tables, &key, &mut entry);
    let acknowledged = entry.state & (state::THERE | state::REPLIED) == state::THERE | state::REPLIED;
    if acknowledged && parsed.flags & (tcp::SYN | tcp::RST) == 0 {
        flow::promote(tables, &key, &entry);
        // The entry may be anyone's now that it is out of its table.
        if let Some(entry) = tables.flow(FlowTable::Established, &key) {
            return follow_in(packet, tables, parsed, FlowTable::Established, &key, entry, now);
        }
    }
    follow_in(packet, tables, parsed, FlowTable::HalfOpen, &key, entry, now)
}

#[inline(always)]
fn follow_in<A: Ip, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed<A>,
    table: FlowTable,
    key: &FlowKey<A>,
    mut entry: T::Entry,
    now: u32,
) -> Option<Verdict> {
    // A client may use its port again, for the Service or, as the answer with its SYN shows, for the backend itself: a
    // flow that is over makes room, and one whose backend has gone before it answered. A SYN that is only sent again
    // follows the flow.
    let syn = parsed.flags & tcp::SYN != 0;
    let lost = || parsed.opens() && table == FlowTable::HalfOpen && orphaned(tables, &entry);
    if syn && (entry.over() || lost()) {
        flow::remove(tables, table, key, &entry);
        return None;
    }
    if entry.seen != now {
        tables.touch(&mut entry, now);
    }
    if parsed.flags & (tcp::FIN | tcp::RST) != 0 {
        flow::close(tables, table, key, &mut entry, parsed.flags);
    } else if entry.state & state::RST != 0 && parsed.proto == proto::TCP {
        flow::revive(tables, table, key, &mut entry);
    }
    let reason = match (entry.state & state::THERE != 0, table) {
        (false, _) => Reason::Reply,
        (true, FlowTable::Established) => Reason::EstablishedFlow,
        (true, FlowTable::HalfOpen) => Reason::HalfOpenFlow,
    };
    Some(send(packet, parsed, &entry, reason))
}

/// Whether the backend of a flow has gone. Ids may have a second life, so its address counts, too.
#[inline(never)]
fn orphaned<A: Ip, T: Tables<A>>(tables: &T, entry: &Flow<A>) -> bool {
    match tables.backend(entry.backend) {
        Some(backend) => entry.state & state::THERE != 0 && (backend.addr, backend.port) != (entry.dst, entry.dport),
        None => true,
    }
}

/// Chooses a backend for the first packet of a flow to a Service, which came in through a device, and writes the way there
/// to `flow`. [`Reason::NewFlow`], or why there is no way. Out of line, and without the packet, so that its stack is its own.
#[inline(never)]
fn admit<A: Ip, T: Tables<A>>(tables: &mut T, key: &FlowKey<A>, device: u32, now: u32, flow: &mut Flow<A>) -> Reason {
    let frontend = match find(tables, key.dst, key.dport, key.proto) {
        Ok(frontend) => frontend,
        Err(reason) => return reason,
    };
    let inside = tables.device(device) & device::INSIDE != 0;
    let client = Client {
        addr: key.src,
        origin: if inside { Origin::Inside } else { Origin::Outside },
        hash: hash::tuple(&key.src, key.sport, &key.dst, key.dport, key.proto),
        now,
    };
    match choose(tables, &frontend, &client) {
        Choice::Refuse(reason) | Choice::Drop(reason) => reason,
        Choice::Backend { id, backend } => {
            let hairpin = backend.addr == key.src;
            let state = if hairpin { state::MASQUERADE | state::HAIRPIN } else { 0 };
            let from = if hairpin { tables.node() } else { key.src };
            if from == A::default() {
                return Reason::NoNodeAddress;
            }
            *flow = flow::there(key, &backend, from, state, now);
            flow.backend = id;
            flow.service = frontend.service;
            Reason::NewFlow
        }
    }
}

/// Whom the first packet of a flow is left to, where that is another proxy: one before this or one after it.
#[inline(always)]
fn left<A: Ip, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, now: u32) -> Option<Reason> {
    if tables.draining() {
        return Some(Reason::Draining);
    }
    let midstream = parsed.proto == proto::TCP && !parsed.opens();
    (midstream && now < tables.strangers_until()).then_some(Reason::Stranger)
}

/// Opens a flow under the first source port that is free.
#[inline(never)]
fn open<A: Ip, T: Tables<A>>(tables: &mut T, key: &FlowKey<A>, flow: &mut Flow<A>) -> Reason {
    for attempt in 0..flow::TRIES {
        flow::set_source_port(key, flow, attempt);
        match flow::open(tables, key, flow) {
            Reason::NoSourcePort => {}
            reason => return reason,
        }
    }
    Reason::NoSourcePort
}

/// The first packet of a flow to a Service.
#[inline(always)]
fn first<A: Ip, P: Packet, T: Tables<A>>(packet: &mut P, tables: &mut T, parsed: &Parsed<A>, now: u32) -> Verdict {
    let key = parsed.key(Side::Ingress);
    let mut flow = Flow::zeroed();
    let mut reason = admit(tables, &key, packet.device(), now, &mut flow);
    if let Some(left) = left(tables, parsed, now)
        && reason != Reason::NotService
        && !(reason == Reason::NewFlow && flow::has_way_back(tables, &key, &mut flow))
    {
        return Verdict::Pass(left);
    }
    if reason == Reason::NewFlow {
        reason = if parsed.resets() { Reason::Stateless } else { open(tables, &key, &mut flow) };
    }
    match reason {
        Reason::NewFlow | Reason::HalfOpenFlow | Reason::EstablishedFlow | Reason::Stateless => {
            send(packet, parsed, &flow, reason)
        }
        Reason::NotService => Verdict::Pass(Reason::NotService),
        // A reset answered by a reset would go on for ever (RFC 9293, 3.10.7.1).
        Reason::NoEndpoints | Reason::NoSuchPort if !parsed.resets() => Verdict::Reject(reason),
        _ => Verdict::Drop(reason),
    }
}

#[inline(always)]
fn send<A: Ip, P: Packet>(packet: &mut P, parsed: &Parsed<A>, flow: &Flow<A>, reason: Reason) -> Verdict {
    match rewrite::apply(packet, parsed, flow) {
        None => Verdict::Drop(Reason::WriteFailed),
        Some(()) => way(flow, reason),
    }
}

/// Where a packet goes that was translated as its flow says.
#[inline(always)]
pub(crate) const fn way<A: Ip>(flow: &Flow<A>, reason: Reason) -> Verdict {
    if flow.state & state::HAIRPIN != 0 { Verdict::Return(reason) } else { Verdict::Forward(reason) }
}
