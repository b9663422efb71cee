//! What is true in the kernel and in the agent alike: the layout of every map, packet headers, and the
//! decisions of the packet path.
//!
//! Nothing here knows a clock, a random source, a file or a socket: time and identity enter as arguments, and
//! tables and packets through the traits [`tables::Tables`] and [`packet::Packet`]. So one and the same code runs
//! in the kernel (crate `lb-ebpf`), under `cargo test`, and under a fuzzer.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "mem"))]
extern crate std;

pub mod bench;
pub mod clock;
pub mod crc;
pub mod csum;
pub mod datapath;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod icmp;
pub mod ip;
pub mod maglev;
#[cfg(any(test, feature = "mem"))]
pub mod mem;
pub mod packet;
pub mod parse;
pub mod reject;
pub mod rewrite;
pub mod route;
pub mod sctp;
pub mod service;
pub mod socket;
pub mod summed;
pub mod tables;
pub mod verdict;
