//! ICMP and ICMPv6: errors about packets of flows (RFC 792, RFC 4443; as NATs should treat them, RFC 5508), and echo requests.
//!
//! An error travels with the answers to the packet that it quotes: who sent that packet gets the error. So its flow is found
//! by the key that such an answer has, at the same side of a device; and what the flow's entry writes to an answer, the
//! error needs in its own header, and its quotation the other way round. It is no sign of life of either side.
//!
//! An echo request to a virtual IP has no backend to go to: it becomes its own reply, be it whole or in fragments.

use crate::csum;
use crate::datapath;
use crate::flow::state;
use crate::ip::{Ip, V4, V6};
use crate::packet::{ETHERNET, Icmp, Packet, Ports, TCP_CHECKSUM, UDP_CHECKSUM, proto};
use crate::parse::{Extent, Header, Network, network};
use crate::reject::HOPS;
use crate::rewrite;
use crate::route::Exit;
use crate::tables::{Filter, Flow, FlowKey, FrontendKey, Side, Tables};
use crate::verdict::{Reason, Verdict};

/// A family, and the types of its ICMP (IANA).
pub trait Messages: Header {
    /// Whether a message of this type quotes a packet that could not be delivered.
    fn is_error(kind: u8) -> bool;
    /// Type and code of an echo request, and of its reply.
    const ECHO: [[u8; 2]; 2];
}

impl Messages for V4 {
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable (fragmentation needed is one of these), time exceeded, parameter problem.
        matches!(kind, 3 | 11 | 12)
    }

    const ECHO: [[u8; 2]; 2] = [[8, 0], [0, 0]];
}

impl Messages for V6 {
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        matches!(kind, 1..=4)
    }

    const ECHO: [[u8; 2]; 2] = [[128, 0], [129, 0]];
}

/// Bytes behind its IP header that a packet is quoted with at least (RFC 792): enough for ports.
const LEAST: usize = 8;

/// Decides on a packet of ICMP, and translates it.
///
/// Out of line, and reading the packet anew: few packets are of this kind, and the others shall not pay for it.
#[inline(never)]
pub fn run<A: Messages, P: Packet, T: Tables<A>>(packet: &mut P, tables: &mut T, side: Side) -> Verdict {
    let verdict = decide(packet, tables, side);
    datapath::count(tables, verdict)
}

#[inline(always)]
fn decide<A: Messages, P: Packet, T: Tables<A>>(packet: &mut P, tables: &mut T, side: Side) -> Verdict {
    let Ok(outer) = network::<A, P>(packet) else {
        return Verdict::Pass(Reason::Icmp);
    };
    let [request, reply] = A::ECHO;
    if side == Side::Ingress && packet.load::<[u8; 2]>(outer.l4) == Some(request) {
        if !is_whole(tables, outer.dst) {
            return Verdict::Pass(Reason::Icmp);
        }
        let written = mirror(packet, &outer).and_then(|()| {
            packet.store(outer.l4, &reply)?;
            let change = csum::words([u16::from_ne_bytes(request), 0], [u16::from_ne_bytes(reply), 0]);
            packet.fix_l4::<A>(outer.l4 + size_of::<[u8; 2]>(), 0, change, false)
        });
        return answered(written);
    }
    let Some((quote, key)) = about(packet, tables, side, &outer) else {
        return Verdict::Pass(Reason::Icmp);
    };
    let found = tables.flow(&key);
    let Some(flow) = found else {
        return Verdict::Pass(Reason::Icmp);
    };
    let mut exit = Exit::of(quote.proto, outer.l4, outer.l4_len);
    let write = |packet: &mut P| translate(packet, &outer, &quote, &flow);
    datapath::send_along(packet, tables, &flow, &mut exit, Reason::IcmpError, write)
}

/// Whether a packet that comes in is an error about one of a flow by the loopback device.
#[inline(never)]
pub fn is_of_loopback<A: Messages, P: Packet, T: Tables<A>>(packet: &P, tables: &T) -> bool {
    let Ok(outer) = network::<A, P>(packet) else { return false };
    let Some((_, key)) = about(packet, tables, Side::Ingress, &outer) else { return false };
    tables.flow(&key).is_some_and(|flow| flow.state & state::LOOPBACK != 0)
}

/// The packet that an error quotes, and the key that an answer to it would have, where there may be such a flow.
#[inline(always)]
fn about<A: Messages, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    side: Side,
    outer: &Network<A>,
) -> Option<(Network<A>, FlowKey<A>)> {
    let (quote, ports) = quoted(packet, outer)?;
    let key = FlowKey {
        src: quote.dst,
        dst: quote.src,
        sport: ports.dst,
        dport: ports.src,
        proto: quote.proto,
        side: side as u8,
        zero: 0,
    };
    let (own, port) = if side == Side::Ingress { (&key.dst, key.dport) } else { (&key.src, key.sport) };
    // Who did not send the packet has nothing to learn from the error.
    (outer.dst == key.dst && tables.filtered(Filter::Flow(side).bit(own, port))).then_some((quote, key))
}

/// Whether all that comes to an address is a Service's, so that nobody else answers there.
#[inline(always)]
pub(crate) fn is_whole<A: Ip, T: Tables<A>>(tables: &T, addr: A) -> bool {
    tables.frontend(&FrontendKey::whole(addr)).is_some()
}

