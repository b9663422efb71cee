//! Programs for `cargo xtask bench`: some stand in front of a program under test and make the packet anew in each round,
//! one stands where packets arrive that a node has sent on.
//!
//! `BPF_PROG_TEST_RUN` repeats a program on one packet and does not restore it: from round 2 on a program that
//! translates would see its own output. So the front copies the packet from a template, varies client and virtual IP
//! where many flows are wanted, and tail-calls the program under test. The time of the front with an empty program
//! behind it is subtracted.
#![no_std]
#![no_main]

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::{bpf_skb_change_tail, bpf_xdp_adjust_tail};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::bench::{FRAME, Receiver, SHORT, Template};
use lb_common::hash;
use lb_common::ip::{Be16, Ip, V4, V6};
use lb_common::packet::{ETHERNET, Ethernet, Ipv4, Ipv6, Ports};

#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);
/// Rounds so far.
#[map]
static ROUND: Array<u32> = Array::with_max_entries(1, 0);
/// The program under test: at 0.
#[map]
static XDP_TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// The same for TC.
#[map]
static TC_TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// What becomes of packets that arrive.
#[map]
static RECEIVER: Array<Receiver> = Array::with_max_entries(1, 0);
/// Packets that arrived at the receiver's port.
#[map]
static RECEIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Makes the packet, then calls the XDP program under test.
#[expect(clippy::needless_pass_by_value, reason = "the macro of aya calls it so")]
#[xdp(frags)]
fn front_xdp(ctx: XdpContext) -> u32 {
    // Opaque, or the compiler adds the length to a packet pointer first, which the verifier refuses.
    let excess = core::hint::black_box(ctx.data_end() - ctx.data()) as i32 - length();
    // SAFETY: the context is this run's own. A refusal has another length than what it refused.
    if excess != 0 && unsafe { bpf_xdp_adjust_tail(ctx.ctx, -excess) } != 0 {
        return XDP_DROP;
    }
    if write(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: the map holds XDP programs; a missing one lets the call return.
        unsafe { XDP_TARGET.tail_call(&ctx, 0) };
    }
    XDP_DROP
}

/// Makes the packet, then calls the TC program under test.
#[expect(clippy::needless_pass_by_value, reason = "the macro of aya calls it so")]
#[classifier]
fn front_tc(ctx: TcContext) -> i32 {
    // SAFETY: as at XDP.
    if ctx.len() as i32 != length() && unsafe { bpf_skb_change_tail(ctx.skb.skb, length() as u32, 0) } != 0 {
        return TC_ACT_SHOT;
    }
    if write(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: the map holds TC programs; a missing one lets the call return.
        unsafe { TC_TARGET.tail_call(&ctx, 0) };
    }
    TC_ACT_SHOT
}

