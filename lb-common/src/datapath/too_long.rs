//! Packets that are longer than their way out of the node takes. No program can make fragments of them, so who sent one is
//! told the MTU, and sends shorter ones (path MTU discovery: RFC 1191, RFC 8201).

use super::{Stage, count};
use crate::csum;
use crate::packet::{ETHERNET, Ethernet, Icmp, Packet, TCP_CHECKSUM, UDP_CHECKSUM, proto};
use crate::parse::{Parsed, parse};
use crate::reject::{Reply, pseudo};
use crate::route::{self, Exit};
use crate::tables::{Side, Tables};
use crate::verdict::{Reason, Verdict};

/// Words of a packet that are quoted, from its IP header on: room for the ports behind some options or extension headers.
const QUOTE: usize = 26;

/// Answers a packet of a flow that is too long, as routers do, from the address that it was sent to; one that cannot be
/// answered is dropped. Counts the reason.
///
/// An IPv4 packet that may be fragmented gets the answer as well: it is lost all the same, and hosts heed it (Linux does).
///
/// # Errors
/// Never: this stage is the last.
#[inline(always)]
pub fn run<A: Reply, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &mut T,
    side: Side,
    _now: impl Fn() -> u32,
) -> Result<Verdict, Stage> {
    let verdict = match answer::<A, P, T>(packet, tables, side) {
        Some(()) => Verdict::Answer(Reason::TooLong),
        None => Verdict::Drop(Reason::TooLong),
    };
    Ok(count(tables, verdict))
}

/// Makes the packet its own answer. `None` also where its way has changed meanwhile: it will be sent again.
#[inline(always)]
fn answer<A: Reply, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, side: Side) -> Option<()> {
    let parsed = parse::<A, P>(packet).ok()?;
    let mtu = limit(packet, tables, &parsed, side)?;
    tell(packet, &parsed, mtu)
}

/// What the way of a packet takes. Out of line as [`tell`]: neither has much stack to leave.
#[inline(never)]
fn limit<A: Reply, P: Packet, T: Tables<A>>(packet: &P, tables: &T, parsed: &Parsed<A>, side: Side) -> Option<u16> {
    let flow = tables.flow(&parsed.key(side))?;
    route::limit(packet, tables, &flow, &Exit::of(parsed.proto, parsed.l4, parsed.l4_len))
}

/// Writes the error around the beginning of the packet: fragmentation needed (RFC 1191, 4) or packet too big (RFC 4443, 3.2).
/// Out of line, so that the look-up of the flow has the stack for itself.
#[inline(never)]
fn tell<A: Reply, P: Packet>(packet: &mut P, parsed: &Parsed<A>, mtu: u16) -> Option<()> {
    let ethernet: Ethernet = packet.load(0)?;
    let quote: [u32; QUOTE] = packet.load(ETHERNET)?;
    let (header, rest) = quote.split_at(A::HEADER / size_of::<u32>());
    let field = parsed.l4 + if parsed.proto == proto::TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let rest = if packet.is_partial(field)? {
        // The device will complete it where it stands in the quotation. What the checksum covers then adds up to the
        // complement of what is in the field now, whatever it is. A CRC (SCTP) has no such way.
        if parsed.l4 != ETHERNET + A::HEADER || parsed.proto == proto::SCTP {
            return None;
        }
        u64::from(!packet.load::<u16>(packet.opaque(field))?)
    } else {
        csum::sum(rest)
    };
    let icmp = Icmp { kind: A::TOO_BIG, checksum: 0, unused: u32::from(mtu).to_be() };
    let len = size_of::<Icmp>() + size_of_val(&quote);
    let covered = csum::sum(&bytemuck::cast::<Icmp, [u32; 2]>(icmp)) + csum::sum(header) + rest;
    let sum = if A::ICMP_PSEUDO { covered + pseudo(parsed, A::ICMP, len) } else { covered };
    packet.enclose(A::HEADER + size_of::<Icmp>(), ETHERNET + size_of_val(&quote))?;
    packet.store(0, &ethernet)?;
    packet.store(ETHERNET, &A::header(parsed.dst, parsed.src, A::ICMP, len as u16))?;
    packet.store(ETHERNET + A::HEADER, &Icmp { checksum: !csum::fold(sum), ..icmp })
}
