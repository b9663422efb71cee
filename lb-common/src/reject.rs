//! The refusal of a packet: TCP RST (RFC 9293, 3.10.7.1), otherwise ICMP port unreachable (RFC 792, RFC 4443).

use bytemuck::Pod;

use crate::csum;
use crate::ip::{Be16, Ip, V4, V6};
use crate::packet::{ETHERNET, Ethernet, Icmp, Ipv4, Ipv6, Packet, Ports, Tcp, proto, tcp};
use crate::parse::{Header, Parsed, parse};

/// Bytes of the longest refusal: Ethernet, IPv6, ICMPv6, and of the refused packet the IPv6 header and 8 bytes.
pub const LONGEST: usize = ETHERNET + 40 + 8 + 48;

/// A frame that goes back to the sender of the refused packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The frame, then zeros.
    pub frame: [u8; LONGEST],
    /// Bytes of the frame.
    pub len: usize,
}

/// The refusal of a packet. `None` for a packet whose header has options (its quotation would not hold the ports) or
/// that is no packet of a Service at all; drop it.
#[inline(always)]
pub fn refuse<P: Packet>(packet: &P) -> Option<Refusal> {
    let ethernet: Ethernet = packet.load(0)?;
    match ethernet.ethertype.get() {
        V4::ETHERTYPE => answer::<V4, P>(packet, ethernet),
        V6::ETHERTYPE => answer::<V6, P>(packet, ethernet),
        _ => None,
    }
}

/// A family that can write the header of a refusal.
trait Reply: Header {
    /// An IP header of this family.
    type Header: Pod;
    /// The part of the refused packet that ICMP quotes: its IP header and 8 bytes.
    type Quote: Pod;
    /// Type and code of port unreachable.
    const PORT_UNREACHABLE: [u8; 2];

    fn header(src: Self, dst: Self, proto: u8, payload: u16) -> Self::Header;
    /// Whether the ICMP checksum covers the addresses, too.
    const PSEUDO: bool;
}

#[inline(always)]
fn answer<A: Reply, P: Packet>(packet: &P, ethernet: Ethernet) -> Option<Refusal> {
    let parsed = parse::<A, P>(packet).ok()?;
    let mut refusal = Refusal { frame: [0; LONGEST], len: 0 };
    refusal.put(&ethernet.swapped());
    if parsed.proto == proto::TCP {
        let segment = reset(packet, &parsed)?;
        refusal.put(&A::header(parsed.dst, parsed.src, proto::TCP, size_of::<Tcp>() as u16));
        let sum = pseudo(&parsed, proto::TCP, size_of::<Tcp>()) + csum::bytes(bytemuck::bytes_of(&segment));
        refusal.put(&Tcp { checksum: !csum::fold(sum), ..segment });
    } else {
        if parsed.l4 != ETHERNET + A::HEADER {
            return None;
        }
        let quote: A::Quote = packet.load(ETHERNET)?;
        let mut icmp = Icmp { kind: A::PORT_UNREACHABLE, checksum: 0, unused: 0 };
        let len = size_of::<Icmp>() + size_of::<A::Quote>();
        let covered = csum::bytes(bytemuck::bytes_of(&icmp)) + csum::bytes(bytemuck::bytes_of(&quote));
        let sum = if A::PSEUDO { covered + pseudo(&parsed, A::ICMP, len) } else { covered };
        icmp.checksum = !csum::fold(sum);
        refusal.put(&A::header(parsed.dst, parsed.src, A::ICMP, len as u16));
        refusal.put(&icmp);
        refusal.put(&quote);
    }
    Some(refusal)
}

impl Refusal {
    #[inline(always)]
    fn put<T: Pod>(&mut self, part: &T) {
        if let Some(room) = self.frame.get_mut(self.len..self.len + size_of::<T>()) {
            room.copy_from_slice(bytemuck::bytes_of(part));
            self.len += size_of::<T>();
        }
    }
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
fn pseudo<A: Ip>(parsed: &Parsed<A>, proto: u8, len: usize) -> u64 {
    let words = parsed.src.words().iter().chain(parsed.dst.words());
    let addresses = words.fold(0u64, |sum, word| sum + u64::from(*word));
    addresses + u64::from(Be16::new(u16::from(proto)).wire()) + u64::from(Be16::new(len as u16).wire())
}

/// Hops that an answer may take, as Linux sends by default.
const HOPS: u8 = 64;

impl Reply for V4 {
    type Header = Ipv4;
    type Quote = [u32; 7];
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const PSEUDO: bool = false;

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
        Ipv4 { checksum: !csum::fold(csum::bytes(bytemuck::bytes_of(&header))), ..header }
    }
}

impl Reply for V6 {
    type Header = Ipv6;
    type Quote = [u32; 12];
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const PSEUDO: bool = true;

    #[inline(always)]
    fn header(src: Self, dst: Self, proto: u8, payload: u16) -> Ipv6 {
        Ipv6 { version_class_flow: [0x60, 0, 0, 0], len: Be16::new(payload), next: proto, hops: HOPS, src, dst }
    }
}
