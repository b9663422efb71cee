//! A witness at TC, for what no socket and no capture shows: whether the kernel has summed up all bytes of a packet
//! (`CHECKSUM_COMPLETE`), and that sum. One that is wrong loses no packet: the kernel sums it up again where a socket takes it, and
//! complains of the device once in its life ("hw csum failure").

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{Map, MapData, PerfEventArray};

use super::Netns;
use super::bpf::{self, Hook, Instruction};

/// Bytes of the Ethernet header, which the sum of a packet that comes in leaves out.
const ETHERNET: usize = 14;
/// Pages for the events of one CPU: a megabyte.
const PAGES: usize = 256;

/// A packet that was summed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summed {
    /// The kernel's sum of all bytes from the IP header on.
    sum: u32,
    /// All bytes.
    pub frame: Vec<u8>,
}

impl Summed {
    /// Whether the sum is that of the bytes.
    pub fn is_right(&self) -> bool {
        // One's complement (RFC 1071): the remainder by 2^16 - 1, of which 0 has two forms.
        let words = self.frame.get(ETHERNET..).unwrap_or_default().chunks(2);
        let real: u64 =
            words.map(|word| u64::from(u16::from_le_bytes([word[0], word.get(1).copied().unwrap_or(0)]))).sum();
        u64::from(self.sum) % 0xffff == real % 0xffff
    }
}

/// The witness at one device.
pub struct Sums {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    _link: OwnedFd,
}

impl Sums {
    /// Sees packets that come in by `device` before other programs do.
    pub fn before(ns: &Netns, device: &str) -> Result<Self> {
        Self::attach(ns, device, Hook::IngressFirst)
    }

    /// Sees packets that come in by `device` and that the programs there let pass, as these have left them.
    pub fn after(ns: &Netns, device: &str) -> Result<Self> {
        Self::attach(ns, device, Hook::IngressLast)
    }

    fn attach(ns: &Netns, device: &str, hook: Hook) -> Result<Self> {
        let cpus = aya::util::online_cpus().map_err(|(what, error)| anyhow!("cannot list CPUs: {what}: {error}"))?;
        let map = bpf::events(cpus.iter().max().map_or(1, |last| last + 1))?;
        let link = bpf::attach(ns, device, hook, &program(map.as_raw_fd()))?;
        let mut events = PerfEventArray::try_from(Map::from_map_data(MapData::from_fd(map)?)?)?;
        let buffers =
            cpus.into_iter().map(|cpu| events.open(cpu, Some(PAGES)).context("cannot open a buffer of events"));
        Ok(Self { buffers: buffers.collect::<Result<_>>()?, _link: link })
    }

    /// Those that were summed up since this was asked last.
    pub fn seen(&mut self) -> Result<Vec<Summed>> {
        let (mut seen, mut lost) = (Vec::new(), 0);
        for buffer in &mut self.buffers {
            buffer.for_each(|event| match event {
                PerfEvent::Sample { head, tail } => seen.extend(summed(&[head, tail].concat())),
                PerfEvent::Lost { count } => lost += count,
            });
        }
        ensure!(lost == 0, "{lost} packets were too many for a buffer of events");
        Ok(seen)
    }
}

/// Reads an event: sum and length, then the packet, and what fills it up to whole words.
fn summed(event: &[u8]) -> Option<Summed> {
    let (sum, rest) = event.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    Some(Summed { sum: u32::from_le_bytes(*sum), frame: rest.get(..u32::from_le_bytes(*len) as usize)?.to_vec() })
}

/// Helpers (linux/bpf.h).
const PERF_EVENT_OUTPUT: i32 = 25;
const CSUM_UPDATE: i32 = 40;

/// An instruction (RFC 9669): code, target, source, offset, number.
const fn instruction(code: u8, target: u8, source: u8, offset: i16, number: i32) -> Instruction {
    let ([low, high], n) = (offset.to_le_bytes(), number.to_le_bytes());
    [code, target | source << 4, low, high, n[0], n[1], n[2], n[3]]
}

/// Tells of each packet to whose sum a helper can add nothing, which is how it says that there is one; and lets all pass.
const fn program(map: i32) -> [Instruction; 19] {
    [
        // r0 = bpf_csum_update(r6 = context, 0); if it is an error, goto out
        instruction(0xbf, 6, 1, 0, 0),
        instruction(0xb7, 2, 0, 0, 0),
        instruction(0x85, 0, 0, 0, CSUM_UPDATE),
        instruction(0xc5, 0, 0, 13, 0),
        // on the stack: the sum, and the length, context->len
        instruction(0x63, 10, 0, -8, 0),
        instruction(0x61, 3, 6, 0, 0),
        instruction(0x63, 10, 3, -4, 0),
        // bpf_perf_event_output(context, map, length << 32 | BPF_F_CURRENT_CPU, the stack, 8)
        instruction(0x67, 3, 0, 0, 32),
        instruction(0xb4, 4, 0, 0, -1),
        instruction(0x4f, 3, 4, 0, 0),
        instruction(0xbf, 1, 6, 0, 0),
        instruction(0x18, 2, 1, 0, map),
        instruction(0, 0, 0, 0, 0),
        instruction(0xbf, 4, 10, 0, 0),
        instruction(0x07, 4, 0, 0, -8),
        instruction(0xb7, 5, 0, 0, 8),
        instruction(0x85, 0, 0, 0, PERF_EVENT_OUTPUT),
        // out: return TCX_NEXT
        instruction(0xb7, 0, 0, 0, -1),
        instruction(0x95, 0, 0, 0, 0),
    ]
}
