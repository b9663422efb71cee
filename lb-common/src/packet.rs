//! Access to the bytes of a packet, and the headers in it.

use bytemuck::{Pod, Zeroable};

use crate::crc;
use crate::csum;
use crate::ip::{Be16, Ip, V4, V6};

/// A packet that begins with its Ethernet header. Offsets count from there.
pub trait Packet {
    /// Index of the device at which the program runs.
    fn device(&self) -> u32;

    /// Bytes of the packet, those of an aggregate (GSO) included.
    fn length(&self) -> usize;

    /// The same, but where there are `enough` bytes or more, so many at the least: where a packet is in pieces, to know all of
    /// them takes a call.
    #[inline(always)]
    fn length_beyond(&self, _enough: usize) -> usize {
        self.length()
    }

    /// Payload of each packet that a device makes of an aggregate (GSO), in bytes; 0 where it is one packet.
    #[inline(always)]
    fn segment(&self) -> usize {
        0
    }

    /// The bytes at `offset`; `None` where the packet is too short.
    fn load<T: Pod>(&self, offset: usize) -> Option<T>;

    /// Writes bytes at `offset`; `None` where the packet is too short.
    fn store<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()>;

    /// The same offset, which is below 16 KiB, of which the kernel's verifier then knows no more than that. What follows it
    /// walks once then, and not once for each way that led to an offset.
    #[inline(always)]
    fn opaque(&self, offset: usize) -> usize {
        offset
    }

    /// Cuts the packet to `len` bytes, or makes it so long, after which all of it has to be written anew; `None` where
    /// that cannot be.
    fn resize(&mut self, len: usize) -> Option<()>;

    /// Cuts the packet to `len` bytes, of an aggregate its first packet, and makes room for `room` bytes before them, which
    /// have to be written; `None` where that cannot be.
    fn enclose(&mut self, room: usize, len: usize) -> Option<()>;

    /// Whether a device is still to complete the checksum at `offset` (`CHECKSUM_PARTIAL`): it is the sum of the pseudo
    /// header then, and the device will do it to these bytes whatever has become of them.
    #[inline(always)]
    fn is_partial(&mut self, _offset: usize) -> Option<bool> {
        Some(false)
    }

    /// Writes the TCP or UDP checksum at `offset`: `full`, or where a device is still to complete it, `pseudo`, the sum of the pseudo
    /// header alone. `whole` is for [`Packet::add`]: what all that was written adds, this checksum included.
    #[inline(always)]
    fn store_l4(&mut self, offset: usize, full: u16, _pseudo: u16, _whole: u16) -> Option<()> {
        self.store(offset, &full)
    }

    /// Adds to the sum of all bytes of the packet, where a device has made one (`CHECKSUM_COMPLETE`): bytes were written for which no
    /// checksum in the packet makes up. The kernel takes that sum for the packet's wherever it goes on to.
    #[inline(always)]
    fn add(&mut self, _change: u16) {}

    /// Corrects the TCP or UDP checksum at `offset` after addresses and ports were replaced.
    ///
    /// The two changes are apart since a checksum that a device is still to complete (`CHECKSUM_PARTIAL`) covers the
    /// addresses alone; only the kernel knows which kind it is. For UDP (`optional`) 0 means that there is none.
    #[inline(always)]
    fn fix_l4<A: Ip>(&mut self, offset: usize, addresses: u16, ports: u16, optional: bool) -> Option<()> {
        let field: u16 = self.load(offset)?;
        if optional && field == 0 {
            self.add(csum::in_whole::<A>(addresses, ports));
            return Some(());
        }
        let change = csum::add(addresses, ports);
        let (full, pseudo) = (csum::update(field, change), csum::add(field, addresses));
        let [full, pseudo] = [full, pseudo].map(|field| csum::mark(field, optional));
        // Where it alone makes up for the addresses, all together adds nothing; in IPv4 they are so twice.
        let whole = if A::CHECKSUM.is_some() { !addresses } else { 0 };
        self.store_l4(offset, full, pseudo, whole)
    }

