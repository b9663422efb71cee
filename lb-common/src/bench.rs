//! What the benchmark tells its own programs (`lb-ebpf/src/bench.rs`). No program of a node knows it.

use bytemuck::{Pod, Zeroable};

/// Bytes of the longest packet.
pub const FRAME: usize = 80;
/// Bytes of the shortest.
pub const SHORT: usize = 64;

/// The packet of each round, and how rounds differ.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Template {
    /// Copied over the packet: Ethernet, IPv6, TCP and a little more.
    pub frame: [u64; FRAME / 8],
    /// Clients are numbered from 0 to this; one less than a power of two.
    pub clients: u32,
    /// The same of virtual IPs.
    pub services: u32,
    /// 0: clients come in their order. 1: in a random one.
    pub random: u32,
    /// Packets of the answer: it is the destination that is the client.
    pub answer: u32,
    /// Bytes of the packet.
    pub len: u32,
    /// Always 0.
    pub zero: u32,
}

/// What becomes of packets where they arrive.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Receiver {
    /// Those to this TCP or UDP port count, and end here.
    pub port: u32,
    /// 1: they are sent back to whom they came from.
    pub answers: u32,
}
