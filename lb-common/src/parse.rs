//! From bytes to the five-tuple, and where in the packet it stands.
//!
//! A packet that is not whole, contradicts itself or holds nothing to balance is an [`Err`] with the reason; nothing
//! has been written then.

use crate::ip::{Ip, V4, V6};
use crate::packet::{ETHERNET, Ipv4, Ipv6, Packet, Ports, Tcp, Udp, proto, tcp};
use crate::tables::{FlowKey, Side};
use crate::verdict::Reason;

/// The largest packet that a length field of 16 bits can state. Above it (BIG TCP aggregates) the field is 0.
const LONGEST: usize = 65_535;

/// IPv6 extension headers that are followed.
const EXTENSIONS: usize = 4;

/// What a packet says about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<A: Ip> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source and destination port.
    pub ports: Ports,
    /// IP protocol number: TCP or UDP.
    pub proto: u8,
    /// Flags of TCP; 0 for UDP.
    pub flags: u8,
    /// Offset of the TCP or UDP header.
    pub l4: usize,
    /// Bytes from there to the packet's end by its IP header.
    pub l4_len: usize,
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

    /// Whether a connection begins with this packet.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether it is a segment of TCP that ends the connection at once.
    #[inline(always)]
    pub const fn resets(&self) -> bool {
        self.flags & tcp::RST != 0
    }
}

/// The IP header, read.
#[derive(Clone, Copy, Debug)]
pub struct Network<A: Ip> {
    src: A,
    dst: A,
    proto: u8,
    l4: usize,
    l4_len: usize,
}

/// A family whose header can be read.
pub trait Header: Ip {
    /// Reads the IP header, and what stands between it and the transport header.
    ///
    /// # Errors
    /// The reason why the packet cannot be balanced.
    fn network<P: Packet>(packet: &P) -> Result<Network<Self>, Reason>;
}

/// Reads a packet of family `A`, whose EtherType the caller has looked at.
///
/// # Errors
/// The reason why the packet cannot be balanced.
#[inline(always)]
pub fn parse<A: Header, P: Packet>(packet: &P) -> Result<Parsed<A>, Reason> {
    let Network { src, dst, proto, l4, l4_len } = A::network(packet)?;
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
            if l4_len < size_of::<Udp>() || (len < size_of::<Udp>() && len != 0) || len > l4_len {
                return Err(Reason::Malformed);
            }
            (header.ports, 0)
        }
        _ => return Err(Reason::NoPorts),
    };
    Ok(Parsed { src, dst, ports, proto, flags, l4, l4_len })
}

/// More fragments, or an offset: part of a packet (RFC 791).
const FRAGMENT: u16 = 0x3fff;

impl Header for V4 {
    #[inline(always)]
    fn network<P: Packet>(packet: &P) -> Result<Network<Self>, Reason> {
        let header: Ipv4 = packet.load(ETHERNET).ok_or(Reason::Malformed)?;
        let header_len = usize::from(header.version_ihl & 15) * 4;
        let there = packet.length().wrapping_sub(ETHERNET);
        let stated = usize::from(header.len.get());
        let len = if stated == 0 && there > LONGEST { there } else { stated };
        if header.version_ihl >> 4 != 4 || header_len < Self::HEADER || len < header_len || len > there {
            return Err(Reason::Malformed);
        }
        if header.fragment.get() & FRAGMENT != 0 {
            return Err(Reason::Fragment);
        }
        Ok(Network {
            src: header.src,
            dst: header.dst,
            proto: header.proto,
            l4: ETHERNET + header_len,
            l4_len: len - header_len,
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

impl Header for V6 {
    #[inline(always)]
    fn network<P: Packet>(packet: &P) -> Result<Network<Self>, Reason> {
        let header: Ipv6 = packet.load(ETHERNET).ok_or(Reason::Malformed)?;
        let there = packet.length().wrapping_sub(ETHERNET + Self::HEADER);
        let stated = usize::from(header.len.get());
        let len = if stated == 0 && there > LONGEST { there } else { stated };
        if header.version_class_flow[0] >> 4 != 6 || len > there {
            return Err(Reason::Malformed);
        }
        let mut proto = header.next;
        let mut l4 = ETHERNET + Self::HEADER;
        let mut l4_len = len;
        for _ in 0..EXTENSIONS {
            match proto {
                next::HOP_BY_HOP | next::ROUTING | next::DESTINATION => {
                    let [following, words]: [u8; 2] = packet.load(l4).ok_or(Reason::Malformed)?;
                    let size = (usize::from(words) + 1) * 8;
                    l4_len = l4_len.checked_sub(size).ok_or(Reason::Malformed)?;
                    l4 = packet.opaque(l4 + size);
                    proto = following;
                }
                next::FRAGMENT => return Err(Reason::Fragment),
                _ => {
                    return Ok(Network { src: header.src, dst: header.dst, proto, l4, l4_len });
                }
            }
        }
        Err(Reason::ExtensionHeaders)
    }
}
