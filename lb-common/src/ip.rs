//! All that differs between IPv4 and IPv6. Everything else is generic over [`Ip`].

use bytemuck::{Pod, Zeroable};
use core::fmt::Debug;
use core::hash::Hash;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A number of 16 bits in network byte order, as it stands in a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// From host byte order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// In host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The two bytes of the packet, read as a native number; what checksums add up.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// The inverse of [`Be16::wire`].
    #[inline(always)]
    pub const fn from_wire(wire: u16) -> Self {
        Self(wire)
    }
}

impl PartialOrd for Be16 {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Be16 {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.get().cmp(&other.get())
    }
}

impl Debug for Be16 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An IPv4 address: the 4 bytes of the packet as one native word, so that the kernel loads it at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct V4(pub [u32; 1]);

/// An IPv6 address: the 16 bytes of the packet as four native words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct V6(pub [u32; 4]);

/// An address of one family, and the shape of the header that carries it.
pub trait Ip: Pod + Eq + Ord + Hash + Debug + Default + Into<IpAddr> + 'static {
    /// Which family this is.
    const FAMILY: Family;
    /// The EtherType of packets of this family (IEEE 802).
    const ETHERTYPE: u16;
    /// Bytes of the fixed header (RFC 791, RFC 8200).
    const HEADER: usize;
    /// Offset of the source address in that header; the destination follows it.
    const SOURCE: usize;
    /// Offset of the checksum of the header, where there is one.
    const CHECKSUM: Option<usize>;
    /// Offset of the hops that are left (TTL, hop limit). Where the header has a checksum, they are the first byte of a word.
    const HOPS: usize;
    /// Protocol number of the ICMP of this family.
    const ICMP: u8;
    /// Whether the checksum of that ICMP covers the addresses, too (RFC 4443, 2.3).
    const ICMP_PSEUDO: bool;

    /// The address as words in packet order.
    fn words(&self) -> &[u32];

    /// The inverse of [`Ip::words`].
    fn from_words(word: impl Fn(usize) -> u32) -> Self;

    /// The address, if `ip` is of this family.
    fn from_ip(ip: IpAddr) -> Option<Self>;
}

impl Ip for V4 {
    const FAMILY: Family = Family::V4;
    const ETHERTYPE: u16 = 0x0800;
    const HEADER: usize = 20;
    const SOURCE: usize = 12;
    const CHECKSUM: Option<usize> = Some(10);
    const HOPS: usize = 8;
    const ICMP: u8 = 1;
    const ICMP_PSEUDO: bool = false;

    #[inline(always)]
    fn words(&self) -> &[u32] {
        &self.0
    }

    #[inline(always)]
    fn from_words(word: impl Fn(usize) -> u32) -> Self {
        Self([word(0)])
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip.into()),
            IpAddr::V6(_) => None,
        }
    }
}

impl Ip for V6 {
    const FAMILY: Family = Family::V6;
    const ETHERTYPE: u16 = 0x86dd;
    const HEADER: usize = 40;
    const SOURCE: usize = 8;
    const CHECKSUM: Option<usize> = None;
    const HOPS: usize = 7;
    const ICMP: u8 = 58;
    const ICMP_PSEUDO: bool = true;

    #[inline(always)]
    fn words(&self) -> &[u32] {
        &self.0
    }

    #[inline(always)]
    fn from_words(word: impl Fn(usize) -> u32) -> Self {
        Self([word(0), word(1), word(2), word(3)])
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip.into()),
        }
    }
}

impl From<Ipv4Addr> for V4 {
    fn from(ip: Ipv4Addr) -> Self {
        Self([u32::from_ne_bytes(ip.octets())])
    }
}

impl From<Ipv6Addr> for V6 {
    fn from(ip: Ipv6Addr) -> Self {
        let o = ip.octets();
        Self(core::array::from_fn(|i| u32::from_ne_bytes([o[4 * i], o[4 * i + 1], o[4 * i + 2], o[4 * i + 3]])))
    }
}

impl From<V4> for IpAddr {
    fn from(ip: V4) -> Self {
        Self::V4(Ipv4Addr::from(ip.0[0].to_ne_bytes()))
    }
}

impl From<V6> for IpAddr {
    fn from(ip: V6) -> Self {
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(ip.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

macro_rules! as_people_write_it {
    ($($ip:ty),*) => {$(
        impl Debug for $ip {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}", IpAddr::from(*self))
            }
        }

        impl PartialOrd for $ip {
            fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        // Numeric order, which the native words do not have on a little-endian machine.
        impl Ord for $ip {
            fn cmp(&self, other: &Self) -> core::cmp::Ordering {
                IpAddr::from(*self).cmp(&IpAddr::from(*other))
            }
        }
    )*};
}

as_people_write_it!(V4, V6);
