//! Packets at XDP.

use core::arch::asm;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use lb_common::datapath::{self, Stage};
use lb_common::packet::{self, Packet};
use lb_common::reject;
use lb_common::tables::Side;
use lb_common::verdict::Verdict;

use crate::bytes;
use crate::maps;
use crate::tables::Kernel;

/// A packet as its context has it.
pub(crate) struct Frame(XdpContext);

impl Packet for Frame {
    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is this run's own.
        unsafe { (*self.0.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // As `bpf_xdp_get_buff_len`, of which the compiler believes that it writes to the context, and then takes the pointers
        // in it for numbers.
        let length: u64;
        // SAFETY: helper 188 takes the context, changes nothing, and clobbers what helpers do.
        unsafe {
            asm!(
                "call 188",
                inlateout("r1") self.0.ctx => _,
                lateout("r0") length,
                lateout("r2") _,
                lateout("r3") _,
                lateout("r4") _,
                lateout("r5") _,
                options(pure, readonly, nostack),
            );
        }
        length as usize
    }

    #[inline(always)]
    fn length_beyond(&self, enough: usize) -> usize {
        if self.0.data() + enough <= self.0.data_end() { enough } else { self.length() }
    }

    #[inline(always)]
    fn load<T: bytemuck::Pod>(&self, offset: usize) -> Option<T> {
        bytes::load(self.0.data(), self.0.data_end(), offset)
    }

    #[inline(always)]
    fn store<T: bytemuck::Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
        bytes::store(self.0.data(), self.0.data_end(), offset, value)
    }

    #[inline(always)]
    fn opaque(&self, offset: usize) -> usize {
        bytes::opaque(offset, self.0.data_end() - self.0.data())
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Option<()> {
        let change = len as i32 - self.length() as i32;
        // Room before a packet is sure, room behind it is not: a veth copies small ones tightly.
        // SAFETY: the context is this run's own.
        let resized = unsafe {
            if change > 0 { bpf_xdp_adjust_head(self.0.ctx, -change) } else { bpf_xdp_adjust_tail(self.0.ctx, change) }
        };
        (resized == 0).then_some(())
    }

    #[inline(always)]
    fn enclose(&mut self, room: usize, len: usize) -> Option<()> {
        self.resize(len)?;
        // SAFETY: the context is this run's own.
        (unsafe { bpf_xdp_adjust_head(self.0.ctx, -(room as i32)) } == 0).then_some(())
    }

    #[inline(always)]
    fn crc_change(bits: u32, len: u32) -> u32 {
        bytes::crc_change(bits, len)
    }
}

/// A packet, and the tables as a program at its place sees them.
#[inline(always)]
pub(crate) fn open(ctx: XdpContext) -> (Frame, Kernel<XdpContext>) {
    let tables = Kernel(XdpContext::new(ctx.ctx));
    (Frame(ctx), tables)
}

/// Decides on a packet or calls the program that does, and does what was decided.
#[inline(always)]
pub(crate) fn enter(ctx: XdpContext) -> u32 {
    let (mut frame, mut tables) = open(ctx);
    let result = datapath::enter(&mut frame, &mut tables, Side::Ingress, crate::now);
    conclude(&mut frame, result)
}

/// Does what was decided, or calls the program that decides.
#[inline(always)]
pub(crate) fn conclude(frame: &mut Frame, result: Result<Verdict, Stage>) -> u32 {
    let verdict = match result {
        Ok(verdict) => verdict,
        Err(stage) => Verdict::Drop(maps::call(&maps::XDP_INGRESS, &frame.0, stage)),
    };
    act(frame, verdict)
}

#[inline(always)]
fn act(frame: &mut Frame, verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) | Verdict::Forward(_) => XDP_PASS,
        // Never of a program whose routes do not lead inward, and that sends by itself.
        Verdict::Enter(_) | Verdict::LeaveToNeighbour(..) => XDP_DROP,
        Verdict::Drop(reason) => {
            crate::log::dropped(&frame.0, reason);
            XDP_DROP
        }
        Verdict::Leave(_, device) if device == frame.device() => XDP_TX,
        // SAFETY: the helper takes numbers only.
        Verdict::Leave(_, device) => unsafe { bpf_redirect(device, 0) as u32 },
        Verdict::Return(_) | Verdict::Answer(_) => back(packet::turn(frame)),
        Verdict::Reject(reason) => {
            crate::log::dropped(&frame.0, reason);
            back(reject::refuse(frame))
        }
    }
}

/// Sends the packet out where it came from, if it was made ready for that.
#[inline(always)]
const fn back(ready: Option<()>) -> u32 {
    if ready.is_some() { XDP_TX } else { XDP_DROP }
}
