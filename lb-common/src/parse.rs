//! From bytes to the five-tuple, and where in the packet it stands.
//!
//! A packet that is not whole, contradicts itself or holds nothing to balance is an [`Err`] with the reason; nothing
//! has been written then.

use core::mem::offset_of;

use crate::ip::{Be16, Ip, V4, V6};
use crate::packet::{ETHERNET, Ipv4, Ipv6, Ipv6Fragment, Packet, Ports, Tcp, Udp, proto, tcp};
use crate::sctp::{self, Sctp};
use crate::tables::{Flow, FlowKey, Side};
use crate::verdict::Reason;

/// The largest packet that a length field of 16 bits can state. Above it (BIG TCP aggregates) the field is 0.
const LONGEST: usize = 65_535;

/// What a packet says about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<A: Ip> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source and destination port.
    pub ports: Ports,
    /// IP protocol number: TCP, UDP or SCTP.
    pub proto: u8,
    /// Flags of TCP; of SCTP those that mean the same; of UDP 0.
    pub flags: u8,
    /// Offset of the transport header.
    pub l4: usize,
    /// Bytes from there to the packet's end by its IP header.
    pub l4_len: usize,
    /// Whether it is the first fragment of more.
    pub first: bool,
}

impl<A: Ip> Parsed<A> {
    /// The key of this packet's flow at a side of a device.
    #[inline(always)]
    pub const fn key(&self, side: Side) -> FlowKey<A> {
        FlowKey {
            src: self.src,
            dst: self.dst,
            sport: self.ports.src,
            dport: self.ports.dst,
            proto: self.proto,
            side: side as u8,
            zero: 0,
        }
    }

    /// Bytes of the packet from its IP header on.
    #[inline(always)]
    pub const fn bytes(&self) -> u32 {
        (self.l4 + self.l4_len).wrapping_sub(ETHERNET) as u32
    }

    /// Whether a connection begins with this packet.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether it ends the connection at once.
    #[inline(always)]
    pub const fn resets(&self) -> bool {
        self.flags & tcp::RST != 0
    }

    /// Whether its checksum can follow where its ports go: that of SCTP covers all fragments, and this may be one of several.
    #[inline(always)]
    pub fn can_become(&self, flow: &Flow<A>) -> bool {
        !self.first || self.proto != proto::SCTP || self.ports == (Ports { src: flow.sport, dst: flow.dport })
    }
}

/// Bytes of a packet's headers up to that of TCP or UDP, without their options, where the IP header has no options or
/// extension headers: of nearly all packets. `byte` reads one at an offset.
#[inline(always)]
pub fn plain(byte: impl Fn(usize) -> Option<u8>) -> Option<usize> {
    // Version and, of IPv4, the length of the header (RFC 791).
    let (header, proto) = match byte(ETHERNET)? {
        0x45 => (V4::HEADER, byte(ETHERNET + offset_of!(Ipv4, proto))?),
        version if version >> 4 == 6 => (V6::HEADER, byte(ETHERNET + offset_of!(Ipv6, next))?),
        _ => return None,
    };
    match proto {
        proto::TCP => Some(ETHERNET + header + size_of::<Tcp>()),
        proto::UDP => Some(ETHERNET + header + size_of::<Udp>()),
        _ => None,
    }
}

/// The IP header, read.
#[derive(Clone, Copy, Debug)]
pub struct Network<A: Ip> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// IP protocol number of what follows.
    pub proto: u8,
    /// Offset of the transport header.
    pub l4: usize,
    /// Bytes from there to the end by the IP header, or of a quotation that is cut off, to its end.
    pub l4_len: usize,
    /// Which fragment it is, where it is one.
    pub fragment: Option<Fragment>,
}

/// A fragment of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What all fragments of the packet have in common beside their addresses: the identification as on the wire,
    pub id: u32,
    /// and the protocol, or 0 for IPv6.
    pub proto: u8,
    /// Whether it is the first, which has the header of that protocol.
    pub first: bool,
}

