//! A packet in memory, on which the decisions run without a kernel.

use std::vec::Vec;

use super::Native;
use crate::packet::Packet;
use crate::tables::Side;
use crate::verdict::Verdict;

/// A packet in a buffer of its own. It came in through device [`Frame::DEVICE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Frame {
    /// The index that the loopback device has, which stands for all where the kernel runs a program on a lone packet.
    pub const DEVICE: u32 = 1;

    /// Decides on the packet and does what was decided, as the programs in the kernel do.
    pub fn run(&mut self, tables: &mut Native, side: Side, now: u32) -> Verdict {
        let verdict = crate::datapath::run(self, tables, side, || now);
        let done = match verdict {
            Verdict::Return(_) | Verdict::Answer(_) => crate::packet::turn(self),
            Verdict::Reject(_) => crate::reject::refuse(self),
            _ => Some(()),
        };
        if done.is_some() { verdict } else { Verdict::Drop(verdict.reason()) }
    }
}

impl Packet for Frame {
    fn device(&self) -> u32 {
        Self::DEVICE
    }

    fn length(&self) -> usize {
        self.0.len()
    }

    fn load<T: bytemuck::Pod>(&self, offset: usize) -> Option<T> {
        self.0.get(offset..offset.checked_add(size_of::<T>())?).map(bytemuck::pod_read_unaligned)
    }

    fn store<T: bytemuck::Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
        let room = self.0.get_mut(offset..offset.checked_add(size_of::<T>())?)?;
        room.copy_from_slice(bytemuck::bytes_of(value));
        Some(())
    }

    fn resize(&mut self, len: usize) -> Option<()> {
        self.0.resize(len, 0);
        Some(())
    }

    fn enclose(&mut self, room: usize, len: usize) -> Option<()> {
        self.0.truncate(len);
        self.0.splice(..0, core::iter::repeat_n(0, room));
        Some(())
    }
}
