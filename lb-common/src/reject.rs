//! The refusal of a packet: TCP RST (RFC 9293, 3.10.7.1), otherwise ICMP port unreachable (RFC 792, RFC 4443).

use bytemuck::Pod;

use crate::csum;
use crate::ip::{Be16, Ip, V4, V6};
use crate::packet::{ETHERNET, Ethernet, Icmp, Ipv4, Ipv6, Packet, Ports, TCP_CHECKSUM, Tcp, proto, tcp};
use crate::parse::{Header, Parsed, parse};
use crate::sctp;

/// Turns a packet into its own refusal, to be sent back out of the device that it came from.
///
/// `None` for a packet whose header has options (its quotation would not hold the ports), or that is no packet of a
/// Service at all, or that could not be written: drop it.
#[inline(always)]
pub fn refuse<P: Packet>(packet: &mut P) -> Option<()> {
    let ethernet: Ethernet = packet.load(0)?;
    match ethernet.ethertype.get() {
        V4::ETHERTYPE => answer::<V4, P>(packet, &ethernet),
        V6::ETHERTYPE => answer::<V6, P>(packet, &ethernet),
        _ => None,
    }
}

/// A family that can write the header of an answer.
pub trait Reply: Header {
    /// An IP header of this family.
    type Header: Pod;
    /// The part of the refused packet that ICMP quotes: its IP header and 8 bytes.
    type Quote: Pod + AsRef<[u32]>;
    /// Type and code of port unreachable.
    const PORT_UNREACHABLE: [u8; 2];
    /// Type and code of the error about a packet that is too long.
    const TOO_BIG: [u8; 2];

    /// The header of an answer with so many bytes of payload.
    fn header(src: Self, dst: Self, proto: u8, payload: u16) -> Self::Header;
}

/// Bytes behind the IP header that are always quoted (RFC 792).
const LEAST: usize = 8;
/// What is quoted of SCTP beyond.
type Rest = [u32; (sctp::QUOTED - LEAST) / size_of::<u32>()];

// Out of line: each family has a stack of its own.
#[inline(never)]
fn answer<A: Reply, P: Packet>(packet: &mut P, ethernet: &Ethernet) -> Option<()> {
    // Before parsing: the kernel's verifier follows a check at a fixed offset, but not the compiler's conclusion from a
    // later one at an offset that the packet states.
    let quote: A::Quote = packet.load(ETHERNET)?;
    let parsed = parse::<A, P>(packet).ok()?;
    let l4 = ETHERNET + A::HEADER;
    let (proto, len) = if parsed.proto == proto::TCP {
        let segment = reset(packet, &parsed)?;
        let pseudo = pseudo(&parsed, proto::TCP, size_of::<Tcp>());
        let full = !csum::fold(pseudo + csum::sum(&bytemuck::cast::<Tcp, [u32; 5]>(segment)));
        packet.resize(l4 + size_of::<Tcp>())?;
        packet.store(l4, &segment)?;
        packet.store_l4(l4 + TCP_CHECKSUM, full, csum::fold(pseudo), 0)?;
        (proto::TCP, size_of::<Tcp>())
    } else {
        if parsed.l4 != l4 {
            return None;
        }
        let icmp = Icmp { kind: A::PORT_UNREACHABLE, checksum: 0, unused: 0 };
        let end = size_of::<Icmp>() + size_of::<A::Quote>();
        let is_longer = parsed.proto == proto::SCTP && parsed.l4_len >= sctp::QUOTED;
        let (rest, len): (Rest, usize) =
            if is_longer { (packet.load(l4 + LEAST)?, end + size_of::<Rest>()) } else { ([0; _], end) };
        let covered = csum::sum(&bytemuck::cast::<Icmp, [u32; 2]>(icmp)) + csum::sum(quote.as_ref()) + csum::sum(&rest);
        let sum = if A::ICMP_PSEUDO { covered + pseudo(&parsed, A::ICMP, len) } else { covered };
        packet.resize(l4 + len)?;
        packet.store(l4, &Icmp { checksum: !csum::fold(sum), ..icmp })?;
        packet.store(l4 + size_of::<Icmp>(), &quote)?;
        if is_longer {
            packet.store(l4 + end, &rest)?;
        }
        (A::ICMP, len)
    };
    packet.store(0, &ethernet.swapped())?;
    packet.store(ETHERNET, &A::header(parsed.dst, parsed.src, proto, len as u16))
}

/// RST that the sender of `parsed` accepts: it takes the sequence number that the sender expects, and where there is
/// none, acknowledges what was sent.
#[inline(always)]
fn reset<A: Ip, P: Packet>(packet: &P, parsed: &Parsed<A>) -> Option<Tcp> {
    let refused: Tcp = packet.load(parsed.l4)?;
    let acked = refused.flags & tcp::ACK != 0;
    let header = usize::from(refused.offset >> 4) * 4;
    let data = parsed.l4_len.wrapping_sub(header) as u32;
    let marks = u32::from(refused.flags & tcp::SYN != 0) + u32::from(refused.flags & tcp::FIN != 0);
    let end = u32::from_be(refused.seq).wrapping_add(data).wrapping_add(marks);
    Some(Tcp {
        ports: Ports { src: parsed.ports.dst, dst: parsed.ports.src },
        seq: if acked { refused.ack } else { 0 },
        ack: if acked { 0 } else { end.to_be() },
        offset: 5 << 4,
        flags: if acked { tcp::RST } else { tcp::RST | tcp::ACK },
        window: Be16::new(0),
        checksum: 0,
        urgent: Be16::new(0),
    })
}

/// The sum of the pseudo header of an answer to `parsed`.
#[inline(always)]
pub(crate) fn pseudo<A: Ip>(parsed: &Parsed<A>, proto: u8, len: usize) -> u64 {
    let words = parsed.src.words().iter().chain(parsed.dst.words());
    let addresses = words.fold(0u64, |sum, word| sum + u64::from(*word));
    addresses + u64::from(Be16::new(u16::from(proto)).wire()) + u64::from(Be16::new(len as u16).wire())
}

/// Hops that an answer may take, as Linux sends by default.
pub(crate) const HOPS: u8 = 64;

impl Reply for V4 {
    type Header = Ipv4;
    type Quote = [u32; 7];
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const TOO_BIG: [u8; 2] = [3, 4];

    #[inline(always)]
    fn header(src: Self, dst: Self, proto: u8, payload: u16) -> Ipv4 {
        let header = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            len: Be16::new(payload + Self::HEADER as u16),
            id: Be16::new(0),
            // Don't fragment: the id is never needed (RFC 6864).
            fragment: Be16::new(0x4000),
            ttl: HOPS,
            proto,
            checksum: 0,
            src,
            dst,
        };
        Ipv4 { checksum: !csum::fold(csum::sum(&bytemuck::cast::<Ipv4, [u32; 5]>(header))), ..header }
    }
}

impl Reply for V6 {
    type Header = Ipv6;
    type Quote = [u32; 12];
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const TOO_BIG: [u8; 2] = [2, 0];

    #[inline(always)]
    fn header(src: Self, dst: Self, proto: u8, payload: u16) -> Ipv6 {
        Ipv6 { version_class_flow: [0x60, 0, 0, 0], len: Be16::new(payload), next: proto, hops: HOPS, src, dst }
    }
}