/// Whether a packet is there whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that the IP header states.
    Whole,
    /// The same, but it may be a fragment behind the first.
    Part,
    /// Its beginning at least, as an ICMP error quotes it: up to this offset.
    Quoted(usize),
}

/// A family whose header can be read.
pub trait Header: Ip {
    /// Reads the IP header at `at`, and what stands between it and the transport header.
    ///
    /// # Errors
    /// The reason why the packet cannot be balanced.
    fn network<P: Packet>(packet: &P, at: usize, extent: Extent) -> Result<Network<Self>, Reason>;
}

/// Reads the IP header of a packet of family `A`, whose EtherType the caller has looked at.
///
/// # Errors
/// The reason why the packet cannot be balanced.
#[inline(always)]
pub fn network<A: Header, P: Packet>(packet: &P) -> Result<Network<A>, Reason> {
    A::network(packet, ETHERNET, Extent::Whole)
}

/// Reads a packet of family `A`, whose EtherType the caller has looked at.
///
/// # Errors
/// The reason why the packet cannot be balanced.
#[inline(always)]
pub fn parse<A: Header, P: Packet>(packet: &P) -> Result<Parsed<A>, Reason> {
    let Network { src, dst, proto, l4, l4_len, fragment } = network(packet)?;
    let (ports, flags) = match proto {
        proto::TCP => {
            let header: Tcp = packet.load(l4).ok_or(Reason::Malformed)?;
            let len = usize::from(header.offset >> 4) * 4;
            if len < size_of::<Tcp>() || len > l4_len {
                return Err(Reason::Malformed);
            }
            (header.ports, header.flags)
        }
        proto::UDP => {
            let header: Udp = packet.load(l4).ok_or(Reason::Malformed)?;
            let len = usize::from(header.len.get());
            // Of what a first fragment states the others have the rest.
            let too_long = len > l4_len && fragment.is_none();
            if l4_len < size_of::<Udp>() || (len < size_of::<Udp>() && len != 0) || too_long {
                return Err(Reason::Malformed);
            }
            (header.ports, 0)
        }
        proto::SCTP => {
            let header: Sctp = packet.load(l4).ok_or(Reason::Malformed)?;
            if l4_len < size_of::<Sctp>() {
                return Err(Reason::Malformed);
            }
            (header.common.ports, sctp::flags(header.chunk))
        }
        _ if proto == A::ICMP => return Err(Reason::Icmp),
        _ => return Err(Reason::NoPorts),
    };
    // The protocols are one way for the verifier.
    let [proto, flags] = [proto, flags].map(|byte| packet.opaque(byte.into()) as u8);
    Ok(Parsed { src, dst, ports, proto, flags, l4, l4_len, first: fragment.is_some() })
}

impl Extent {
    /// IPv6 extension headers that are followed. One in a quotation, whose packet has been through this once: each way of
    /// reading it is another for the kernel's verifier to walk, behind each of those that lead to it.
    #[inline(always)]
    const fn extensions(self) -> usize {
        match self {
            Self::Whole | Self::Part => 4,
            Self::Quoted(_) => 1,
        }
    }

    /// Bytes of a packet from `at` on where its header states `stated`; `None` where there must be more.
    #[inline(always)]
    fn bytes<P: Packet>(self, packet: &P, at: usize, stated: Be16) -> Option<usize> {
        let stated = usize::from(stated.get());
        let end = match self {
            Self::Whole | Self::Part if stated == 0 => packet.length(),
            Self::Whole | Self::Part => packet.length_beyond(at + stated),
            Self::Quoted(end) => end,
        };
        let there = end.wrapping_sub(at);
        let len = if stated == 0 && there > LONGEST { there } else { stated };
        match self {
            Self::Whole | Self::Part => (len <= there).then_some(len),
            // What is quoted of an aggregate states more, or 0.
            Self::Quoted(_) => Some(if len == 0 || len > there { there } else { len }),
        }
    }
}

