//! Programs of the lab's own, of a few instructions: loaded and attached by the system call itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use super::Netns;

/// One as the kernel takes it (RFC 9669).
pub(super) type Instruction = [u8; 8];

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// XDP, in the driver.
    Xdp,
    /// TC, as packets come in, before the programs that are there.
    IngressFirst,
    /// TC, as packets come in, behind the programs that are there.
    IngressLast,
    /// TC, as packets go out, behind the programs that are there.
    Egress,
}

/// Commands, types and flags of linux/bpf.h.
const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const MAP_TYPE_PERF_EVENT_ARRAY: u32 = 4;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_TCX_EGRESS: u32 = 47;
const XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_DRIVER_MODE: u32 = 1 << 2;
const BEFORE: u32 = 1 << 3;
const TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// The beginning of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct Map {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The same for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct Link {
    prog_fd: i32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The same for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: i32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u64,
}

/// Loads a program and attaches it to `device` in `ns`, where it is until the descriptor is closed.
pub(super) fn attach(ns: &Netns, device: &str, hook: Hook, program: &[Instruction]) -> Result<OwnedFd> {
    let (prog_type, attach_type, prog_flags, flags) = match hook {
        Hook::Xdp => (PROG_TYPE_XDP, ATTACH_XDP, XDP_HAS_FRAGS, XDP_DRIVER_MODE),
        Hook::IngressFirst => (PROG_TYPE_SCHED_CLS, ATTACH_TCX_INGRESS, 0, BEFORE),
        Hook::IngressLast => (PROG_TYPE_SCHED_CLS, ATTACH_TCX_INGRESS, 0, 0),
        Hook::Egress => (PROG_TYPE_SCHED_CLS, ATTACH_TCX_EGRESS, 0, 0),
    };
    let mut load = Load {
        prog_type,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        prog_flags,
        expected_attach_type: attach_type,
        ..Load::default()
    };
    ns.run(|| {
        let program = bpf(PROG_LOAD, &mut load).context("cannot load a program")?;
        let target_ifindex = nix::net::if_::if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        let mut link = Link { prog_fd: program.as_raw_fd(), target_ifindex, attach_type, flags };
        bpf(LINK_CREATE, &mut link).with_context(|| format!("cannot attach a program to {device}"))
    })
}

/// A map through which programs tell events, with room for so many CPUs.
pub(super) fn events(cpus: u32) -> Result<OwnedFd> {
    let mut map = Map { map_type: MAP_TYPE_PERF_EVENT_ARRAY, key_size: 4, value_size: 4, max_entries: cpus };
    bpf(MAP_CREATE, &mut map).context("cannot make a map")
}

/// Runs a program at TC on a packet whose bytes are summed up (`CHECKSUM_COMPLETE`), with `room` to become longer: what it returned,
/// and the packet. Where the sum is not that of the bytes any more the kernel says so, by `EBADMSG` (Linux 6.11).
pub(crate) fn run_summed(program: BorrowedFd<'_>, frame: &[u8], room: usize) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0; frame.len() + room];
    let mut run = TestRun {
        prog_fd: program.as_raw_fd(),
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: frame.as_ptr().addr() as u64,
        data_out: out.as_mut_ptr().expose_provenance() as u64,
        flags: TEST_SKB_CHECKSUM_COMPLETE,
        ..TestRun::default()
    };
    call(PROG_TEST_RUN, &mut run)?;
    out.truncate(run.data_size_out as usize);
    Ok((run.retval, out))
}

/// A command that returns a descriptor.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the commands that come here return a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` of the given size, which the kernel fills up with zeros; the
    // addresses in it point to what outlives the call, with the lengths beside them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
