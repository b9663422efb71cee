//! Packets whose flow is known, or was opened just now: they go on as it says.

use super::{Stage, account, count, stay, translate};
use crate::fragment;
use crate::ip::Ip;
use crate::packet::Packet;
use crate::parse::{Header, Parsed, parse};
use crate::route::{self, Exit, Stamp};
use crate::tables::{Flow, Side, Tables};
use crate::verdict::{Reason, Verdict};

/// Translates a packet as the flow says that was [passed](Tables::pass) with it, and sends it on. Counts the reason.
///
/// # Errors
/// The stage that decides on a packet that is too long for its way.
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
    let verdict = match tables.passed() {
        Some((flow, _)) if !parsed.can_become(&flow) => Verdict::Drop(Reason::SctpFragment),
        Some((flow, reason)) => {
            let verdict = if flow.leaves() {
                leave(packet, tables, &parsed, side, now(), &flow, reason)
            } else {
                translate(packet, &parsed, &flow, reason)
            };
            account(tables, &flow, parsed.bytes(), verdict)
        }
        None => Verdict::Drop(Reason::NoProgram),
    };
    finish(packet, tables, &parsed, verdict)
}

/// Sends a packet out of the node, the hop first: what this program cannot send stays as it came. Keeps the next hop of an
/// established flow, so that the packets behind this one need not come here.
#[inline(always)]
fn leave<A: Ip, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed<A>,
    side: Side,
    now: u32,
    flow: &Flow<A>,
    reason: Reason,
) -> Verdict {
    let mut exit = Exit::of(parsed.proto, parsed.l4, parsed.l4_len);
    let stamp = Stamp { epoch: tables.epoch(), now, from: packet.device(), xdp: tables.at_xdp() };
    if let Some(reason) = route::find(packet, tables, flow, &mut exit) {
        return stay(reason);
    }
    if let Some(next) = exit.kept()
        && flow.is_established()
    {
        tables.keep(&parsed.key(side), next, &stamp);
    }
    match route::send(packet, flow, &exit) {
        Some(()) => exit.verdict(reason),
        None => Verdict::Drop(Reason::WriteFailed),
    }
}

/// Remembers where a first fragment went, for those behind it, and counts the reason; leaves a packet that is too long to the
/// stage for it.
///
/// # Errors
/// As of [`run`].
#[inline(always)]
pub(super) fn finish<A: Header, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &mut T,
    parsed: &Parsed<A>,
    verdict: Verdict,
) -> Result<Verdict, Stage> {
    if parsed.first && verdict.goes_on() {
        fragment::remember(packet, tables, parsed);
    }
    match verdict {
        Verdict::Drop(Reason::TooLong) => Err(Stage::TooLong(A::FAMILY)),
        verdict => Ok(count(tables, verdict)),
    }
}