/// Behind the front: what is subtracted.
#[xdp(frags)]
fn empty_xdp(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

/// Behind the front: what is subtracted.
#[classifier]
fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// Behind the front where frames are live: sends the packet out of the device that the run names.
#[xdp(frags)]
fn send_xdp(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Where a node's packets arrive: counts and ends those to the receiver's port, or answers them. All others pass.
#[expect(clippy::needless_pass_by_value, reason = "the macro of aya calls it so")]
#[xdp(frags)]
fn receive_xdp(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + ETHERNET > end {
        return XDP_PASS;
    }
    // SAFETY: the bounds were checked.
    match unsafe { (*(data as *const Ethernet)).ethertype.get() } {
        V4::ETHERTYPE => arrive::<Ipv4>(data, end, |ip| core::mem::swap(&mut ip.src, &mut ip.dst)),
        V6::ETHERTYPE => arrive::<Ipv6>(data, end, |ip| core::mem::swap(&mut ip.src, &mut ip.dst)),
        _ => XDP_PASS,
    }
}

/// Behind a header `H`, which has neither options nor extensions: the packets are the benchmark's own.
#[inline(always)]
fn arrive<H>(data: usize, end: usize, turn: impl Fn(&mut H)) -> u32 {
    let ports = data + ETHERNET + size_of::<H>();
    let Some(receiver) = RECEIVER.get(0) else { return XDP_PASS };
    if ports + size_of::<Ports>() > end {
        return XDP_PASS;
    }
    // SAFETY: the bounds were checked, and nothing else refers to the packet.
    let (ethernet, ip, ports) =
        unsafe { (&mut *(data as *mut Ethernet), &mut *((data + ETHERNET) as *mut H), &mut *(ports as *mut Ports)) };
    if u32::from(ports.dst.get()) != receiver.port {
        return XDP_PASS;
    }
    if let Some(count) = RECEIVED.get_ptr_mut(0) {
        // SAFETY: the counter is this CPU's own.
        unsafe { *count += 1 };
    }
    if receiver.answers == 0 {
        return XDP_DROP;
    }
    // The sum of what is swapped stays the same, and with it every checksum.
    *ethernet = ethernet.swapped();
    turn(ip);
    core::mem::swap(&mut ports.src, &mut ports.dst);
    XDP_TX
}

/// Bytes of the packet of this measurement.
#[inline(always)]
fn length() -> i32 {
    TEMPLATE.get(0).map_or(0, |template| template.len as i32)
}

#[inline(always)]
fn write(data: usize, end: usize) -> Option<()> {
    let template = TEMPLATE.get(0)?;
    let round = ROUND.get_ptr_mut(0)?;
    if data + SHORT > end {
        return None;
    }
    copy::<0, { SHORT / 8 }>(data, template);
    if data + FRAME <= end {
        copy::<{ SHORT / 8 }, { FRAME / 8 }>(data, template);
    }
    if template.clients | template.services == 0 {
        return Some(());
    }
    // SAFETY: one CPU runs the benchmark.
    let number = unsafe {
        *round = (*round).wrapping_add(1);
        *round
    };
    let number = if template.random == 0 { number } else { hash::seeded(7, number) };
    let ethernet = data as *mut Ethernet;
    // SAFETY: the bounds were checked above: SHORT covers the IPv4 packet, and the IPv6 one is FRAME long.
    unsafe {
        match (*ethernet).ethertype.get() {
            V4::ETHERTYPE => {
                let ip = (data + ETHERNET) as *mut Ipv4;
                let ports = (data + ETHERNET + V4::HEADER) as *mut Ports;
                vary(template, number, &mut (*ip).src.0[0], &mut (*ip).dst.0[0], &mut *ports);
            }
            _ if data + FRAME <= end => {
                let ip = (data + ETHERNET) as *mut Ipv6;
                let ports = (data + ETHERNET + V6::HEADER) as *mut Ports;
                vary(template, number, &mut (*ip).src.0[3], &mut (*ip).dst.0[3], &mut *ports);
            }
            _ => return None,
        }
    }
    Some(())
}

#[inline(always)]
fn copy<const FROM: usize, const TO: usize>(data: usize, template: &Template) {
    let mut i = FROM;
    while i < TO {
        // SAFETY: the caller has checked the bounds up to word `TO`.
        unsafe { *((data + 8 * i) as *mut u64) = template.frame[i] };
        i += 1;
    }
}

/// A client is 4,096 ports of one address. The last word of an address counts up in host order.
#[inline(always)]
fn vary(template: &Template, number: u32, src: &mut u32, dst: &mut u32, ports: &mut Ports) {
    let client = number & template.clients;
    let service = number & template.services;
    let (client_word, client_port, service_word) =
        if template.answer == 0 { (src, &mut ports.src, dst) } else { (dst, &mut ports.dst, src) };
    *client_word = (u32::from_be(*client_word) + (client >> 12)).to_be();
    *client_port = Be16::new(30_000 + (client & 0xfff) as u16);
    *service_word = (u32::from_be(*service_word) + service).to_be();
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses programs that could come here: they would not end.
    loop {}
}

/// The kernel offers some helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
