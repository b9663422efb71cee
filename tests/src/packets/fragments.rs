//! Packets taken apart and put together again, by etherparse.

use std::net::IpAddr;

use etherparse::defrag::IpDefragPool;
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, NetSlice, PacketBuilder,
    SlicedPacket,
};

use super::{FROM, TO, addresses, ip};

/// The fragments of a whole frame without options or extension headers, each with at most `len` bytes behind its headers, in
/// order.
///
/// # Panics
/// When the frame holds no such packet, or `len` is no multiple of 8.
pub fn apart(frame: &[u8], id: u32, len: usize) -> Vec<Vec<u8>> {
    assert!(len > 0 && len.is_multiple_of(8), "pieces of {len} bytes");
    let (ethernet, packet) = frame.split_at(14);
    let v4 = ethernet.ends_with(&[8, 0]);
    let payload = if v4 { &packet[20..] } else { &packet[40..] };
    let pieces = payload.chunks(len).enumerate();
    pieces
        .map(|(n, piece)| {
            let more = (n + 1) * len < payload.len();
            let offset = IpFragOffset::try_new((n * len / 8) as u16).expect("13 bits");
            let mut fragment = ethernet.to_vec();
            if v4 {
                let mut header = Ipv4Header::from_slice(packet).expect("an IPv4 header").0;
                header.set_payload_len(piece.len()).expect("a short piece");
                (header.dont_fragment, header.more_fragments) = (false, more);
                (header.fragment_offset, header.identification) = (offset, id as u16);
                header.header_checksum = header.calc_header_checksum();
                header.write_raw(&mut fragment).expect("room in memory");
            } else {
                let mut header = Ipv6Header::from_slice(packet).expect("an IPv6 header").0;
                let extension = Ipv6FragmentHeader::new(header.next_header, offset, more, id);
                header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
                header.set_payload_length(piece.len() + 8).expect("a short piece");
                header.write(&mut fragment).expect("room in memory");
                extension.write(&mut fragment).expect("room in memory");
            }
            fragment.extend(piece);
            fragment
        })
        .collect()
}

/// The whole frame that fragments make, in any order.
///
/// # Panics
/// When they make none, or not all have the same addresses.
pub fn together(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut pool = IpDefragPool::<(), ()>::new();
    let mut ends = None;
    for fragment in fragments {
        let packet = SlicedPacket::from_ethernet(fragment).expect("a whole fragment");
        let of: (IpAddr, IpAddr) = addresses(&packet).expect("an IP packet");
        assert_eq!(*ends.get_or_insert(of), of, "fragments of two packets");
        if let Some(NetSlice::Ipv4(ip)) = &packet.net {
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
        }
        let Some(whole) = pool.process_sliced_packet(&packet, (), ()).expect("fragments that fit") else { continue };
        let headers: IpHeaders = ip(of.0, of.1, whole.ip_number.0);
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(FROM, TO).ip(headers);
        builder.write(&mut frame, whole.ip_number, &whole.payload).expect("a frame in memory can be written");
        return frame;
    }
    panic!("{} fragments do not make a packet", fragments.len());
}
