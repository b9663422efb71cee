//! The way of a packet, in the order in which it goes.
//!
//! In the kernel it is divided, since each program there has a stack of 512 bytes and the verifier's patience to itself: the
//! entry program ([`enter`]) does what most packets need, and calls the program of a [`Stage`] for the others.

pub mod first;
pub mod flows;
pub mod onward;
pub mod portless;
pub mod too_long;

use crate::flow::state;
use crate::fragment;
use crate::icmp::{self, Messages};
use crate::ip::{Be16, Family, Ip, V4, V6};
use crate::packet::{Ethernet, Packet, tcp};
use crate::parse::{Parsed, parse};
use crate::rewrite;
use crate::route::{self, Exit};
use crate::tables::{Filter, Flow, FrontendKey, Side, Tables, frontend};
use crate::verdict::{Reason, Verdict};

/// Who goes on with a packet that an entry program does not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// [`first`]
    First(Family),
    /// [`flows`]
    Flows(Family),
    /// [`onward`]
    Onward(Family),
    /// [`portless`]
    Portless(Family),
    /// [`too_long`]
    TooLong(Family),
}

impl Stage {
    /// All, in the order of their numbers, with the ends of their programs' names.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::First(Family::V4), "first_v4"),
        (Self::First(Family::V6), "first_v6"),
        (Self::Flows(Family::V4), "flows_v4"),
        (Self::Flows(Family::V6), "flows_v6"),
        (Self::Portless(Family::V4), "portless_v4"),
        (Self::Portless(Family::V6), "portless_v6"),
        (Self::TooLong(Family::V4), "too_long_v4"),
        (Self::TooLong(Family::V6), "too_long_v6"),
        (Self::Onward(Family::V4), "onward_v4"),
        (Self::Onward(Family::V6), "onward_v6"),
    ];

    /// Whether packets at a side of a device come to it: none leaves the node on its way out of it.
    pub const fn is_at(self, side: Side) -> bool {
        matches!((self, side), (Self::Flows(_) | Self::Portless(_), _) | (_, Side::Ingress))
    }

    /// The family whose packets come to it.
    pub const fn family(self) -> Family {
        match self {
            Self::First(of) | Self::Flows(of) | Self::Onward(of) | Self::Portless(of) | Self::TooLong(of) => of,
        }
    }

    /// The index in an array of programs.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::First(family) => family as u32,
            Self::Flows(family) => 2 + family as u32,
            Self::Portless(family) => 4 + family as u32,
            Self::TooLong(family) => 6 + family as u32,
            Self::Onward(family) => 8 + family as u32,
        }
    }
}

/// Decides on a packet of either family at a side of a device, and translates it: all stages, as they follow each other.
///
/// `now` is in [`crate::tables::TICK`]s since boot.
pub fn run<P, T>(packet: &mut P, tables: &mut T, side: Side, now: impl Fn() -> u32) -> Verdict
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    let mut result = enter(packet, tables, side, &now);
    loop {
        result = match result {
            Ok(verdict) => return verdict,
            Err(Stage::First(Family::V4)) => first::run::<V4, _, T>(packet, tables, side, &now),
            Err(Stage::First(Family::V6)) => first::run::<V6, _, T>(packet, tables, side, &now),
            Err(Stage::Flows(Family::V4)) => flows::run::<V4, _, T>(packet, tables, side, &now),
            Err(Stage::Flows(Family::V6)) => flows::run::<V6, _, T>(packet, tables, side, &now),
            Err(Stage::Onward(Family::V4)) => onward::run::<V4, _, T>(packet, tables, side, &now),
            Err(Stage::Onward(Family::V6)) => onward::run::<V6, _, T>(packet, tables, side, &now),
            Err(Stage::Portless(Family::V4)) => portless::run::<V4, _, T>(packet, tables, side, &now),
            Err(Stage::Portless(Family::V6)) => portless::run::<V6, _, T>(packet, tables, side, &now),
            Err(Stage::TooLong(Family::V4)) => too_long::run::<V4, _, T>(packet, tables, side, &now),
            Err(Stage::TooLong(Family::V6)) => too_long::run::<V6, _, T>(packet, tables, side, &now),
        };
    }
}

