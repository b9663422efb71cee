//! Packets whose flow is known, or was opened just now: they go on as it says.

use super::{Stage, conclude, count, go_on};
use crate::fragment;
use crate::packet::Packet;
use crate::parse::{Header, Parsed, parse};
use crate::tables::{Side, Tables};
use crate::verdict::{Reason, Verdict};

/// Translates a packet as the flow says that was [passed](Tables::pass) with it, and sends it on. Counts the reason.
///
/// # Errors
/// The stage that decides on a packet that is too long for its way.
#[inline(always)]
pub fn run<A: Header, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    _side: Side,
    _now: impl Fn() -> u32,
) -> Result<Verdict, Stage> {
    let parsed = match parse::<A, P>(packet) {
        Ok(parsed) => parsed,
        Err(reason) => return Ok(count(tables, Verdict::Pass(reason))),
    };
    let verdict = match tables.passed() {
        Some((flow, _)) if !parsed.can_become(&flow) => Verdict::Drop(Reason::SctpFragment),
        Some((flow, reason)) => go_on(packet, tables, &parsed, &flow, reason),
        None => Verdict::Drop(Reason::NoProgram),
    };
    finish(packet, tables, &parsed, verdict)
}

/// Remembers where a first fragment went, for those behind it, and counts the reason.
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
    conclude(tables, verdict)
}
