//! Packets and tables for tests of the packet path. Packets are built and checked by etherparse, which knows nothing of
//! Sluice: it is the second opinion on headers and checksums.

pub mod fragments;
pub mod icmp;
pub mod random;
pub mod sctp;
pub mod world;

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions,
    Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice,
};

/// TCP, UDP or SCTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// A segment with these flags.
    Tcp(Flags),
    /// A datagram.
    Udp,
    /// A packet of SCTP whose first chunk is of this type.
    Sctp(u8),
}

impl L4 {
    /// The protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp(_) => IpNumber::TCP.0,
            Self::Udp => IpNumber::UDP.0,
            Self::Sctp(_) => IpNumber::SCTP.0,
        }
    }
}

/// Flags of a TCP segment, as in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

/// FIN and ACK.
pub const FIN_ACK: L4 = L4::Tcp(Flags(0x11));
/// SYN.
pub const SYN: L4 = L4::Tcp(Flags(0x02));
/// SYN and ACK.
pub const SYN_ACK: L4 = L4::Tcp(Flags(0x12));
/// RST.
pub const RST: L4 = L4::Tcp(Flags(0x04));
/// ACK.
pub const ACK: L4 = L4::Tcp(Flags(0x10));
/// A datagram.
pub const UDP: L4 = L4::Udp;

/// The MAC of the sender of [`packet`].
pub const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The MAC of its receiver.
pub const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Sequence number of each segment that [`packet`] makes.
pub const SEQUENCE: u32 = 1_000;
/// Acknowledgment number of those that have ACK.
pub const ACKNOWLEDGED: u32 = 7_000;

/// A frame from `src` to `dst`, all checksums right.
///
/// # Panics
/// When the addresses are of two families.
pub fn packet(src: SocketAddr, dst: SocketAddr, l4: L4, payload: &[u8]) -> Vec<u8> {
    packet_with(ip(src.ip(), dst.ip(), l4.number()), src.port(), dst.port(), l4, payload)
}

/// The same behind an IP header of the caller's making.
pub fn packet_with(ip: IpHeaders, sport: u16, dport: u16, l4: L4, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(FROM, TO).ip(ip);
    let mut frame = Vec::new();
    match l4 {
        L4::Sctp(chunk) => {
            let packet = sctp::packet(sport, dport, chunk, payload);
            builder.write(&mut frame, IpNumber::SCTP, &packet)
        }
        L4::Udp => builder.udp(sport, dport).write(&mut frame, payload),
        L4::Tcp(Flags(flags)) => {
            let mut header = TcpHeader::new(sport, dport, SEQUENCE, 64_000);
            header.fin = flags & 1 != 0;
            header.syn = flags & 2 != 0;
            header.rst = flags & 4 != 0;
            header.psh = flags & 8 != 0;
            header.ack = flags & 16 != 0;
            header.acknowledgment_number = if header.ack { ACKNOWLEDGED } else { 0 };
            builder.tcp_header(header).write(&mut frame, payload)
        }
    }
    .expect("a frame in memory can be written");
    frame
}

/// An IP header without options.
///
/// # Panics
/// When the addresses are of two families.
pub fn ip(src: IpAddr, dst: IpAddr, proto: u8) -> IpHeaders {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = Ipv4Header::new(0, 64, IpNumber(proto), src.octets(), dst.octets());
            IpHeaders::Ipv4(header.expect("an empty payload fits"), Ipv4Extensions::default())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: IpNumber(proto),
                hop_limit: 64,
                source: src.octets(),
                destination: dst.octets(),
            };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// An echo request.
pub fn echo(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    echo_with(src, dst, b"ping")
}

/// The same, with a payload.
///
/// # Panics
/// When the addresses are of two families.
pub fn echo_with(src: IpAddr, dst: IpAddr, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(FROM, TO);
    let echo = IcmpEchoHeader { id: 1, seq: 1 };
    let mut frame = Vec::new();
    match ip(src, dst, 0) {
        ip @ IpHeaders::Ipv4(..) => builder.ip(ip).icmpv4(Icmpv4Type::EchoRequest(echo)).write(&mut frame, payload),
        ip @ IpHeaders::Ipv6(..) => builder.ip(ip).icmpv6(Icmpv6Type::EchoRequest(echo)).write(&mut frame, payload),
    }
    .expect("a frame in memory can be written");
    frame
}

/// Where a frame comes from and goes to.
///
/// # Panics
/// When etherparse finds no IP packet with ports in it.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a whole frame");
    let (src, dst) = addresses(&packet).expect("an IP packet");
    let (sport, dport) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => {
            let packet = sctp::read(&packet).expect("a packet with ports");
            (sctp::port(packet, 0), sctp::port(packet, 2))
        }
    };
    (SocketAddr::new(src, sport), SocketAddr::new(dst, dport))
}

fn addresses(packet: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        Some(NetSlice::Ipv6(ip)) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        _ => None,
    }
}

/// Recomputes every checksum of a frame.
///
/// # Errors
/// Which one is wrong, and what it should be.
pub fn verify_checksums(frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| format!("not a whole frame: {error}"))?;
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header();
        same("IPv4 header", header.header_checksum(), header.to_header().calc_header_checksum())?;
    }
    let (src, dst) = addresses(&packet).ok_or("no IP packet")?;
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            let right = match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), tcp.payload())
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), tcp.payload())
                }
                _ => unreachable!("one header has one family"),
            };
            same("TCP", header.checksum, right.map_err(|error| error.to_string())?)
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            if header.checksum == 0 && src.is_ipv4() {
                return Ok(());
            }
            let right = match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), udp.payload())
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), udp.payload())
                }
                _ => unreachable!("one header has one family"),
            };
            same("UDP", header.checksum, right.map_err(|error| error.to_string())?)
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let right = icmp.header().icmp_type.calc_checksum(icmp.payload());
            same("ICMP", icmp.checksum(), right)
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (IpAddr::V6(src), IpAddr::V6(dst)) = (src, dst) else { return Err("ICMPv6 in IPv4".into()) };
            let right = icmp.header().icmp_type.calc_checksum(src.octets(), dst.octets(), icmp.payload());
            same("ICMPv6", icmp.checksum(), right.map_err(|error| error.to_string())?)
        }
        Some(TransportSlice::Igmp(_)) => Ok(()),
        None => sctp::read(&packet).map_or(Ok(()), sctp::verify),
    }
}

fn same(what: &str, is: u16, right: u16) -> Result<(), String> {
    // 0 and 0xffff are one number in one's complement (RFC 1624).
    if is == right || [is, right].iter().all(|sum| sum.is_multiple_of(0xffff)) {
        return Ok(());
    }
    Err(format!("{what} checksum is {is:#06x}, should be {right:#06x}"))
}
