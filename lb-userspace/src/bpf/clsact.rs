//! Filters of a clsact qdisc: the way to TC on kernels without tcx.

use std::io;

use aya::Ebpf;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::Hook;
use super::error::chain;

// Fixed, so that a new agent finds and replaces the filter. Priority 1 comes before all others.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x51);

fn kind(hook: Hook) -> TcAttachType {
    match hook {
        Hook::TcEgress | Hook::TcService | Hook::TcLoopback => TcAttachType::Egress,
        Hook::Xdp | Hook::TcIngress => TcAttachType::Ingress,
    }
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> io::Result<&mut SchedClassifier> {
    let program = ebpf.program_mut(hook.program()).ok_or_else(|| io::Error::other("the object lacks the program"))?;
    program.try_into().map_err(other)
}

fn other(error: impl std::error::Error) -> io::Error {
    io::Error::other(chain(&error))
}

/// Adds the filter, and the qdisc where there is none. A filter of ours that is there, such as a killed agent left
/// without a pin, is replaced.
pub(super) fn attach(ebpf: &mut Ebpf, device: &str, hook: Hook) -> io::Result<()> {
    if replace(ebpf, device, hook).is_ok() {
        return Ok(());
    }
    // It fails where the qdisc is there already, which is well; if it failed for another reason, so will the filter.
    let _ = tc::qdisc_add_clsact(device);
    let program = program(ebpf, hook)?;
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let id = program.attach_with_options(device, kind(hook), TcAttachOptions::Netlink(options)).map_err(other)?;
    keep(program.take_link(id).map_err(other)?);
    Ok(())
}

/// Swaps the program of the filter.
///
/// # Errors
/// `NotFound` where there is no such filter.
pub(super) fn replace(ebpf: &mut Ebpf, device: &str, hook: Hook) -> io::Result<()> {
    let program = program(ebpf, hook)?;
    let link = SchedClassifierLink::attached(device, kind(hook), PRIORITY, HANDLE, None)?;
    let id = program.attach_to_link(link).map_err(missing)?;
    keep(program.take_link(id).map_err(other)?);
    Ok(())
}

/// The kernel says ENOENT where the filter is missing, EINVAL where its qdisc is.
fn missing(error: ProgramError) -> io::Error {
    match &error {
        ProgramError::TcError(tc::TcError::NetlinkError(cause))
            if matches!(cause.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) =>
        {
            io::Error::new(io::ErrorKind::NotFound, other(error))
        }
        _ => other(error),
    }
}

/// Removes the filter; the qdisc stays, since others may use it.
pub(super) fn detach(device: &str, hook: Hook) -> io::Result<()> {
    match tc::qdisc_detach_program(device, kind(hook), hook.program()) {
        Err(tc::TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(other),
    }
}

/// Dropping it would detach the filter. It holds nothing else.
fn keep(link: SchedClassifierLink) {
    std::mem::forget(link);
}
