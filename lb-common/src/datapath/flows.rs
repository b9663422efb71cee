//! Packets of flows that are known and change their state, and all others of half-open ones.

use super::{Stage, account, count, onward, to_frontend, translate};
use crate::flow::{self, state};
use crate::ip::Ip;
use crate::packet::{Packet, tcp};
use crate::parse::{Header, Parsed, parse};
use crate::tables::{Flow, FlowKey, Side, Tables};
use crate::verdict::{Reason, Verdict};

/// Decides on a packet that has ports: finds its flow, and notes what the packet changes about it.
///
/// # Errors
/// The stage that sends it on as its flow says, or that decides on one whose flow makes room for a new one.
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
    let (mut key, mut flow) = (parsed.key(side), Flow::zeroed());
    let verdict = match (follow(tables, &parsed, &mut key, now(), &mut flow), side) {
        (Some(reason), Side::Ingress) => {
            // Here are so many ways behind the kernel's verifier that it would walk the rest some dozen times.
            tables.pass(&flow, reason);
            return Err(Stage::Onward(A::FAMILY));
        }
        (Some(_), Side::Egress) if !parsed.can_become(&flow) => Verdict::Drop(Reason::SctpFragment),
        (Some(reason), Side::Egress) => {
            let verdict = translate(packet, &parsed, &flow, reason);
            account(tables, &flow, parsed.bytes(), verdict)
        }
        (None, Side::Ingress) if to_frontend(tables, &parsed) => return Err(Stage::First(A::FAMILY)),
        (None, _) => Verdict::Pass(Reason::NotService),
    };
    onward::finish(packet, tables, &parsed, verdict)
}

/// Writes the entry of a packet's flow to `flow`, if it is known.
#[inline(always)]
fn follow<A: Ip, T: Tables<A>>(
    tables: &mut T,
    parsed: &Parsed<A>,
    key: &mut FlowKey<A>,
    now: u32,
    flow: &mut Flow<A>,
) -> Option<Reason> {
    let mut entry = tables.flow(key)?;
    flow.copy(&entry);
    if !entry.is_established() {
        flow::half_open(tables, key, flow, &mut entry, parsed.flags & (tcp::SYN | tcp::RST) == 0);
    }
    // A client may use its port again, for the Service or, as the answer with its SYN shows, for the backend itself: a
    // flow that is over makes room, and one whose backend has gone before it answered. A SYN that is only sent again
    // follows the flow.
    let syn = parsed.flags & tcp::SYN != 0;
    let lost = || parsed.opens() && !entry.is_established() && orphaned(tables, &entry);
    if syn && (entry.over() || lost()) {
        flow::remove(tables, key, flow);
        return None;
    }
    if entry.seen != now {
        tables.touch(&mut entry, now);
    }
    if parsed.flags & (tcp::FIN | tcp::RST) != 0 {
        flow::close(tables, key, flow, &mut entry, parsed.flags);
    } else if entry.state & state::RST != 0 {
        flow::revive(tables, key, flow, &mut entry);
    }
    flow.copy(&entry);
    Some(match (entry.state & state::THERE != 0, entry.is_established()) {
        (false, _) => Reason::Reply,
        (true, true) => Reason::EstablishedFlow,
        (true, false) => Reason::HalfOpenFlow,
    })
}

/// Whether the backend of a flow has gone. Ids may have a second life, so its address counts, too.
#[inline(never)]
fn orphaned<A: Ip, T: Tables<A>>(tables: &T, entry: &Flow<A>) -> bool {
    match tables.backend(entry.backend) {
        Some(backend) => entry.state & state::THERE != 0 && (backend.addr, backend.port) != (entry.dst, entry.dport),
        None => true,
    }
}