/// Decides on a packet that is not for a Service, or of an established flow and changes nothing about it.
///
/// # Errors
/// The stage that decides on another packet.
#[inline(always)]
pub fn enter<P, T>(packet: &mut P, tables: &mut T, side: Side, now: impl Fn() -> u32) -> Result<Verdict, Stage>
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.load::<Ethernet>(0) else {
        return Ok(Verdict::Pass(Reason::NotIp));
    };
    match ethernet.ethertype.get() {
        V4::ETHERTYPE => family::<V4, P, T>(packet, tables, side, now),
        V6::ETHERTYPE => family::<V6, P, T>(packet, tables, side, now),
        _ => Ok(Verdict::Pass(Reason::NotIp)),
    }
}

#[inline(always)]
fn family<A: Messages, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    side: Side,
    now: impl Fn() -> u32,
) -> Result<Verdict, Stage> {
    let verdict = match parse::<A, P>(packet) {
        Ok(parsed) => established(packet, tables, side, &parsed, now)?,
        Err(Reason::Fragment | Reason::Icmp) => return Err(Stage::Portless(A::FAMILY)),
        Err(reason) => Verdict::Pass(reason),
    };
    Ok(count(tables, verdict))
}

/// The short way, which nearly all packets take.
///
/// # Errors
/// The stage of a packet that needs more than a look-up and a rewrite.
#[inline(always)]
fn established<A: Ip, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    side: Side,
    parsed: &Parsed<A>,
    now: impl Fn() -> u32,
) -> Result<Verdict, Stage> {
    let to_frontend = side == Side::Ingress && to_frontend(tables, parsed);
    // A flow outlives its Service, and answers to masqueraded flows come to the node's address.
    if !to_frontend && !of_flow(tables, parsed, side) {
        return Ok(Verdict::Pass(Reason::NotService));
    }
    // A connection that begins has no flow, unless its packet is sent again: who opens one sees that.
    if to_frontend && parsed.opens() {
        return Err(Stage::First(A::FAMILY));
    }
    let Some((flow, kept)) = tables.met(&parsed.key(side), now(), packet.device()) else {
        return if to_frontend { Err(Stage::First(A::FAMILY)) } else { Ok(Verdict::Pass(Reason::NotService)) };
    };
    let changes = parsed.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0;
    if changes || parsed.first || flow.state & (state::ESTABLISHED | state::RST) != state::ESTABLISHED {
        return Err(Stage::Flows(A::FAMILY));
    }
    let reason = if flow.state & state::THERE != 0 { Reason::EstablishedFlow } else { Reason::Reply };
    let leaves = side == Side::Ingress && flow.leaves();
    if leaves {
        if kept.hand_over {
            return Ok(Verdict::Pass(Reason::HandedOver));
        }
        if !route::takes(&kept.next, packet, parsed, &flow) {
            tables.pass(&flow, reason);
            return Err(Stage::Onward(A::FAMILY));
        }
        if route::head(packet, &flow, &kept.next).is_none() {
            return Ok(Verdict::Drop(Reason::WriteFailed));
        }
    }
    let verdict = match translate(packet, parsed, &flow, reason) {
        Verdict::Forward(_) if leaves => Verdict::Leave(reason, kept.next.device),
        verdict => verdict,
    };
    Ok(account(tables, &flow, parsed.bytes(), verdict))
}

/// Whether a packet may be of a flow.
#[inline(always)]
fn of_flow<A: Ip, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, side: Side) -> bool {
    let (addr, port) = match side {
        Side::Ingress => (&parsed.dst, parsed.ports.dst),
        Side::Egress => (&parsed.src, parsed.ports.src),
    };
    tables.filtered(Filter::Flow(side).bit(addr, port))
}

/// Whether a packet may be to a Service: to one of its ports, or to another port of its address.
#[inline(always)]
fn to_frontend<A: Ip, T: Tables<A>>(tables: &T, parsed: &Parsed<A>) -> bool {
    let frontend = |port| tables.filtered(Filter::Frontend.bit(&parsed.dst, port));
    frontend(Be16::new(0)) || frontend(parsed.ports.dst)
}

/// Whether a packet that goes out through the loopback device is to be led through the service device, as one to a Service at
/// an address of the node's own, or of a flow to one.
#[inline(always)]
pub fn by_loopback<P, T>(packet: &P, tables: &T) -> bool
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    match packet.load::<Ethernet>(0).map(|ethernet| ethernet.ethertype.get()) {
        Some(V4::ETHERTYPE) => is_served::<V4, P, T>(packet, tables),
        Some(V6::ETHERTYPE) => is_served::<V6, P, T>(packet, tables),
        _ => false,
    }
}

