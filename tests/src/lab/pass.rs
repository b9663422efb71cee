//! Programs that let everything pass.
//!
//! One at XDP is part of the lab's wire: a veth delivers what XDP at its other end sends back (`XDP_TX`) only where it has an XDP program itself: else the
//! frames wait in its ring (the kernel's `veth_xdp_flush`). A wire has no such rule, so the lab adds the program. To
//! Sluice on the node, such a program is someone else's.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use super::Netns;

/// Commands, types and flags of linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_EGRESS: u32 = 47;
const XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_DRIVER_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS; exit`.
const XDP: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
/// `r0 = TCX_NEXT; exit`.
const TCX: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
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

/// The program on one device; it is detached on drop.
#[derive(Debug)]
pub struct Pass {
    _link: OwnedFd,
}

impl Pass {
    /// Attaches the program to XDP of `device` in `ns`, in the driver.
    pub fn xdp(ns: &Netns, device: &str) -> Result<Self> {
        let load = Load {
            prog_type: PROG_TYPE_XDP,
            insns: XDP.as_ptr().addr() as u64,
            prog_flags: XDP_HAS_FRAGS,
            expected_attach_type: ATTACH_XDP,
            ..Load::default()
        };
        Self::attach(ns, device, &load, XDP_DRIVER_MODE)
    }

    /// Attaches a program to TC egress of `device` in `ns`, beside those that are there.
    pub fn tcx_egress(ns: &Netns, device: &str) -> Result<Self> {
        let load = Load {
            prog_type: PROG_TYPE_SCHED_CLS,
            insns: TCX.as_ptr().addr() as u64,
            expected_attach_type: ATTACH_TCX_EGRESS,
            ..Load::default()
        };
        Self::attach(ns, device, &load, 0)
    }

    fn attach(ns: &Netns, device: &str, load: &Load, flags: u32) -> Result<Self> {
        let load = Load { insn_cnt: XDP.len() as u32, license: c"GPL".as_ptr().addr() as u64, ..*load };
        ns.run(|| {
            let program = bpf(PROG_LOAD, &load).context("cannot load a program")?;
            let link = Link {
                prog_fd: program.as_raw_fd(),
                target_ifindex: nix::net::if_::if_nametoindex(device).with_context(|| format!("no device {device}"))?,
                attach_type: load.expected_attach_type,
                flags,
            };
            let link = bpf(LINK_CREATE, &link).with_context(|| format!("cannot attach a program to {device}"))?;
            Ok(Self { _link: link })
        })
    }
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` of the given size, which the kernel fills up with zeros; the
    // addresses in it point to constants.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
