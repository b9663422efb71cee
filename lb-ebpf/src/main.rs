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
mod log;
mod maps;
mod skb;
mod socket;
mod tables;
mod xdp;

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use lb_common::ip::{V4, V6};
use lb_common::tables::{Side, TICK};

/// At a network card, before the kernel makes a socket buffer of the packet.
#[xdp(frags)]
fn xdp_ingress(ctx: XdpContext) -> u32 {
    xdp::run(ctx)
}

/// Packets that come in: from a pod, or from a network card that takes no XDP program.
#[classifier]
fn tc_ingress(ctx: TcContext) -> i32 {
    skb::run(ctx, Side::Ingress)
}

/// Packets that go out: answers to a client behind this device.
#[classifier]
fn tc_egress(ctx: TcContext) -> i32 {
    skb::run(ctx, Side::Egress)
}

macro_rules! cgroup {
    ($($hook:ident => $run:path, $family:ty, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[cgroup_sock_addr($hook)]
        fn $hook(ctx: SockAddrContext) -> i32 {
            $run(&socket::Socket::<$family>::new(&ctx))
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

/// The time of flow entries. The coarse clock is a read of memory; the fine one costs 31 ns.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper takes nothing and touches nothing.
    (unsafe { bpf_ktime_get_coarse_ns() } / TICK) as u32
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
