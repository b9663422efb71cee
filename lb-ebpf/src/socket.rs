//! Sockets at the cgroup hooks.

use core::arch::asm;
use core::marker::PhantomData;

use aya_ebpf::bindings::{BPF_TCP_ESTABLISHED, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use lb_common::ip::{Be16, Ip, V4, V6};
use lb_common::packet::proto;
use lb_common::socket::{self, Decision, Socket as _};
use lb_common::tables::{Tables, socket_path};

use crate::maps::{self, Maps};
use crate::tables::Kernel;

/// Let the call go on.
const ALLOW: i32 = 1;
/// End the call with the error set, or EPERM.
const DENY: i32 = 0;
/// `ECONNREFUSED`.
const REFUSED: i32 = -111;

/// IPv4 addresses in IPv6 sockets begin so (RFC 4291, 2.5.5.2): `::ffff:0:0/96`.
const MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// What the program returns. The kernel wants to see that it is one of these two: the compiler may have it in a register
/// whose bounds are lost.
#[inline(always)]
pub(crate) fn answer(mut result: i32) -> i32 {
    // SAFETY: the instruction touches this register only.
    unsafe { asm!("{result} &= 1", result = inout(wreg) result) };
    result
}

/// The address that a process named, in a call of one family.
pub(crate) struct Socket<A>(*mut bpf_sock_addr, PhantomData<A>);

impl<A> Socket<A> {
    #[inline(always)]
    pub(crate) const fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr, PhantomData)
    }

    #[inline(always)]
    fn port(&self) -> Be16 {
        // SAFETY: the context is this run's own.
        Be16::from_wire(unsafe { (*self.0).user_port } as u16)
    }

    #[inline(always)]
    fn set_port(&self, port: Be16) {
        // SAFETY: as above; the kernel lets these hooks write the field.
        unsafe { (*self.0).user_port = u32::from(port.wire()) };
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: as above.
        unsafe { (*self.0).protocol as u8 }
    }

    /// Whether the socket has one peer.
    #[inline(always)]
    fn is_connected(&self) -> bool {
        // SAFETY: as above; the kernel lets these hooks read the socket's state, and there is always a socket.
        unsafe { (*(*self.0).__bindgen_anon_1.sk).state == BPF_TCP_ESTABLISHED }
    }
}

impl<A> socket::Socket for Socket<A> {
    #[inline(always)]
    fn cookie(&self) -> [u32; 2] {
        // SAFETY: the context is this run's own.
        split(unsafe { bpf_get_socket_cookie(self.0.cast()) })
    }

    #[inline(always)]
    fn is_host(&self) -> bool {
        // SAFETY: as above.
        maps::config().is_some_and(|config| split(unsafe { bpf_get_netns_cookie(self.0.cast()) }) == config.netns)
    }
}

#[inline(always)]
const fn split(cookie: u64) -> [u32; 2] {
    [cookie as u32, (cookie >> 32) as u32]
}

/// Calls of a family: where the address stands, and whose it is.
pub(crate) trait Call: Maps {
    fn get(ctx: *mut bpf_sock_addr) -> Self;
    fn set(ctx: *mut bpf_sock_addr, addr: Self);
    /// The IPv4 address that an IPv6 socket holds.
    fn mapped(self) -> Option<V4>;
    /// The inverse of `mapped`.
    fn map(addr: V4) -> Self;
}

impl Call for V4 {
    #[inline(always)]
    fn get(ctx: *mut bpf_sock_addr) -> Self {
        // SAFETY: the context is the run's own.
        Self([unsafe { (*ctx).user_ip4 }])
    }
    #[inline(always)]
    fn set(ctx: *mut bpf_sock_addr, addr: Self) {
        // SAFETY: as above; the kernel lets these hooks write the field.
        unsafe { (*ctx).user_ip4 = addr.0[0] };
    }
    #[inline(always)]
    fn mapped(self) -> Option<V4> {
        None
    }
    #[inline(always)]
    fn map(addr: V4) -> Self {
        addr
    }
}

impl Call for V6 {
    #[inline(always)]
    fn get(ctx: *mut bpf_sock_addr) -> Self {
        // SAFETY: the context is the run's own. Word by word: the kernel knows no larger load here.
        Self(core::array::from_fn(|i| unsafe { (&raw const (*ctx).user_ip6[i]).read_volatile() }))
    }
    #[inline(always)]
    fn set(ctx: *mut bpf_sock_addr, addr: Self) {
        for (i, word) in addr.0.into_iter().enumerate() {
            // SAFETY: as above; the kernel lets these hooks write the field.
            unsafe { (&raw mut (*ctx).user_ip6[i]).write_volatile(word) };
        }
    }
    #[inline(always)]
    fn mapped(self) -> Option<V4> {
        let [a, b, c, v4] = self.0;
        ([a, b, c] == MAPPED).then_some(V4([v4]))
    }
    #[inline(always)]
    fn map(addr: V4) -> Self {
        let [a, b, c] = MAPPED;
        Self([a, b, c, addr.0[0]])
    }
}

/// `connect`: leads the socket to a backend.
#[inline(always)]
pub(crate) fn connect<A: Call>(call: &Socket<A>) -> i32 {
    forward(call, true)
}

/// `sendmsg`: leads the datagram to a backend.
#[inline(always)]
pub(crate) fn send<A: Call>(call: &Socket<A>) -> i32 {
    forward(call, call.is_connected())
}

#[inline(always)]
fn forward<A: Call>(call: &Socket<A>, lasting: bool) -> i32 {
    let path = maps::config().map_or(socket_path::OFF, |config| config.socket_path);
    if !matches!(call.protocol(), proto::TCP | proto::UDP) || path == socket_path::OFF {
        return ALLOW;
    }
    let (addr, host_only) = (A::get(call.0), path == socket_path::HOST);
    match addr.mapped() {
        None => lead(call, lasting, host_only, addr, |addr| addr),
        Some(v4) => lead(call, lasting, host_only, v4, A::map),
    }
}

#[inline(always)]
fn lead<A: Call, B: Ip>(call: &Socket<A>, lasting: bool, host_only: bool, addr: B, into: impl Fn(B) -> A) -> i32
where
    Kernel<()>: Tables<B>,
{
    let called = socket::Call { addr, port: call.port(), proto: call.protocol(), lasting, host_only };
    match socket::forward(&mut Kernel::<()>(()), call, &called, crate::now) {
        Decision::Pass => ALLOW,
        Decision::To(backend) => {
            A::set(call.0, into(backend.addr));
            call.set_port(backend.port);
            ALLOW
        }
        Decision::Refuse => {
            // SAFETY: the helper takes a number; the kernel offers it to these hooks.
            unsafe { bpf_set_retval(REFUSED) };
            DENY
        }
    }
}

/// `recvmsg` and `getpeername`: shows the frontend that the socket called.
#[inline(always)]
pub(crate) fn backward<A: Call>(call: &Socket<A>) -> i32 {
    let addr = A::get(call.0);
    match addr.mapped() {
        None => show(call, addr, |addr| addr),
        Some(v4) => show(call, v4, A::map),
    }
    ALLOW
}

#[inline(always)]
fn show<A: Call, B: Ip>(call: &Socket<A>, addr: B, into: impl Fn(B) -> A)
where
    Kernel<()>: Tables<B>,
{
    if let Some(peer) = socket::backward(&Kernel::<()>(()), call.cookie(), addr, call.port()) {
        A::set(call.0, into(peer.addr));
        call.set_port(peer.port);
    }
}
