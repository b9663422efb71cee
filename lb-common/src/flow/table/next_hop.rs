//! Next hops that are kept with entries of flows, and by what a reader knows that one is still right.
//!
//! Its device and MTU stand beside the time of the newest packet, its MACs in two words of their own. Nobody takes a lock to
//! write them, and each is written by itself. So beside the MACs stands a check over all that a next hop depends on: itself,
//! the entry (its sequence number), and its [`Stamp`]. A reader computes the check for its own packet. Where words of two
//! writers meet, or words that were meant for the flow before, it comes out as another number, but once in 2^31 of these
//! moments: whoever reads it looks the next hop up. The order of reads and writes does not matter.

use super::layout::{next_hop_at, pack_seen, pair, seen_at};
use super::{Memory, Snapshot, Way, control, way_at};
use crate::ip::Ip;
use crate::route::{Kept, NextHop, Stamp};

/// In a check: the next hop is for XDP to send to.
const XDP: u32 = 1;

/// A sum of products by odd numbers, the upper half of it: wherever bits differ, it nearly always does.
#[inline(always)]
const fn check(control: u32, stamp: &Stamp, words: [u64; 2]) -> u32 {
    let sum = words[0]
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(words[1].wrapping_mul(0xff51_afd7_ed55_8ccd))
        .wrapping_add(pair(control & !control::STATE, stamp.now).wrapping_mul(0xc4ce_b9fe_1a85_ec53))
        .wrapping_add(pair(stamp.epoch, stamp.from).wrapping_mul(0xd6e8_feb8_6659_fd93));
    (sum >> 32) as u32 & !XDP | stamp.xdp as u32
}

impl<A: Ip> Snapshot<A> {
    /// What was kept about the way that packets of the flow leave by, as far as it is right for such a stamp.
    #[inline(always)]
    pub fn kept<M: Memory>(&self, memory: &M, stamp: &Stamp) -> Kept {
        let Some(way) = way_at(memory, self.spot) else { return Kept::NOTHING };
        let (seen, first, second) =
            (way.word(seen_at::<A>()), way.word(next_hop_at::<A>()), way.word(next_hop_at::<A>() + 1));
        let place = (seen >> 32) as u32;
        if place as u16 == 0 {
            return Kept::NOTHING;
        }
        let own = check(self.control, stamp, [first, pair(second as u32, place)]);
        match (second >> 32) as u32 ^ own {
            0 => {
                let (device, mtu) = (place & 0xffff, (place >> 16) as u16);
                Kept { next: NextHop { device, mtu, head: first, tail: second as u32 }, hand_over: false }
            }
            // TC would not have been asked if XDP could send.
            XDP if stamp.xdp => Kept { next: NextHop::NONE, hand_over: true },
            _ => Kept::NOTHING,
        }
    }

    /// Keeps a next hop with the entry. One whose device has too large an index is not kept.
    #[inline(always)]
    pub fn keep<M: Memory>(&self, memory: &M, next: &NextHop, stamp: &Stamp) {
        let (Ok(device), Some(way)) = (u16::try_from(next.device), way_at(memory, self.spot)) else { return };
        let place = pack_seen(stamp.now, device, next.mtu);
        let check = check(self.control, stamp, [next.head, pair(next.tail, (place >> 32) as u32)]);
        way.set(seen_at::<A>(), place);
        way.set(next_hop_at::<A>(), next.head);
        way.set(next_hop_at::<A>() + 1, pair(next.tail, check));
    }
}
