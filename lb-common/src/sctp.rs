//! SCTP (RFC 9260): its checksum when ports change, and what its chunks say of an association.
//!
//! The checksum is a CRC-32C over the whole packet from the ports on, without any address.
//!
//! A packet whose checksum a device is still to compute (`CHECKSUM_PARTIAL`), an aggregate (GSO) among them, has 0 there, and
//! keeps it: Linux takes what stands there for part of the data. So does one that needs none (RFC 9653). One packet in four
//! billion has 0 for its checksum and is lost.

use bytemuck::{Pod, Zeroable};

use crate::csum;
use crate::ip::Be16;
use crate::packet::{Packet, Ports, tcp};

/// The common header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Common {
    /// Ports.
    pub ports: Ports,
    /// Names the association to its receiver.
    pub tag: u32,
    /// CRC-32C, the low byte first.
    pub checksum: [u8; 4],
}

/// The common header, and the head of the first chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Sctp {
    /// The common header.
    pub common: Common,
    /// Type of the first chunk.
    pub chunk: u8,
    /// Its flags.
    pub flags: u8,
    /// Its length.
    pub len: Be16,
}

/// Bytes from the ports on by which a sender knows its INIT when an error quotes it (RFC 9260, 10, ICMP6): the common header,
/// the head of the chunk, and the Initiate Tag.
pub const QUOTED: usize = size_of::<Sctp>() + size_of::<u32>();

/// Flags of TCP that say of a connection what a packet's first chunk says of an association, by its type. All in a table,
/// since a branch would be another way for the kernel's verifier to walk.
static MEANINGS: [u8; 256] = {
    let mut all = [tcp::ACK; 256];
    all[1] = tcp::SYN; // INIT
    all[2] = tcp::SYN | tcp::ACK; // INIT ACK
    all[6] = tcp::RST; // ABORT
    // SHUTDOWN ACK, and SHUTDOWN COMPLETE of the other side: no data follows.
    all[8] = tcp::FIN;
    all[14] = tcp::FIN;
    all
};

/// The flags of TCP that mean the same as a first chunk of this type.
#[inline(always)]
pub fn flags(chunk: u8) -> u8 {
    MEANINGS[usize::from(chunk)]
}

/// Gives other ports to a packet whose `len` bytes from the ports on begin at `offset`, and says what that adds to a sum over them;
/// `None` where it refused a write.
#[inline(always)]
pub fn rewrite<P: Packet>(packet: &mut P, offset: usize, len: usize, ports: Ports) -> Option<u16> {
    let old: Common = packet.load(offset)?;
    let checksum = match (u32::from_le_bytes(old.checksum), difference(old.ports, ports)) {
        (0, _) => 0,
        (checksum, 0) => checksum,
        (checksum, bits) => checksum ^ P::crc_change(bits, len as u32),
    };
    let new = Common { ports, checksum: checksum.to_le_bytes(), ..old };
    packet.store(offset, &new)?;
    let [of_ports, of_checksum] = [
        csum::words(bytemuck::cast(old.ports), bytemuck::cast(ports)),
        csum::words(bytemuck::cast(old.checksum), bytemuck::cast(new.checksum)),
    ];
    Some(csum::add(of_ports, of_checksum))
}

/// The bits in which two pairs of ports differ.
#[inline(always)]
fn difference(old: Ports, new: Ports) -> u32 {
    let bits = |ports: Ports| u32::from_le_bytes(bytemuck::cast(ports));
    bits(old) ^ bits(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_mean_what_the_rfc_says() {
        for chunk in 0..=255 {
            let expected = match chunk {
                1 => tcp::SYN,
                2 => tcp::SYN | tcp::ACK,
                6 => tcp::RST,
                8 | 14 => tcp::FIN,
                _ => tcp::ACK,
            };
            assert_eq!(flags(chunk), expected, "chunk {chunk}");
        }
    }
}
