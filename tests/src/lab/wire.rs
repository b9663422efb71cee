//! What the lab's clients and servers say to each other. Both sides check the content.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// HTTP.
pub const HTTP_PORT: u16 = 8080;
/// UDP: each datagram is answered.
pub const UDP_PORT: u16 = 5353;
/// TCP: so many bytes there, so many back.
pub const BULK_PORT: u16 = 9000;
/// TCP: every line is answered, for as long as the client likes.
pub const ECHO_PORT: u16 = 7777;

/// What a server says of itself and of whom it sees. The first line of every answer, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The name of the pod.
    pub pod: String,
    /// The address of the pod that the client reached; the unspecified one over UDP, where a server does not learn it.
    pub address: IpAddr,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
    /// Whether what the client sent was what it should have sent.
    pub intact: bool,
}

impl Greeting {
    /// One line, with its end.
    pub(crate) fn line(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// The header of a bulk transfer: how many bytes the client will send, and how many it wants.
pub(crate) fn bulk_header(up: u64, down: u64) -> [u8; 16] {
    let mut header = [0; 16];
    let (first, second) = header.split_at_mut(8);
    first.copy_from_slice(&up.to_be_bytes());
    second.copy_from_slice(&down.to_be_bytes());
    header
}

/// Reads [`bulk_header`].
pub(crate) fn parse_bulk_header(header: [u8; 16]) -> (u64, u64) {
    let both = u128::from_be_bytes(header);
    ((both >> 64) as u64, both as u64)
}

/// Bytes of which each depends on its place, with a period that is no multiple of any segment size: lost, doubled
/// and swapped pieces all show.
pub fn pattern(from: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let rest = rest_of_period(from + bytes.len() as u64);
        bytes.extend_from_slice(&rest[..rest.len().min(len - bytes.len())]);
    }
    bytes
}

/// Whether `bytes` is what [`pattern`] gives.
pub fn is_pattern(mut from: u64, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let rest = rest_of_period(from);
        let (now, later) = bytes.split_at(rest.len().min(bytes.len()));
        if !rest.starts_with(now) {
            return false;
        }
        (from, bytes) = (from + now.len() as u64, later);
    }
    true
}

/// One period, made once: gigabytes go through here.
fn rest_of_period(from: u64) -> &'static [u8] {
    static PERIOD: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..65_521_u64).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 11) as u8).collect());
    &PERIOD[(from % PERIOD.len() as u64) as usize..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_shows_a_shift_a_swap_and_a_changed_byte() {
        let bytes = pattern(0, 100_000);
        assert!(is_pattern(0, &bytes));
        assert!(!is_pattern(1, &bytes));
        for segment in [512, 1448, 1460, 65_536] {
            assert!(!is_pattern(0, &bytes[segment..segment + 512]), "{segment}");
        }
        let mut changed = bytes;
        changed[77_777] ^= 1;
        assert!(!is_pattern(0, &changed));
    }

    #[test]
    fn a_bulk_header_is_read_as_written() {
        assert_eq!(parse_bulk_header(bulk_header(5, 7_000_000_000)), (5, 7_000_000_000));
    }
}
