//! Packets that leave the node at once, by its routes: those of clients outside whose backend is on another node, and the
//! answers. Both have a source address that is the node's own or a virtual IP, which the stack would take for a forgery
//! (a martian) when it comes in from outside.
//!
//! The hop is found before a byte is written: a packet that a program cannot send stays as it came, for the next program.

use crate::flow::state;
use crate::ip::{Be16, Ip};
use crate::packet::{ETHERNET, Ethernet, Packet, TCP_OFFSET, Udp, proto};
use crate::rewrite;
use crate::tables::{Flow, Tables, device};
use crate::verdict::{Reason, Verdict};

/// The MAC of the service device, one that nobody gave out (IEEE 802, U/L bit): the stack takes what comes in with it.
pub const SERVICE_MAC: [u8; 6] = *b"\x02sluic";

/// A packet that is to leave, as it will be.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a, A: Ip> {
    /// Its new addresses and ports.
    pub flow: &'a Flow<A>,
    /// IP protocol number.
    pub proto: u8,
    /// Bytes from its IP header on; of an aggregate, those of the longest packet that becomes of it.
    pub len: usize,
    /// Index of the device that it came in through.
    pub from: u32,
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Out of a device, with these MACs.
    Direct {
        /// Index of the device.
        device: u32,
        /// The MAC of the next hop.
        dst: [u8; 6],
        /// The MAC of the device.
        src: [u8; 6],
    },
    /// Out of a device; the kernel knows or finds out the MACs.
    Neighbour {
        /// Index of the device.
        device: u32,
    },
    /// It leaves, but this program cannot send it there.
    HandOver,
    /// It is too long for the way.
    TooLong {
        /// What the way takes: bytes from the IP header on.
        mtu: u16,
    },
    /// No route leads there.
    Nowhere,
}

/// What the kernel found in the node's routes for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What `bpf_fib_lookup` returned: one of [`fib`], or an error.
    pub code: i64,
    /// Index of the device that leads there.
    pub device: u32,
    /// The MAC of the next hop, where it is known.
    pub dst: [u8; 6],
    /// The MAC of the device.
    pub src: [u8; 6],
    /// The MTU of the way, where the packet is longer.
    pub mtu: u16,
}

/// Results of the kernel's look-up (`BPF_FIB_LKUP_RET_…` of linux/bpf.h).
pub mod fib {
    /// It knows the next hop and its MAC.
    pub const SUCCESS: i64 = 0;
    /// It knows the next hop, not its MAC.
    pub const NO_NEIGHBOUR: i64 = 7;
    /// The packet is longer than the way takes.
    pub const TOO_LONG: i64 = 8;
}

impl Found {
    /// What XDP at device `from` can make of it: it sends only to neighbours that are known, and only out of devices that
    /// take it. `bits` tells those of [`device`].
    #[inline(always)]
    pub fn at_xdp(&self, from: u32, bits: impl FnOnce(u32) -> u32) -> Hop {
        let &Self { code, device, dst, src, mtu } = self;
        match code {
            fib::SUCCESS if device == from || bits(device) & device::XDP != 0 => Hop::Direct { device, dst, src },
            fib::SUCCESS | fib::NO_NEIGHBOUR => Hop::HandOver,
            fib::TOO_LONG => Hop::TooLong { mtu },
            _ => Hop::Nowhere,
        }
    }

    /// What TC can: all that the stack itself could.
    #[inline(always)]
    pub const fn at_tc(&self) -> Hop {
        match self.code {
            fib::SUCCESS | fib::NO_NEIGHBOUR => Hop::Neighbour { device: self.device },
            fib::TOO_LONG => Hop::TooLong { mtu: self.mtu },
            _ => Hop::Nowhere,
        }
    }
}

/// A packet that is to leave, in the few bytes that functions out of line need of it, and the door by which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Index of the device; 0 as long as it is not known.
    device: u32,
    /// Whether it is the service device, in through which the packet comes.
    inward: bool,
    /// The MACs of the next hop and of the device; all zero where the kernel writes them.
    macs: [[u8; 6]; 2],
    /// Its bytes, those of the Ethernet header included.
    len: u32,
    /// Offset of its transport header.
    l4: u16,
    /// IP protocol number.
    proto: u8,
}

impl Exit {
    /// For a packet whose door is not known yet: the protocol of its flow, where its transport header is, and the bytes from
    /// there on.
    #[inline(always)]
    pub const fn of(proto: u8, l4: usize, l4_len: usize) -> Self {
        Self { device: 0, inward: false, macs: [[0; 6]; 2], len: (l4 + l4_len) as u32, l4: l4 as u16, proto }
    }

