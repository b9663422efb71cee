//! Packets that have no ports of their own: ICMP, and fragments behind the first.

use super::{Stage, count};
use crate::fragment;
use crate::icmp::{self, Messages};
use crate::packet::Packet;
use crate::parse::parse;
use crate::tables::{Side, Tables};
use crate::verdict::{Reason, Verdict};

/// Decides on such a packet, and translates it. Counts the reason. What it does not open needs no time; all
/// stages are called alike.
///
/// # Errors
/// Never: this stage is the last.
#[inline(always)]
pub fn run<A: Messages, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    side: Side,
    _now: impl Fn() -> u32,
) -> Result<Verdict, Stage> {
    Ok(match parse::<A, P>(packet) {
        Err(Reason::Fragment) => fragment::run(packet, tables, side),
        Err(Reason::Icmp) => icmp::run(packet, tables, side),
        Err(reason) => count(tables, Verdict::Pass(reason)),
        Ok(_) => Verdict::Pass(Reason::NotService),
    })
}
