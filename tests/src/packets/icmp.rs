//! ICMP errors around the packets of these tests, and what they quote.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, LaxNetSlice, LaxSlicedPacket, PacketBuilder, SlicedPacket, TransportSlice,
    icmpv4, icmpv6,
};

use super::{FROM, TO, addresses, ip};

/// Why a packet could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Port unreachable.
    Port,
    /// Too large for a link of this MTU, and not to be fragmented.
    TooBig(u16),
    /// The hop limit was reached.
    Time,
    /// A field of a header was wrong.
    Parameter,
}

/// All kinds.
pub const TROUBLES: [Trouble; 4] = [Trouble::Port, Trouble::TooBig(1280), Trouble::Time, Trouble::Parameter];

/// The error that `from` sends to `to`, quoting `len` bytes of the packet in `frame`, from its IP header on, or all of it.
///
/// # Panics
/// When the addresses are of two families.
pub fn error(from: IpAddr, to: IpAddr, trouble: Trouble, frame: &[u8], len: usize) -> Vec<u8> {
    let quote = frame.get(14..).unwrap_or_default();
    let quote = &quote[..quote.len().min(len)];
    let builder = PacketBuilder::ethernet2(FROM, TO);
    let mut error = Vec::new();
    match ip(from, to, 0) {
        ip @ IpHeaders::Ipv4(..) => builder.ip(ip).icmpv4(v4(trouble)).write(&mut error, quote),
        ip @ IpHeaders::Ipv6(..) => builder.ip(ip).icmpv6(v6(trouble)).write(&mut error, quote),
    }
    .expect("a frame in memory can be written");
    error
}

fn v4(trouble: Trouble) -> Icmpv4Type {
    use icmpv4::{DestUnreachableHeader as Unreachable, ParameterProblemHeader, TimeExceededCode};
    match trouble {
        Trouble::Port => Icmpv4Type::DestinationUnreachable(Unreachable::Port),
        Trouble::TooBig(next_hop_mtu) => {
            Icmpv4Type::DestinationUnreachable(Unreachable::FragmentationNeeded { next_hop_mtu })
        }
        Trouble::Time => Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
        Trouble::Parameter => Icmpv4Type::ParameterProblem(ParameterProblemHeader::PointerIndicatesError(1)),
    }
}

fn v6(trouble: Trouble) -> Icmpv6Type {
    use icmpv6::{DestUnreachableCode, ParameterProblemCode, ParameterProblemHeader, TimeExceededCode};
    match trouble {
        Trouble::Port => Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port),
        Trouble::TooBig(mtu) => Icmpv6Type::PacketTooBig { mtu: mtu.into() },
        Trouble::Time => Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
        Trouble::Parameter => Icmpv6Type::ParameterProblem(ParameterProblemHeader {
            code: ParameterProblemCode::ErroneousHeaderField,
            pointer: 4,
        }),
    }
}

/// What an error says: who sent it to whom, and which packet it quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Source and destination of the error.
    pub ends: (IpAddr, IpAddr),
    /// Source and destination of the packet that it quotes.
    pub quoted: (SocketAddr, SocketAddr),
    /// The quotation, from its IP header on.
    pub quote: Vec<u8>,
    /// The MTU that it names, if its kind does.
    pub mtu: Option<u32>,
}

/// Reads an error with etherparse.
///
/// # Panics
/// When the frame holds none that quotes a packet with ports.
pub fn told(frame: &[u8]) -> Told {
    let packet = SlicedPacket::from_ethernet(frame).expect("a whole frame");
    let (quote, mtu) = match &packet.transport {
        Some(TransportSlice::Icmpv4(icmp)) => match icmp.icmp_type() {
            Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu }) => {
                (icmp.payload(), Some(next_hop_mtu.into()))
            }
            _ => (icmp.payload(), None),
        },
        Some(TransportSlice::Icmpv6(icmp)) => match icmp.icmp_type() {
            Icmpv6Type::PacketTooBig { mtu } => (icmp.payload(), Some(mtu)),
            _ => (icmp.payload(), None),
        },
        other => panic!("no ICMP: {other:?}"),
    };
    let inner = LaxSlicedPacket::from_ip(quote).expect("a quoted IP header");
    let (src, dst, payload) = match &inner.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload().payload)
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload().payload)
        }
        other => panic!("no IP packet is quoted: {other:?}"),
    };
    let [a, b, c, d, ..] = *payload else { panic!("the quotation ends before the ports") };
    let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Told {
        ends: addresses(&packet).expect("an IP packet"),
        quoted: (SocketAddr::new(src, ports.0), SocketAddr::new(dst, ports.1)),
        quote: quote.to_vec(),
        mtu,
    }
}
