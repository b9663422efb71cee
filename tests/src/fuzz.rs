//! Fuzz targets: what must hold for any input at all. The folder `fuzz/` runs them under libFuzzer; the tests run them on
//! seeds.

use lb_common::flow::mirror;
use lb_common::ip::{V4, V6};
use lb_common::mem::{Frame, Native};
use lb_common::parse::parse as read;
use lb_common::tables::{Side, device};
use lb_common::verdict::Verdict;

use crate::packets::random::{self, Seed};
use crate::packets::verify_checksums;
use crate::packets::world::Net;

/// Reads any bytes as a packet of either family. What the parser says must lie within the packet.
///
/// # Panics
/// When it does not.
pub fn parse(data: &[u8]) {
    fn family<A: Net>(data: &[u8]) {
        let frame = Frame(data.to_vec());
        if let Ok(parsed) = read::<A, _>(&frame) {
            assert!(parsed.l4 + parsed.l4_len <= data.len(), "{parsed:?} of {} bytes", data.len());
            assert!(parsed.l4_len >= 8, "{parsed:?}");
        }
        assert_eq!(frame.0, data, "reading has written");
    }
    family::<V4>(data);
    family::<V6>(data);
}

/// Sends a stream of packets, made from the bytes, through one set of tables.
///
/// # Panics
/// When a packet that passes was changed, a checksum that was right is wrong, a length changed, or a flow has one entry.
pub fn datapath(data: &[u8]) {
    stream::<V4>(data);
    stream::<V6>(data);
}

/// Bytes of the input that a packet takes.
const STEP: usize = 12;

fn stream<A: Net>(data: &[u8]) {
    let mut tables = Native::new(random::image::<A>());
    for (now, step) in (0..).zip(data.chunks_exact(STEP)) {
        let (side, frame) = packet::<A>(step);
        let inside = u32::from(step[11]) & device::INSIDE;
        tables.devices.insert(Frame::DEVICE, inside);
        tables.at_xdp = inside == 0;
        one(&mut tables, side, &frame, now);
    }
    pairs::<A>(&tables);
}

/// A likely packet, with one byte of the fuzzer's choice.
fn packet<A: Net>(step: &[u8]) -> (Side, Vec<u8>) {
    let [a, b, c, d, e, f, g, h, at, value, change, _] = *step else { unreachable!("chunks have one size") };
    let (side, mut frame) = random::packet::<A>(&mut Seed(u64::from_le_bytes([a, b, c, d, e, f, g, h])));
    if change & 1 == 1 {
        let at = usize::from(at) % frame.len();
        frame[at] = value;
    }
    (side, frame)
}

fn one(tables: &mut Native, side: Side, bytes: &[u8], now: u32) {
    let sound = verify_checksums(bytes).is_ok();
    let mut frame = Frame(bytes.to_vec());
    let verdict = frame.run(tables, side, now);
    match verdict {
        Verdict::Pass(_) => assert_eq!(frame.0, bytes, "passed, but changed"),
        Verdict::Forward(_)
        | Verdict::Return(_)
        | Verdict::Leave(..)
        | Verdict::LeaveToNeighbour(..)
        | Verdict::Enter(_) => {
            assert_eq!(frame.0.len(), bytes.len(), "{verdict:?} {bytes:x?}");
        }
        Verdict::Answer(_) | Verdict::Reject(_) | Verdict::Drop(_) => {}
    }
    if sound && !matches!(verdict, Verdict::Drop(_)) {
        verify_checksums(&frame.0).unwrap_or_else(|error| panic!("{error}: {verdict:?} of {bytes:x?}"));
    }
}

fn pairs<A: Net>(tables: &Native) {
    let flows = A::flows(tables);
    for (key, flow) in &flows.flows {
        let (other, _) = mirror(key, flow);
        let other = flows.flows.get(&other);
        assert!(
            other.is_some_and(|other| other.is_established() == flow.is_established()),
            "half a flow: {key:?} {flow:?}"
        );
    }
}
