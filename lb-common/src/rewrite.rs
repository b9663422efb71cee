//! Writes new addresses, ports and hops into a packet.

use crate::csum;
use crate::ip::Ip;
use crate::packet::{ETHERNET, Packet, Ports, TCP_CHECKSUM, UDP_CHECKSUM, proto};
use crate::sctp;
use crate::tables::Flow;

/// Rewrites a packet, whose `l4_len` bytes from the transport header on begin at `l4`, as its flow says; the checksums take
/// the change that the flow holds, or for SCTP that of the ports.
///
/// `None` where the packet refused a write; it may be half written then and must be dropped.
#[inline(always)]
pub fn apply<A: Ip, P: Packet>(packet: &mut P, proto: u8, l4: usize, l4_len: usize, flow: &Flow<A>) -> Option<()> {
    addresses(packet, flow)?;
    let ports = Ports { src: flow.sport, dst: flow.dport };
    if proto == proto::SCTP {
        let change = sctp::rewrite(packet, l4, l4_len, ports)?;
        packet.add(csum::in_whole::<A>(flow.addrs, change));
        return Some(());
    }
    packet.store(l4, &ports)?;
    // Last, since in the kernel this call makes all that was known of the packet's bounds void.
    match proto {
        proto::TCP => packet.fix_l4::<A>(l4 + TCP_CHECKSUM, flow.addrs, flow.ports, false),
        _ => packet.fix_l4::<A>(l4 + UDP_CHECKSUM, flow.addrs, flow.ports, true),
    }
}

/// Rewrites the addresses alone.
#[inline(always)]
pub fn addresses<A: Ip, P: Packet>(packet: &mut P, flow: &Flow<A>) -> Option<()> {
    let addresses = ETHERNET + A::SOURCE;
    packet.store(addresses, &flow.src)?;
    packet.store(addresses + size_of::<A>(), &flow.dst)?;
    if let Some(at) = A::CHECKSUM {
        let field: u16 = packet.load(ETHERNET + at)?;
        packet.store(ETHERNET + at, &csum::update(field, flow.addrs))?;
    }
    Some(())
}

/// Writes how many hops are left, where there were `old`.
#[inline(always)]
pub fn hops<A: Ip, P: Packet>(packet: &mut P, old: u8, new: u8) -> Option<()> {
    packet.store(ETHERNET + A::HOPS, &new)?;
    // They are one of the bytes of their word.
    let word = |hops| u16::from_ne_bytes(if A::HOPS % 2 == 0 { [hops, 0] } else { [0, hops] });
    let change = csum::words([word(old), 0], [word(new), 0]);
    match A::CHECKSUM {
        Some(at) => {
            let field: u16 = packet.load(ETHERNET + at)?;
            packet.store(ETHERNET + at, &csum::update(field, change))?;
        }
        None => packet.add(change),
    }
    Some(())
}
