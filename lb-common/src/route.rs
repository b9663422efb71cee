//! Packets that leave the node at once, by its routes: those of clients outside whose backend is on another node, and the
//! answers. Both have a source address that is the node's own or a virtual IP, which the stack would take for a forgery
//! (a martian) when it comes in from outside.
//!
//! The hop is found before a byte is written: a packet that a program cannot send stays as it came, for the next program.

use crate::flow::state;
use crate::ip::Ip;
use crate::packet::{ETHERNET, Packet, TCP_OFFSET, Udp, proto};
use crate::parse::Parsed;
use crate::rewrite;
use crate::tables::{Flow, Tables, device};
use crate::verdict::{Reason, Verdict};

/// The MAC of the service device, one that nobody gave out (IEEE 802, U/L bit): the stack takes what comes in with it.
pub const SERVICE_MAC: [u8; 6] = *b"\x02sluic";

/// The index of the loopback device, in every network namespace (`LOOPBACK_IFINDEX` of the kernel).
pub const LOOPBACK: u32 = 1;

/// Stands for its MAC, which is all zero: that says here that no MAC is known. A packet with it goes in through the loopback
/// device, and not through the service device.
pub const LOOPBACK_MAC: [u8; 6] = *b"\x02slulo";

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

/// Where packets leave the node: out of a device, and with which MACs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the device.
    pub device: u32,
    /// Bytes of the longest packet that the way takes, from the IP header on; 0 where they are not known.
    pub mtu: u16,
    /// The MACs of the next hop and of the device, as they stand in the first eight bytes of a packet
    pub head: u64,
    /// and in the four behind these. All zero where they are not known.
    pub tail: u32,
}

impl NextHop {
    /// Nowhere.
    pub const NONE: Self = Self { device: 0, mtu: 0, head: 0, tail: 0 };

    /// Out of a device, from its MAC `src` to the next hop's, `dst`.
    #[inline(always)]
    pub const fn new(device: u32, mtu: u16, dst: [u8; 6], src: [u8; 6]) -> Self {
        let head = u64::from_ne_bytes([dst[0], dst[1], dst[2], dst[3], dst[4], dst[5], src[0], src[1]]);
        Self { device, mtu, head, tail: u32::from_ne_bytes([src[2], src[3], src[4], src[5]]) }
    }

    /// Whether the MACs are known.
    #[inline(always)]
    const fn is_addressed(&self) -> bool {
        self.head | self.tail as u64 != 0
    }
}

/// What was kept with a flow about the way that its packets leave by. All of it is always written, also where it says nothing: the
/// kernel's verifier refuses what may be undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The next hop, [`NextHop::NONE`] where none is known.
    pub next: NextHop,
    /// Whether it is known that the next program sends the packets, not this one.
    pub hand_over: bool,
}

impl Kept {
    /// Nothing.
    pub const NOTHING: Self = Self { next: NextHop::NONE, hand_over: false };
}

/// What a next hop is looked up for, and when: for whatever is later, or elsewhere, it may be another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// [`Tables::epoch`], read before the look-up.
    pub epoch: u32,
    /// In [`crate::tables::TICK`]s since boot.
    pub now: u32,
    /// Index of the device that the packet came in through.
    pub from: u32,
    /// Whether it is for XDP to send, else for TC.
    pub xdp: bool,
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Out of a device, with these MACs.
    Direct(NextHop),
    /// Out of a device; the kernel writes the MACs, those that it knows already or finds out.
    Neighbour(NextHop),
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
    /// The MTU of the way, where the code is one of [`fib`]'s but [`fib::NO_NEIGHBOUR`]. (Before Linux 5.12, and where no length
    /// was asked about, at most the length of the packet.)
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
        match self.code {
            fib::SUCCESS if self.device == from || bits(self.device) & device::XDP != 0 => Hop::Direct(self.next()),
            fib::SUCCESS | fib::NO_NEIGHBOUR => Hop::HandOver,
            fib::TOO_LONG => Hop::TooLong { mtu: self.mtu },
            _ => Hop::Nowhere,
        }
    }

    /// What TC can: all that the stack itself could. `is_known` tells whether a device has programs of ours, and so an
    /// Ethernet header: a tunnel may have none, and no MACs then, whatever the kernel calls so.
    #[inline(always)]
    pub fn at_tc(&self, is_known: impl FnOnce(u32) -> bool) -> Hop {
        match self.code {
            fib::SUCCESS if is_known(self.device) => Hop::Neighbour(self.next()),
            fib::SUCCESS | fib::NO_NEIGHBOUR => Hop::Neighbour(NextHop { device: self.device, ..NextHop::NONE }),
            fib::TOO_LONG => Hop::TooLong { mtu: self.mtu },
            _ => Hop::Nowhere,
        }
    }

    #[inline(always)]
    const fn next(&self) -> NextHop {
        NextHop::new(self.device, self.mtu, self.dst, self.src)
    }
}

/// A packet that is to leave, in the few bytes that functions out of line need of it, and the door by which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub(crate) next: NextHop,
    door: Door,
    /// Its bytes, those of the Ethernet header included.
    len: u32,
    /// Offset of its transport header.
    l4: u16,
    /// IP protocol number.
    proto: u8,
}

