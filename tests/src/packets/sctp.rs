//! Packets of SCTP, whose checksums a crate of others computes.

use etherparse::{IpNumber, NetSlice, SlicedPacket};

/// Types of chunks (RFC 9260, 3.2).
pub mod chunk {
    /// DATA.
    pub const DATA: u8 = 0;
    /// INIT.
    pub const INIT: u8 = 1;
    /// INIT ACK.
    pub const INIT_ACK: u8 = 2;
    /// ABORT.
    pub const ABORT: u8 = 6;
    /// SHUTDOWN ACK.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// COOKIE ECHO.
    pub const COOKIE_ECHO: u8 = 10;
    /// COOKIE ACK.
    pub const COOKIE_ACK: u8 = 11;
    /// SHUTDOWN COMPLETE.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Offset of the checksum.
pub const CHECKSUM: usize = 8;

/// A packet of one chunk. Its verification tag is 0 in an INIT, as it must be.
pub fn packet(sport: u16, dport: u16, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let tag = if chunk == chunk::INIT { 0 } else { 0xdead_beef };
    tagged(sport, dport, tag, chunk, payload)
}

/// The same with this verification tag. DATA is a message of its own (the flags B and E).
pub fn tagged(sport: u16, dport: u16, tag: u32, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    packet.extend(tag.to_be_bytes());
    packet.extend([0, 0, 0, 0, chunk, if chunk == chunk::DATA { 3 } else { 0 }]);
    packet.extend((payload.len() as u16 + 4).to_be_bytes());
    packet.extend(payload);
    let checksum = right(&packet).to_le_bytes();
    packet[CHECKSUM..CHECKSUM + 4].copy_from_slice(&checksum);
    packet
}

/// The packet of SCTP that a frame holds whole, from its ports on.
pub fn read<'a>(packet: &SlicedPacket<'a>) -> Option<&'a [u8]> {
    let payload = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => ip.payload().clone(),
        NetSlice::Ipv6(ip) => ip.payload().clone(),
        NetSlice::Arp(_) => return None,
    };
    let whole = payload.ip_number == IpNumber::SCTP && !payload.fragmented && payload.payload.len() >= 12;
    whole.then_some(payload.payload)
}

/// The port at an offset.
pub(super) fn port(packet: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([packet[offset], packet[offset + 1]])
}

/// What the checksum of a packet should be.
fn right(packet: &[u8]) -> u32 {
    let mut bare = packet.to_vec();
    bare[CHECKSUM..CHECKSUM + 4].fill(0);
    crc32c::crc32c(&bare)
}

fn checksum(packet: &[u8]) -> u32 {
    packet[CHECKSUM..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Whether a packet from its ports on, of 12 bytes at least, has the right checksum.
pub fn is_sound(packet: &[u8]) -> bool {
    checksum(packet) == right(packet)
}

/// The same; 0 stands for one that is yet to come.
///
/// # Errors
/// It is another.
pub(super) fn verify(packet: &[u8]) -> Result<(), String> {
    let (is, right) = (checksum(packet), right(packet));
    if is == 0 || is == right { Ok(()) } else { Err(format!("SCTP checksum is {is:#010x}, should be {right:#010x}")) }
}
