//! The programs of Sluice that run in the kernel: adapters around the decisions of `lb-common`.
//!
//! An entry point takes its context, runs [`lb_common::datapath`] or [`lb_common::socket`] on it, and turns the verdict
//! into an action. Nothing is decided here.
#![no_std]
#![no_main]
// Inline assembly for BPF is not stable yet; aya-ebpf needs it, too.
#![feature(asm_experimental_arch)]

mod atomic;
mod bytes;
mod fib;
mod flow_list;
mod flow_move;
mod flow_table;
mod log;
mod maps;
mod skb;
mod socket;
mod socket_table;
mod tables;
mod xdp;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use lb_common::datapath::{self, Stage};
use lb_common::ip::{V4, V6};
use lb_common::tables::Side;
use lb_common::verdict::{Reason, Verdict};

/// At a network card, before the kernel makes a socket buffer of the packet.
#[xdp(frags)]
fn xdp_ingress(ctx: XdpContext) -> u32 {
    xdp::enter(ctx)
}

/// Packets that come in: from a pod, or from a network card that takes no XDP program.
#[classifier]
fn tc_ingress(ctx: TcContext) -> i32 {
    skb::enter(ctx, Side::Ingress, &maps::TC_INGRESS)
}

/// Packets that go out: answers to a client behind this device.
#[classifier]
fn tc_egress(ctx: TcContext) -> i32 {
    skb::enter(ctx, Side::Egress, &maps::TC_EGRESS)
}

/// Packets that nothing else has led to a Service, at the egress of the service device.
#[classifier]
fn tc_service(ctx: TcContext) -> i32 {
    skb::enter_service_device(ctx)
}

/// Packets to the node itself, at the egress of the loopback device.
#[classifier]
fn tc_loopback(ctx: TcContext) -> i32 {
    skb::enter_loopback(ctx)
}

/// The programs that entry programs call: a [`Stage`](datapath::Stage) of a hook each, which the agent puts into its array. Those of
/// TC ingress serve the service device, too.
macro_rules! stages {
    ($($xdp:ident, $ingress:ident $(, $egress:ident)? => $stage:ident, $family:ty;)*) => {$(
        #[xdp(frags)]
        fn $xdp(ctx: XdpContext) -> u32 {
            let (mut frame, mut tables) = xdp::open(ctx);
            let result = datapath::$stage::run::<$family, _, _>(&mut frame, &mut tables, Side::Ingress, now);
            xdp::conclude(&mut frame, result)
        }

        #[classifier]
        fn $ingress(ctx: TcContext) -> i32 {
            let (mut buffer, mut tables) = skb::open::<false>(ctx);
            let result = datapath::$stage::run::<$family, _, _>(&mut buffer, &mut tables, Side::Ingress, now);
            let (result, back) = skb::looked_at::<$family>(&buffer, &mut tables, result);
            skb::conclude(&mut buffer, result, &maps::TC_INGRESS, back)
        }

        $(#[classifier]
        fn $egress(ctx: TcContext) -> i32 {
            let (mut buffer, mut tables) = skb::open::<false>(ctx);
            let result = datapath::$stage::run::<$family, _, _>(&mut buffer, &mut tables, Side::Egress, now);
            skb::conclude(&mut buffer, result, &maps::TC_EGRESS, skb::OUT)
        })?
    )*};
}

stages! {
    xdp_ingress_first_v4, tc_ingress_first_v4 => first, V4;
    xdp_ingress_first_v6, tc_ingress_first_v6 => first, V6;
    xdp_ingress_flows_v4, tc_ingress_flows_v4, tc_egress_flows_v4 => flows, V4;
    xdp_ingress_flows_v6, tc_ingress_flows_v6, tc_egress_flows_v6 => flows, V6;
    xdp_ingress_onward_v4, tc_ingress_onward_v4 => onward, V4;
    xdp_ingress_onward_v6, tc_ingress_onward_v6 => onward, V6;
    xdp_ingress_portless_v4, tc_ingress_portless_v4, tc_egress_portless_v4 => portless, V4;
    xdp_ingress_portless_v6, tc_ingress_portless_v6, tc_egress_portless_v6 => portless, V6;
    xdp_ingress_too_long_v4, tc_ingress_too_long_v4 => too_long, V4;
    xdp_ingress_too_long_v6, tc_ingress_too_long_v6 => too_long, V6;
}

// Programs that stand in for the stages of a family that has no Services yet: whatever would come to these is a stranger.

#[xdp(frags)]
fn xdp_ingress_absent(ctx: XdpContext) -> u32 {
    let (mut frame, _) = xdp::open(ctx);
    xdp::conclude(&mut frame, STRANGER)
}

#[classifier]
fn tc_ingress_absent(ctx: TcContext) -> i32 {
    let (mut buffer, mut tables) = skb::open::<false>(ctx);
    let (result, back) = skb::looked_at::<V6>(&buffer, &mut tables, STRANGER);
    skb::conclude(&mut buffer, result, &maps::TC_INGRESS, back)
}

#[classifier]
fn tc_egress_absent(ctx: TcContext) -> i32 {
    let (mut buffer, _) = skb::open::<false>(ctx);
    skb::conclude(&mut buffer, STRANGER, &maps::TC_EGRESS, skb::OUT)
}

const STRANGER: Result<Verdict, Stage> = Ok(Verdict::Pass(Reason::NotService));

macro_rules! cgroup {
    ($($hook:ident => $run:path, $family:ty, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[cgroup_sock_addr($hook)]
        fn $hook(ctx: SockAddrContext) -> i32 {
            socket::answer($run(&socket::Socket::<$family>::new(&ctx)))
        }
    )*};
}

cgroup! {
    connect4 => socket::connect, V4, "A socket connects.";
    connect6 => socket::connect, V6, "A socket connects.";
    sendmsg4 => socket::send, V4, "A socket that is not connected sends a datagram.";
    sendmsg6 => socket::send, V6, "A socket that is not connected sends a datagram.";
    recvmsg4 => socket::backward, V4, "A datagram came from a backend.";
    recvmsg6 => socket::backward, V6, "A datagram came from a backend.";
    getpeername4 => socket::backward, V4, "A process asks whom a socket is connected to.";
    getpeername6 => socket::backward, V6, "A process asks whom a socket is connected to.";
}

/// The time of flow entries. The kernel writes the count's address into the program, so that this is a read of memory; its
/// coarse clock costs 15 ns, the fine one 31.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper takes nothing and touches nothing.
    maps::jiffies().time(unsafe { bpf_jiffies64() })
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
