//! The node's routes, as the kernel looks them up for a program.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_FIB_LOOKUP_SKIP_NEIGH, BPF_FIB_LOOKUP_SRC, bpf_fib_lookup};
use aya_ebpf::helpers::generated;
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::ip::{Ip, V4, V6};
use lb_common::route::{Found, Hop, Way, fib};

use crate::{maps, skb};

/// Where a program runs, as far as its routes are concerned.
pub(crate) trait Place {
    fn hop<A: Routed>(&self, way: &Way<'_, A>) -> Hop;
    /// Whether packets are sent as XDP does.
    const XDP: bool = false;
    /// Whether this is the egress of the service device, as a stage sees it.
    #[inline(always)]
    fn at_service_device(&self) -> bool {
        false
    }
    /// Whether packets can come in through the service device.
    const INWARD: bool = false;
    fn source<A: Routed>(&self, to: &A, from: u32) -> Option<A>;
}

/// A family, and where its addresses stand in the kernel's structure.
pub(crate) trait Routed: Ip {
    /// `AF_INET`, `AF_INET6`.
    const AF: u8;
    fn ask(params: &mut bpf_fib_lookup, src: &Self, dst: &Self);
    fn answer(params: &bpf_fib_lookup) -> Self;
}

impl Routed for V4 {
    const AF: u8 = 2;

    #[inline(always)]
    fn ask(params: &mut bpf_fib_lookup, src: &Self, dst: &Self) {
        params.__bindgen_anon_3.ipv4_src = src.0[0];
        params.__bindgen_anon_4.ipv4_dst = dst.0[0];
    }

    #[inline(always)]
    fn answer(params: &bpf_fib_lookup) -> Self {
        // SAFETY: plain bytes, all of them set.
        Self([unsafe { params.__bindgen_anon_3.ipv4_src }])
    }
}

impl Routed for V6 {
    const AF: u8 = 10;

    #[inline(always)]
    fn ask(params: &mut bpf_fib_lookup, src: &Self, dst: &Self) {
        params.__bindgen_anon_3.ipv6_src = src.0;
        params.__bindgen_anon_4.ipv6_dst = dst.0;
    }

    #[inline(always)]
    fn answer(params: &bpf_fib_lookup) -> Self {
        // SAFETY: plain bytes, all of them set.
        Self(unsafe { params.__bindgen_anon_3.ipv6_src })
    }
}

#[inline(always)]
fn look_up(ctx: *mut c_void, params: &mut bpf_fib_lookup, flags: u32) -> i64 {
    let len = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context is this run's own, and the parameters are as long as is said.
    unsafe { generated::bpf_fib_lookup(ctx.cast(), params, len, flags) }
}

#[inline(always)]
fn params<A: Routed>(src: &A, dst: &A, from: u32) -> bpf_fib_lookup {
    // SAFETY: plain bytes, for which all zero is a value.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    params.family = A::AF;
    params.ifindex = from;
    A::ask(&mut params, src, dst);
    params
}

#[inline(always)]
fn find<A: Routed>(ctx: *mut c_void, way: &Way<'_, A>, flags: u32) -> Found {
    let mut params = params(&way.flow.src, &way.flow.dst, way.from);
    params.l4_protocol = way.proto;
    params.sport = way.flow.sport.wire();
    params.dport = way.flow.dport.wire();
    params.__bindgen_anon_1.tot_len = way.len as u16;
    let code = look_up(ctx, &mut params, flags);
    // SAFETY: plain bytes, all of them set: the kernel writes the MTU in the place of the length.
    let mtu = unsafe { params.__bindgen_anon_1.mtu_result };
    Found { code, device: params.ifindex, dst: params.dmac, src: params.smac, mtu }
}

/// Linux 6.7 and newer know the address; an older kernel refuses the flag.
#[inline(always)]
fn source<A: Routed>(ctx: *mut c_void, to: &A, from: u32) -> Option<A> {
    let mut params = params(&A::default(), to, from);
    let code = look_up(ctx, &mut params, BPF_FIB_LOOKUP_SRC | BPF_FIB_LOOKUP_SKIP_NEIGH);
    (code == fib::SUCCESS).then(|| A::answer(&params)).filter(|found| *found != A::default())
}

impl Place for XdpContext {
    const XDP: bool = true;

    #[inline(always)]
    fn hop<A: Routed>(&self, way: &Way<'_, A>) -> Hop {
        let found = find(self.ctx.cast(), way, 0);
        found.at_xdp(way.from, |device| maps::device(device).unwrap_or_default())
    }

    #[inline(always)]
    fn source<A: Routed>(&self, to: &A, from: u32) -> Option<A> {
        source(self.ctx.cast(), to, from)
    }
}

impl Place for TcContext {
    const INWARD: bool = true;

    #[inline(always)]
    fn at_service_device(&self) -> bool {
        skb::at_service_device(self)
    }

    #[inline(always)]
    fn hop<A: Routed>(&self, way: &Way<'_, A>) -> Hop {
        // With a length, since without one the kernel takes all aggregates, and looks at the device alone, not at the route.
        find(self.skb.skb.cast(), way, 0).at_tc(|device| maps::device(device).is_some())
    }

    #[inline(always)]
    fn source<A: Routed>(&self, to: &A, from: u32) -> Option<A> {
        source(self.skb.skb.cast(), to, from)
    }
}

/// No packet, no way.
impl Place for () {
    #[inline(always)]
    fn hop<A: Routed>(&self, _way: &Way<'_, A>) -> Hop {
        Hop::Nowhere
    }

    #[inline(always)]
    fn source<A: Routed>(&self, _to: &A, _from: u32) -> Option<A> {
        None
    }
}