/// Behind the service device is nothing for others, so that the filter alone does not do.
#[inline(always)]
fn is_served<A: Messages, P: Packet, T: Tables<A>>(packet: &P, tables: &T) -> bool {
    let parsed = match parse::<A, P>(packet) {
        Ok(parsed) => parsed,
        Err(Reason::Fragment) => return fragment::is_known(packet, tables),
        Err(Reason::Icmp) => return icmp::is_of_loopback(packet, tables),
        Err(_) => return false,
    };
    let (dst, port) = (parsed.dst, parsed.ports.dst);
    let key = FrontendKey::new(dst, port, parsed.proto);
    let of_frontend = || tables.frontend(&key).is_some_and(|found| found.flags & frontend::OWN_ADDRESS != 0);
    tables.filtered(Filter::Frontend.bit(&dst, port)) && of_frontend()
        || tables.filtered(Filter::Flow(Side::Ingress).bit(&dst, port))
            && tables.flow(&parsed.key(Side::Ingress)).is_some_and(|flow| flow.state & state::LOOPBACK != 0)
}

/// What becomes of a packet that went out through the service device: nobody comes after us there, so that what is to no
/// Service ends here.
///
/// # Errors
/// The stage that decides on it.
#[inline(always)]
pub fn at_service_device<A: Ip, T: Tables<A>>(
    tables: &mut T,
    result: Result<Verdict, Stage>,
) -> Result<Verdict, Stage> {
    Ok(match result? {
        // Counted already.
        Verdict::Pass(reason) if reason.is_counted() => Verdict::Drop(reason),
        Verdict::Pass(_) => count(tables, Verdict::Drop(Reason::Unallocated)),
        verdict => verdict,
    })
}

/// Counts why a packet got its verdict.
#[inline(always)]
pub(crate) fn count<A: Ip, T: Tables<A>>(tables: &mut T, verdict: Verdict) -> Verdict {
    if verdict.reason().is_counted() {
        tables.count(verdict.reason());
    }
    verdict
}

/// Counts a packet, so many bytes long from its IP header on, for its Service, if it was translated.
#[inline(always)]
fn account<A: Ip, T: Tables<A>>(tables: &mut T, flow: &Flow<A>, bytes: u32, verdict: Verdict) -> Verdict {
    if verdict.translated() {
        tables.carried(flow.service, flow.state & state::THERE == 0, bytes);
    }
    verdict
}

/// Translates a packet.
#[inline(always)]
fn translate<A: Ip, P: Packet>(packet: &mut P, parsed: &Parsed<A>, flow: &Flow<A>, reason: Reason) -> Verdict {
    match rewrite::apply(packet, parsed.proto, parsed.l4, parsed.l4_len, flow) {
        Some(()) => way(flow, reason),
        None => Verdict::Drop(Reason::WriteFailed),
    }
}

/// What becomes of a packet that finds no way out, for that reason.
#[inline(always)]
const fn stay(reason: Reason) -> Verdict {
    match reason {
        Reason::HandedOver => Verdict::Pass(reason),
        _ => Verdict::Drop(reason),
    }
}

/// Sends a packet without ports of its own where its flow goes; `exit` is what is known of it, and `write` translates it.
#[inline(always)]
pub(crate) fn send_along<A: Ip, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    flow: &Flow<A>,
    exit: &mut Exit,
    reason: Reason,
    write: impl FnOnce(&mut P) -> Option<()>,
) -> Verdict {
    if flow.leaves() {
        if let Some(reason) = route::find(packet, tables, flow, exit) {
            return stay(reason);
        }
        if route::head(packet, flow, &exit.next).is_none() {
            return Verdict::Drop(Reason::WriteFailed);
        }
    }
    let verdict = match write(packet) {
        Some(()) if flow.leaves() => exit.verdict(reason),
        Some(()) => way(flow, reason),
        None => Verdict::Drop(Reason::WriteFailed),
    };
    account(tables, flow, exit.bytes(), verdict)
}

/// Where a packet goes that was translated as its flow says.
#[inline(always)]
const fn way<A: Ip>(flow: &Flow<A>, reason: Reason) -> Verdict {
    if flow.state & state::HAIRPIN != 0 { Verdict::Return(reason) } else { Verdict::Forward(reason) }
}
