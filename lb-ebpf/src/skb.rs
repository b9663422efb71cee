//! Packets at TC, in socket buffers.

use core::arch::asm;

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head, bpf_skb_change_tail,
};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::TcContext;
use lb_common::csum;
use lb_common::datapath::{self, Stage};
use lb_common::ip::V4;
use lb_common::packet::{self, Packet};
use lb_common::parse;
use lb_common::reject;
use lb_common::route::{LOOPBACK, LOOPBACK_MAC, SERVICE_MAC};
use lb_common::summed;
use lb_common::tables::{Side, device};
use lb_common::verdict::{Reason, Verdict};

use crate::bytes;
use crate::maps::{self, Maps};
use crate::tables::Kernel;

/// Go on with the programs of others, then up the stack (`TCX_NEXT`; clsact knows it as `TC_ACT_UNSPEC`).
const NEXT: i32 = -1;

/// The number of a VLAN, in the tag of a packet.
const VLAN: u32 = 0xfff;

/// Bytes that must lie in one piece: Ethernet, IPv6, some extension headers, TCP.
const HEADERS: u32 = 128;

/// A packet as its context has it.
pub(crate) struct Buffer(TcContext);

impl Packet for Buffer {
    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is this run's own.
        unsafe { (*self.0.skb.skb).ifindex }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn segment(&self) -> usize {
        // SAFETY: the context is this run's own.
        unsafe { (*self.0.skb.skb).gso_size as usize }
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
        bytes::opaque(offset, self.length())
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Option<()> {
        // SAFETY: the context is this run's own.
        let resized = unsafe { bpf_skb_change_tail(self.0.skb.skb, len as u32, 0) } == 0;
        (resized && self.0.pull_data(len as u32).is_ok()).then_some(())
    }

    #[inline(always)]
    fn enclose(&mut self, room: usize, len: usize) -> Option<()> {
        self.resize(len)?;
        // SAFETY: the context is this run's own.
        (unsafe { bpf_skb_change_head(self.0.skb.skb, room as u32, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn is_partial(&mut self, offset: usize) -> Option<bool> {
        match self.kind() {
            Some(kind) => Some(kind == summed::PARTIAL),
            None => {
                let field = self.load(offset)?;
                self.leaves_alone(offset, field, field)
            }
        }
    }

    #[inline(always)]
    fn store_l4(&mut self, offset: usize, full: u16, pseudo: u16, whole: u16) -> Option<()> {
        let has_sum = match self.kind() {
            Some(summed::PARTIAL) => return self.store(offset, &pseudo),
            Some(kind) => {
                self.store(offset, &full)?;
                kind == summed::COMPLETE
            }
            None => !self.leaves_alone(offset, pseudo, full)?,
        };
        if has_sum && !csum::is_nothing(whole) {
            self.add_to_sum(whole);
        }
        Some(())
    }

    #[inline(always)]
    fn add(&mut self, change: u16) {
        if matches!(self.kind(), Some(summed::COMPLETE) | None) {
            self.add_to_sum(change);
        }
    }

    #[inline(always)]
    fn crc_change(bits: u32, len: u32) -> u32 {
        bytes::crc_change(bits, len)
    }
}

impl Buffer {
    /// The kind of the packet's checksum, where this kernel tells it.
    #[inline(always)]
    fn kind(&self) -> Option<u8> {
        let place = maps::summed()?;
        let buffer: *const u8;
        // SAFETY: the agent has put a call in the place of this instruction, which takes the context and gives the kernel's own
        // buffer. It clobbers what calls do.
        unsafe {
            asm!(
                "r0 = {mark}",
                mark = const summed::MARK,
                inlateout("r1") self.0.skb.skb => _,
                lateout("r0") buffer,
                lateout("r2") _,
                lateout("r3") _,
                lateout("r4") _,
                lateout("r5") _,
            );
        }
        // SAFETY: the byte is within the buffer, as the verifier sees.
        Some(place.kind(unsafe { buffer.add(place.byte()).read_volatile() }))
    }

    /// Whether a device is still to complete the checksum at `offset`, which becomes `partial` or `full` by that: a helper that is told of
    /// changed data, not of a changed pseudo header, leaves such a one alone.
    #[inline(always)]
    fn leaves_alone(&mut self, offset: usize, partial: u16, full: u16) -> Option<bool> {
        let field: u16 = self.load(offset)?;
        self.0.l4_csum_replace(offset, 0, 1, 0).ok()?;
        let left_alone = self.load::<u16>(offset)? == field;
        // One write: two would share a check of bounds, of which the verifier loses track.
        self.store(offset, if left_alone { &partial } else { &full })?;
        Some(left_alone)
    }

    /// Adds to the device's sum of all bytes, where there is one; else the helper does nothing.
    #[inline(always)]
    fn add_to_sum(&mut self, change: u16) {
        // SAFETY: the context is this run's own.
        unsafe { bpf_csum_update(self.0.skb.skb, change.into()) };
    }
}

/// Whether so many bytes are all that an entry program reads of a packet. Of what a TCP socket sends its headers alone lie in
/// one piece: to have more there, the kernel makes a new buffer, at the cost of ten look-ups.
#[inline(always)]
fn is_plain(ctx: &TcContext, linear: usize) -> bool {
    parse::plain(|offset| bytes::load(ctx.data(), ctx.data_end(), offset)).is_some_and(|plain| plain <= linear)
}

/// A packet, and the tables as an entry program, or another, at its place sees them.
#[inline(always)]
pub(crate) fn open<const ENTRY: bool>(ctx: TcContext) -> (Buffer, Kernel<TcContext>) {
    let linear = ctx.data_end() - ctx.data();
    if linear < HEADERS as usize && (linear as u32) < ctx.len() && !(ENTRY && is_plain(&ctx, linear)) {
        // Too short a packet is for the parser to refuse.
        let _ = ctx.pull_data(if ctx.len() < HEADERS { ctx.len() } else { HEADERS });
    }
    let tables = Kernel(TcContext::new(ctx.skb.skb));
    (Buffer(ctx), tables)
}

/// What entry programs leave in the packet's own room for such things (`__sk_buff.cb`), for the stages that serve two of them.
/// Others may have left anything there before: no small number.
const AT_SERVICE_DEVICE: u32 = 0x51_0ce0;

/// Tells the stages at which hook the packet is.
#[inline(always)]
fn tell(ctx: &TcContext, service_device: bool) {
    // SAFETY: the context is this run's own.
    unsafe { (*ctx.skb.skb).cb[0] = if service_device { AT_SERVICE_DEVICE } else { 0 } };
}

/// Whether the packet is at the egress of the service device, as its entry program has told.
#[inline(always)]
pub(crate) fn at_service_device(ctx: &TcContext) -> bool {
    // SAFETY: the context is this run's own.
    unsafe { (*ctx.skb.skb).cb[0] == AT_SERVICE_DEVICE }
}

/// What comes of a result at the hook at which the packet is, and how packets go back there.
#[inline(always)]
pub(crate) fn looked_at<A: Maps>(
    buffer: &Buffer,
    tables: &mut Kernel<TcContext>,
    result: Result<Verdict, Stage>,
) -> (Result<Verdict, Stage>, u64) {
    match at_service_device(&buffer.0) {
        true => (datapath::at_service_device::<A, _>(tables, result), IN),
        false => (result, OUT),
    }
}

/// Decides on a packet or calls the program that does, and does what was decided.
#[inline(always)]
pub(crate) fn enter(ctx: TcContext, side: Side, stages: &'static ProgramArray) -> i32 {
    // A VLAN is a network of its own: the program at its own device sees the packet without a tag. Number 0 is no VLAN, but
    // a priority (IEEE 802.1Q), and with it a packet is this device's.
    // SAFETY: the context is this run's own.
    if unsafe { (*ctx.skb.skb).vlan_tci } & VLAN != 0 {
        return NEXT;
    }
    let (mut buffer, mut tables) = open::<true>(ctx);
    let result = datapath::enter(&mut buffer, &mut tables, side, crate::now);
    if result.is_err() {
        tell(&buffer.0, false);
    }
    conclude(&mut buffer, result, stages, OUT)
}

/// The same at the egress of the service device.
#[inline(always)]
pub(crate) fn enter_service_device(ctx: TcContext) -> i32 {
    let (mut buffer, mut tables) = open::<true>(ctx);
    let result = datapath::enter(&mut buffer, &mut tables, Side::Ingress, crate::now);
    let result = datapath::at_service_device::<V4, _>(&mut tables, result);
    if result.is_err() {
        tell(&buffer.0, true);
    }
    conclude(&mut buffer, result, &maps::TC_INGRESS, IN)
}

/// Leads a packet that goes out through the loopback device to the program at the service device, if it is for a Service.
#[inline(always)]
pub(crate) fn enter_loopback(ctx: TcContext) -> i32 {
    // No pull: the stack of this node has made its headers, in one piece. To make them writable would copy each packet.
    let tables = Kernel(TcContext::new(ctx.skb.skb));
    if !datapath::by_loopback(&Buffer(ctx), &tables) {
        return NEXT;
    }
    match maps::device(device::SERVICE_AT) {
        // SAFETY: the helper takes numbers only.
        Some(device) => unsafe { bpf_redirect(device, OUT) as i32 },
        None => NEXT,
    }
}

/// How packets go back through the device at which a program runs: out of it.
pub(crate) const OUT: u64 = 0;
/// In through it, as also what is to go on up the stack: behind the service device is nothing.
pub(crate) const IN: u64 = BPF_F_INGRESS as u64;

/// Does what was decided, or calls the program that decides; packets go back [`OUT`] or [`IN`].
#[inline(always)]
pub(crate) fn conclude(
    buffer: &mut Buffer,
    result: Result<Verdict, Stage>,
    stages: &'static ProgramArray,
    back: u64,
) -> i32 {
    let verdict = match result {
        Ok(verdict) => verdict,
        Err(stage) => Verdict::Drop(maps::call(stages, &buffer.0, stage)),
    };
    act(buffer, verdict, back)
}

#[inline(always)]
fn act(buffer: &mut Buffer, verdict: Verdict, back: u64) -> i32 {
    match verdict {
        Verdict::Forward(_) if back == IN => send_back(buffer, Some(()), back),
        Verdict::Pass(_) | Verdict::Forward(_) => NEXT,
        Verdict::Drop(reason) => {
            crate::log::dropped(&buffer.0, reason);
            TC_ACT_SHOT
        }
        // SAFETY: the helper takes numbers only.
        Verdict::Leave(_, device) => unsafe { bpf_redirect(device, OUT) as i32 },
        // SAFETY: as above; without a next hop it looks it up.
        Verdict::LeaveToNeighbour(_, device) => unsafe {
            bpf_redirect_neigh(device, core::ptr::null_mut(), 0, 0) as i32
        },
        Verdict::Enter(_) => match door(buffer, maps::device(device::SERVICE_AT).unwrap_or_default()) {
            0 => {
                maps::count(Reason::NoRoute);
                TC_ACT_SHOT
            }
            // SAFETY: the helper takes numbers only.
            device => unsafe { bpf_redirect(device, IN) as i32 },
        },
        Verdict::Return(_) | Verdict::Answer(_) => {
            let ready = packet::turn(buffer);
            send_back(buffer, ready, back)
        }
        Verdict::Reject(reason) => {
            crate::log::dropped(&buffer.0, reason);
            let ready = reject::refuse(buffer);
            send_back(buffer, ready, back)
        }
    }
}

/// Sends the packet out where it came from, if it was made ready for that.
#[inline(always)]
fn send_back(buffer: &mut Buffer, ready: Option<()>, flags: u64) -> i32 {
    if ready.is_none() {
        return TC_ACT_SHOT;
    }
    let own = buffer.device();
    let device = if flags == IN { door(buffer, own) } else { own };
    // SAFETY: the helper takes numbers only.
    unsafe { bpf_redirect(device, flags) as i32 }
}

/// By which device a packet goes in: by the loopback device if it is addressed to that, or came by that and goes back; else by
/// this one. A number, 0 for none: what an option does not hold would be undefined, and so for the verifier.
#[inline(always)]
fn door(buffer: &mut Buffer, service: u32) -> u32 {
    const OF_LOOPBACK: [u8; 6] = [0; 6];
    match buffer.load(0).unwrap_or(SERVICE_MAC) {
        LOOPBACK_MAC => buffer.store(0, &OF_LOOPBACK).map_or(0, |()| LOOPBACK),
        OF_LOOPBACK => LOOPBACK,
        _ => service,
    }
}
