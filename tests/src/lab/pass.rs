//! Programs that let everything pass.
//!
//! One at XDP is part of the lab's wire: a veth delivers what XDP at its other end sends back (`XDP_TX`) only where it has an XDP program itself: else the
//! frames wait in its ring (the kernel's `veth_xdp_flush`). A wire has no such rule, so the lab adds the program. To
//! Sluice on the node, such a program is someone else's.

use std::os::fd::OwnedFd;

use anyhow::Result;

use super::Netns;
use super::bpf::{self, Hook, Instruction};

/// `r0 = XDP_PASS; exit`.
const XDP: [Instruction; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
/// `r0 = TCX_NEXT; exit`.
const TCX: [Instruction; 2] = [[0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The program on one device; it is detached on drop.
#[derive(Debug)]
pub struct Pass {
    _link: OwnedFd,
}

impl Pass {
    /// Attaches the program to XDP of `device` in `ns`, in the driver.
    pub fn xdp(ns: &Netns, device: &str) -> Result<Self> {
        Ok(Self { _link: bpf::attach(ns, device, Hook::Xdp, &XDP)? })
    }

    /// Attaches a program to TC egress of `device` in `ns`, beside those that are there.
    pub fn tcx_egress(ns: &Netns, device: &str) -> Result<Self> {
        Ok(Self { _link: bpf::attach(ns, device, Hook::Egress, &TCX)? })
    }
}