    /// Bytes of the packet from its IP header on.
    #[inline(always)]
    pub(crate) const fn bytes(&self) -> u32 {
        self.len.wrapping_sub(ETHERNET as u32)
    }

    /// What becomes of the packet that was made ready for it.
    #[inline(always)]
    pub const fn verdict(&self, reason: Reason) -> Verdict {
        if self.inward { Verdict::Enter(reason) } else { Verdict::Leave(reason, self.device) }
    }
}

/// Finds the way out of the node for a packet, and says why where it has none: [`Reason::HandedOver`] for the next program
/// to find it, or another to drop the packet for.
///
/// Out of line, as is [`send`]: few flows come here, and the kernel's look-up wants a good part of the stack.
#[inline(never)]
pub fn find<A: Ip, P: Packet, T: Tables<A>>(packet: &P, tables: &T, flow: &Flow<A>, exit: &mut Exit) -> Option<Reason> {
    if flow.state & (state::SERVICE | state::THERE) == state::SERVICE {
        (exit.inward, exit.macs) = (true, [SERVICE_MAC; 2]);
        return if tables.inward() { None } else { Some(Reason::HandedOver) };
    }
    match hop(packet, tables, flow, exit) {
        Hop::Direct { device, dst, src } => (exit.device, exit.macs) = (device, [dst, src]),
        Hop::Neighbour { device } => exit.device = device,
        Hop::HandOver => return Some(Reason::HandedOver),
        Hop::TooLong { .. } => return Some(Reason::TooLong),
        Hop::Nowhere => return Some(Reason::NoRoute),
    }
    // Checked last: what XDP hands over is for the next program to judge.
    match packet.load::<u8>(ETHERNET + A::HOPS) {
        Some(hops) if hops <= hop_of(flow) => Some(Reason::HopLimit),
        Some(_) => None,
        None => Some(Reason::WriteFailed),
    }
}

/// The MTU of the way out of the node, where a packet is longer.
#[inline(always)]
pub fn limit<A: Ip, P: Packet, T: Tables<A>>(packet: &P, tables: &T, flow: &Flow<A>, exit: &Exit) -> Option<u16> {
    match hop(packet, tables, flow, exit) {
        Hop::TooLong { mtu } => Some(mtu),
        _ => None,
    }
}

#[inline(always)]
fn hop<A: Ip, P: Packet, T: Tables<A>>(packet: &P, tables: &T, flow: &Flow<A>, exit: &Exit) -> Hop {
    let whole = (exit.len as usize).wrapping_sub(ETHERNET);
    let len = match packet.segment() {
        0 => whole,
        // Each part of an aggregate of SCTP has a length of its own: the kernel judges.
        _ if exit.proto == proto::SCTP => 0,
        // The packets that a device will make of it. One that cannot be read is for others to refuse.
        payload => {
            let l4 = usize::from(exit.l4);
            let header = match exit.proto {
                proto::TCP => {
                    packet.load(packet.opaque(l4 + TCP_OFFSET)).map_or(0, |words: u8| usize::from(words >> 4) * 4)
                }
                _ => size_of::<Udp>(),
            };
            whole.min(l4.wrapping_sub(ETHERNET) + header + payload)
        }
    };
    tables.hop(&Way { flow, proto: exit.proto, len, from: packet.device() })
}

/// Translates a packet and makes it ready to leave; `None` where it refused a write.
#[inline(never)]
pub fn send<A: Ip, P: Packet>(packet: &mut P, flow: &Flow<A>, exit: &Exit) -> Option<()> {
    head(packet, flow, exit)?;
    let l4 = packet.opaque(exit.l4.into());
    rewrite::apply(packet, exit.proto, l4, (exit.len as usize).wrapping_sub(l4), flow)
}

/// Addresses a packet to its next hop, with one hop less left. `None` where it refused a write.
#[inline(always)]
pub fn head<A: Ip, P: Packet>(packet: &mut P, flow: &Flow<A>, exit: &Exit) -> Option<()> {
    let [dst, src] = exit.macs;
    if dst != [0; 6] {
        packet.store(0, &Ethernet { dst, src, ethertype: Be16::new(A::ETHERTYPE) })?;
    }
    let (hops, by): (u8, u8) = (packet.load(ETHERNET + A::HOPS)?, hop_of(flow));
    rewrite::hops::<A, P>(packet, hops, hops.wrapping_sub(by))
}

/// How many hops a packet of a flow loses here: none where the stack has counted, or will.
#[inline(always)]
const fn hop_of<A: Ip>(flow: &Flow<A>) -> u8 {
    (flow.state & state::SERVICE == 0) as u8
}