/// More fragments, or an offset: part of a packet (RFC 791).
const FRAGMENT: u16 = 0x3fff;
/// The offset.
const OFFSET: u16 = 0x1fff;

impl Header for V4 {
    #[inline(always)]
    fn network<P: Packet>(packet: &P, at: usize, extent: Extent) -> Result<Network<Self>, Reason> {
        let header: Ipv4 = packet.load(at).ok_or(Reason::Malformed)?;
        let header_len = usize::from(header.version_ihl & 15) * 4;
        let len = extent.bytes(packet, at, header.len).ok_or(Reason::Malformed)?;
        if header.version_ihl >> 4 != 4 || header_len < Self::HEADER || len < header_len {
            return Err(Reason::Malformed);
        }
        let first = header.fragment.get() & OFFSET == 0;
        if !first && extent == Extent::Whole {
            return Err(Reason::Fragment);
        }
        let is_fragment = header.fragment.get() & FRAGMENT != 0;
        let fragment = Fragment { id: header.id.wire().into(), proto: header.proto, first };
        Ok(Network {
            src: header.src,
            dst: header.dst,
            proto: header.proto,
            l4: at + header_len,
            l4_len: len - header_len,
            fragment: is_fragment.then_some(fragment),
        })
    }
}

/// Extension headers (IANA): those that are passed over, and those at which reading ends.
mod next {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const DESTINATION: u8 = 60;
}

/// Bits of [`Ipv6Fragment::offset`].
mod part {
    pub(super) const MORE: u16 = 1;
    pub(super) const OFFSET: u16 = 0xfff8;
}

impl Header for V6 {
    #[inline(always)]
    fn network<P: Packet>(packet: &P, at: usize, extent: Extent) -> Result<Network<Self>, Reason> {
        let header: Ipv6 = packet.load(at).ok_or(Reason::Malformed)?;
        let len = extent.bytes(packet, at + Self::HEADER, header.len).ok_or(Reason::Malformed)?;
        if header.version_class_flow[0] >> 4 != 6 {
            return Err(Reason::Malformed);
        }
        let mut proto = header.next;
        let mut l4 = at + Self::HEADER;
        let mut l4_len = len;
        let mut fragment = None;
        for _ in 0..extent.extensions() {
            match proto {
                next::HOP_BY_HOP | next::ROUTING | next::DESTINATION => {
                    let [following, words]: [u8; 2] = packet.load(l4).ok_or(Reason::Malformed)?;
                    let size = (usize::from(words) + 1) * 8;
                    l4_len = l4_len.checked_sub(size).ok_or(Reason::Malformed)?;
                    l4 = packet.opaque(l4 + size);
                    proto = following;
                }
                next::FRAGMENT => {
                    let part: Ipv6Fragment = packet.load(l4).ok_or(Reason::Malformed)?;
                    let first = part.offset.get() & part::OFFSET == 0;
                    if !first && extent == Extent::Whole {
                        return Err(Reason::Fragment);
                    }
                    // Neither an offset nor more: whole in spite of the header (RFC 6946).
                    let is_fragment = part.offset.get() & (part::OFFSET | part::MORE) != 0;
                    fragment = is_fragment.then_some(Fragment { id: part.id, proto: 0, first });
                    l4_len = l4_len.checked_sub(size_of::<Ipv6Fragment>()).ok_or(Reason::Malformed)?;
                    l4 = packet.opaque(l4 + size_of::<Ipv6Fragment>());
                    proto = part.next;
                    if !first {
                        return Ok(Network { src: header.src, dst: header.dst, proto, l4, l4_len, fragment });
                    }
                }
                _ => {
                    // With and without extension headers are one way for the verifier.
                    let l4 = packet.opaque(l4);
                    return Ok(Network { src: header.src, dst: header.dst, proto, l4, l4_len, fragment });
                }
            }
        }
        Err(Reason::ExtensionHeaders)
    }
}