impl Exit {
    /// For a packet that comes in through the service device, unless [`find`] says otherwise: the protocol of its flow, where its
    /// transport header is, and the bytes from there on.
    #[inline(always)]
    pub const fn of(proto: u8, l4: usize, l4_len: usize) -> Self {
        Self {
            next: NextHop::new(0, 0, SERVICE_MAC, SERVICE_MAC),
            door: Door::In,
            len: (l4 + l4_len) as u32,
            l4: l4 as u16,
            proto,
        }
    }

    /// Bytes of the packet from its IP header on.
    #[inline(always)]
    pub(crate) const fn bytes(&self) -> u32 {
        self.len.wrapping_sub(ETHERNET as u32)
    }

    /// What becomes of the packet that was made ready for it.
    #[inline(always)]
    pub const fn verdict(&self, reason: Reason) -> Verdict {
        match self.door {
            Door::Out => Verdict::Leave(reason, self.next.device),
            Door::Neighbour => Verdict::LeaveToNeighbour(reason, self.next.device),
            Door::In => Verdict::Enter(reason),
        }
    }

    /// The next hop that was found, where packets of the same flow may go there without another look-up.
    #[inline(always)]
    pub(crate) fn kept(&self) -> Option<&NextHop> {
        let is_whole = self.next.mtu != 0 && self.next.is_addressed();
        (is_whole && !matches!(self.door, Door::In)).then_some(&self.next)
    }
}

/// Doors of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Out, with the MACs that are known.
    Out,
    /// Out, by the kernel's table of neighbours.
    Neighbour,
    /// In through the service device, or the loopback device.
    In,
}

/// Finds the way out of the node for a packet, and says why where it has none: [`Reason::HandedOver`] for the next program
/// to find it, or another to drop the packet for.
///
/// Out of line, as is [`send`]: few flows come here, and the kernel's look-up wants a good part of the stack.
#[inline(never)]
pub fn find<A: Ip, P: Packet, T: Tables<A>>(packet: &P, tables: &T, flow: &Flow<A>, exit: &mut Exit) -> Option<Reason> {
    if flow.state & (state::SERVICE | state::THERE) == state::SERVICE {
        if flow.state & state::LOOPBACK != 0 {
            exit.next = NextHop::new(0, 0, LOOPBACK_MAC, LOOPBACK_MAC);
        }
        return if tables.inward() { None } else { Some(Reason::HandedOver) };
    }
    match hop(packet, tables, flow, exit) {
        Hop::Direct(next) => (exit.door, exit.next) = (Door::Out, next),
        Hop::Neighbour(next) => (exit.door, exit.next) = (Door::Neighbour, next),
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
    let len = length(packet, exit.proto, exit.l4.into(), (exit.len as usize).wrapping_sub(ETHERNET));
    tables.hop(&Way { flow, proto: exit.proto, len, from: packet.device() })
}

/// Bytes from the IP header on of a packet of `whole` bytes; of an aggregate, those of the longest packet that becomes of it, or
/// 0 where the kernel has to judge.
#[inline(always)]
fn length<P: Packet>(packet: &P, proto: u8, l4: usize, whole: usize) -> usize {
    match packet.segment() {
        0 => whole,
        // Each part of an aggregate of SCTP has a length of its own.
        _ if proto == proto::SCTP => 0,
        // The packets that a device will make of it. One that cannot be read is for others to refuse.
        payload => {
            let header = match proto {
                proto::TCP => {
                    packet.load(packet.opaque(l4 + TCP_OFFSET)).map_or(0, |words: u8| usize::from(words >> 4) * 4)
                }
                _ => size_of::<Udp>(),
            };
            whole.min(l4.wrapping_sub(ETHERNET) + header + payload)
        }
    }
}

/// Whether a packet may go to the next hop that another of its flow went to: neither too long for it nor at its last hop. What
/// may not, the kernel judges.
#[inline(always)]
pub fn takes<A: Ip, P: Packet>(next: &NextHop, packet: &P, parsed: &Parsed<A>, flow: &Flow<A>) -> bool {
    let len = length(packet, parsed.proto, parsed.l4, parsed.bytes() as usize);
    let hops = packet.load::<u8>(ETHERNET + A::HOPS).unwrap_or(0);
    len != 0 && len <= usize::from(next.mtu) && hops > hop_of(flow)
}

/// Translates a packet and makes it ready to leave; `None` where it refused a write.
#[inline(never)]
pub fn send<A: Ip, P: Packet>(packet: &mut P, flow: &Flow<A>, exit: &Exit) -> Option<()> {
    head(packet, flow, &exit.next)?;
    let l4 = packet.opaque(exit.l4.into());
    rewrite::apply(packet, exit.proto, l4, (exit.len as usize).wrapping_sub(l4), flow)
}

/// Addresses a packet to its next hop, with one hop less left. `None` where it refused a write.
#[inline(always)]
pub fn head<A: Ip, P: Packet>(packet: &mut P, flow: &Flow<A>, next: &NextHop) -> Option<()> {
    if next.is_addressed() {
        packet.store(0, &next.head)?;
        packet.store(size_of::<u64>(), &next.tail)?;
    }
    let (hops, by): (u8, u8) = (packet.load(ETHERNET + A::HOPS)?, hop_of(flow));
    rewrite::hops::<A, P>(packet, hops, hops.wrapping_sub(by))
}

/// How many hops a packet of a flow loses here: none where the stack has counted, or will.
#[inline(always)]
const fn hop_of<A: Ip>(flow: &Flow<A>) -> u8 {
    (flow.state & state::SERVICE == 0) as u8
}