    /// What a change of the first 32 bits of `len` bytes does to their CRC-32C: [`crc::change`]. In the kernel a function
    /// that is verified once, not again on each way that leads there.
    #[inline(always)]
    fn crc_change(bits: u32, len: u32) -> u32 {
        crc::change(bits, len)
    }
}

/// Bytes of the Ethernet header, where the IP header begins.
pub const ETHERNET: usize = 14;

/// IP protocol numbers (IANA).
pub mod proto {
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
}

/// Offset of the checksum in a TCP header.
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the byte in a TCP header whose high four bits say how many words it has.
pub const TCP_OFFSET: usize = 12;
/// Offset of the checksum in a UDP header.
pub const UDP_CHECKSUM: usize = 6;

/// Ethernet II.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ethernet {
    /// Destination MAC.
    pub dst: [u8; 6],
    /// Source MAC.
    pub src: [u8; 6],
    /// What follows.
    pub ethertype: Be16,
}

impl Ethernet {
    /// The header of an answer.
    #[inline(always)]
    pub const fn swapped(self) -> Self {
        Self { dst: self.src, src: self.dst, ethertype: self.ethertype }
    }
}

/// RFC 791, without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv4 {
    /// 4, and the words of the header.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Bytes of the packet, from this header on.
    pub len: Be16,
    /// Joins fragments.
    pub id: Be16,
    /// Flags, and the offset of a fragment in units of 8 bytes.
    pub fragment: Be16,
    /// Hops left.
    pub ttl: u8,
    /// Protocol number of what follows.
    pub proto: u8,
    /// Checksum of this header, as on the wire.
    pub checksum: u16,
    /// Source address.
    pub src: V4,
    /// Destination address.
    pub dst: V4,
}

/// RFC 8200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv6 {
    /// 6, traffic class and flow label.
    pub version_class_flow: [u8; 4],
    /// Bytes behind this header.
    pub len: Be16,
    /// Protocol number of what follows.
    pub next: u8,
    /// Hops left.
    pub hops: u8,
    /// Source address.
    pub src: V6,
    /// Destination address.
    pub dst: V6,
}

/// RFC 8200, 4.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv6Fragment {
    /// Protocol number of what follows in the first fragment.
    pub next: u8,
    /// 0.
    pub reserved: u8,
    /// Offset in bytes, a multiple of 8, and in the lowest bit whether more follow.
    pub offset: Be16,
    /// Joins fragments, as on the wire.
    pub id: u32,
}

/// The head of an ICMP or ICMPv6 error (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Icmp {
    /// Type and code.
    pub kind: [u8; 2],
    /// Checksum, as on the wire.
    pub checksum: u16,
    /// 0.
    pub unused: u32,
}

/// Addresses a packet to whom it came from. `None` where it is too short.
#[inline(always)]
pub fn turn<P: Packet>(packet: &mut P) -> Option<()> {
    let ethernet: Ethernet = packet.load(0)?;
    packet.store(0, &ethernet.swapped())
}

/// The ports, with which TCP, UDP and SCTP begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ports {
    /// Source.
    pub src: Be16,
    /// Destination.
    pub dst: Be16,
}

/// RFC 9293.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Tcp {
    /// Ports.
    pub ports: Ports,
    /// Sequence number, network byte order.
    pub seq: u32,
    /// Acknowledgment number, network byte order.
    pub ack: u32,
    /// Words of the header, in the high four bits.
    pub offset: u8,
    /// Bits of [`tcp`].
    pub flags: u8,
    /// Window.
    pub window: Be16,
    /// Checksum, as on the wire.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: Be16,
}

/// Flags of a TCP header.
pub mod tcp {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 2;
    /// Ends it at once.
    pub const RST: u8 = 4;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 16;
}

/// RFC 768.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Udp {
    /// Ports.
    pub ports: Ports,
    /// Bytes of header and data.
    pub len: Be16,
    /// Checksum, as on the wire; 0 for none.
    pub checksum: u16,
}