/// Answers a fragment behind the first of an echo request: whatever goes to a virtual IP as ICMP in fragments is one.
#[inline(always)]
pub(crate) fn answer_later<A: Ip, P: Packet>(packet: &mut P, network: &Network<A>) -> Verdict {
    answered(mirror(packet, network))
}

#[inline(always)]
const fn answered(written: Option<()>) -> Verdict {
    match written {
        Some(()) => Verdict::Answer(Reason::Echo),
        None => Verdict::Drop(Reason::WriteFailed),
    }
}

/// Sends a packet back where it came from, as far as its IP header says so.
#[inline(always)]
fn mirror<A: Ip, P: Packet>(packet: &mut P, outer: &Network<A>) -> Option<()> {
    let addresses = ETHERNET + A::SOURCE;
    packet.store(addresses, &outer.dst)?;
    packet.store(addresses + size_of::<A>(), &outer.src)?;
    let hops: u8 = packet.load(ETHERNET + A::HOPS)?;
    rewrite::hops::<A, P>(packet, hops, HOPS)
}

/// The packet that an error quotes, and its ports; `None` where there is none of a protocol that has ports.
#[inline(always)]
fn quoted<A: Messages, P: Packet>(packet: &P, outer: &Network<A>) -> Option<(Network<A>, Ports)> {
    let there = outer.l4_len.checked_sub(size_of::<Icmp>())?;
    let icmp: Icmp = packet.load(outer.l4)?;
    if !A::is_error(icmp.kind[0]) || there < A::HEADER + LEAST {
        return None;
    }
    let quote = A::network(packet, outer.l4 + size_of::<Icmp>(), Extent::Quoted(outer.l4 + outer.l4_len)).ok()?;
    let has_ports =
        matches!(quote.proto, proto::TCP | proto::UDP | proto::SCTP) && quote.fragment.is_none_or(|part| part.first);
    if !has_ports || quote.l4_len < LEAST {
        return None;
    }
    Some((quote, packet.load(quote.l4)?))
}

/// Writes what `flow` says into an error, and backwards into what it quotes. A router's own address stays as its source, but
/// toward a backend to which the node stands for its client: there it stands for whatever is on the client's side (RFC 5508,
/// 4.2), since a backend's node need not believe that address where it comes from.
#[inline(always)]
fn translate<A: Ip, P: Packet>(packet: &mut P, outer: &Network<A>, quote: &Network<A>, flow: &Flow<A>) -> Option<()> {
    let inside = quotation(packet, outer, quote, flow)?;
    let stands_for = flow.leaves() && flow.state & state::THERE != 0;
    let src = if outer.src == quote.dst || stands_for { flow.src } else { outer.src };
    let outside = csum::addresses([&outer.src, &outer.dst], [&src, &flow.dst]);
    let addresses = ETHERNET + A::SOURCE;
    packet.store(addresses, &src)?;
    packet.store(addresses + size_of::<A>(), &flow.dst)?;
    if let Some(at) = A::CHECKSUM {
        fix(packet, ETHERNET + at, outside)?;
    }
    // Last, since in the kernel this call makes all that was known of the packet's bounds void.
    let pseudo = if A::ICMP_PSEUDO { outside } else { 0 };
    packet.fix_l4::<A>(outer.l4 + size_of::<[u8; 2]>(), pseudo, inside, false)
}

/// Translates the quoted packet, and says what that adds to the checksum of the error.
#[inline(always)]
fn quotation<A: Ip, P: Packet>(packet: &mut P, outer: &Network<A>, quote: &Network<A>, flow: &Flow<A>) -> Option<u16> {
    let at = outer.l4 + size_of::<Icmp>();
    packet.store(at + A::SOURCE, &flow.dst)?;
    packet.store(at + A::SOURCE + size_of::<A>(), &flow.src)?;
    packet.store(quote.l4, &Ports { src: flow.dport, dst: flow.sport })?;
    let ports = csum::add(flow.addrs, flow.ports);
    let mut change = ports;
    if let Some(header) = A::CHECKSUM {
        change = csum::add(change, fix(packet, at + header, flow.addrs)?);
    }
    let offset = if quote.proto == proto::TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    // Of a TCP header the first 8 bytes may be all that is quoted, UDP may have none, and that of SCTP covers more than is
    // quoted. One that the sender left to its device to complete was never right; the change keeps it as wrong as it was.
    let is_there = quote.proto != proto::SCTP && quote.l4_len >= offset + size_of::<u16>();
    if is_there && (quote.proto == proto::TCP || packet.load::<u16>(quote.l4 + offset)? != 0) {
        change = csum::add(change, fix(packet, quote.l4 + offset, ports)?);
    }
    Some(change)
}

/// Corrects the checksum at an offset, and says what that adds to a sum over it.
#[inline(always)]
fn fix<P: Packet>(packet: &mut P, offset: usize, change: u16) -> Option<u16> {
    let field: u16 = packet.load(offset)?;
    let fixed = csum::update(field, change);
    packet.store(offset, &fixed)?;
    Some(csum::words([field, 0], [fixed, 0]))
}
