//! Programs at devices. What should be attached is compared with the pins, so that a start, a new device and a repair
//! are one and the same.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::object::Programs;
use super::sys::Target;
use super::{Attachment, Error, Hook, How, Pins, clsact, pins, sys};
use crate::devices::{Device, Role};

/// How programs are attached at the ingress of NICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, else in the stack, else at TC.
    Native,
    /// In the stack, else at TC.
    Generic,
    /// At TC.
    Off,
}

/// How programs are attached at TC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcMode {
    /// With links, else with filters.
    Tcx,
    /// With filters.
    Clsact,
}

impl XdpMode {
    const fn candidates(self) -> &'static [(Hook, How)] {
        const ALL: [(Hook, How); 2] = [(Hook::Xdp, How::Native), (Hook::Xdp, How::Generic)];
        match self {
            Self::Native => &ALL,
            Self::Generic => ALL.split_at(1).1,
            Self::Off => &[],
        }
    }
}

impl TcMode {
    const fn candidates(self, hook: Hook) -> &'static [(Hook, How)] {
        const INGRESS: [(Hook, How); 2] = [(Hook::TcIngress, How::Tcx), (Hook::TcIngress, How::Clsact)];
        const EGRESS: [(Hook, How); 2] = [(Hook::TcEgress, How::Tcx), (Hook::TcEgress, How::Clsact)];
        let both: &[_] = match hook {
            Hook::TcEgress => &EGRESS,
            Hook::Xdp | Hook::TcIngress => &INGRESS,
        };
        match self {
            Self::Tcx => both,
            Self::Clsact => both.split_at(1).1,
        }
    }
}

/// Keeps programs attached to the devices that need them.
#[derive(Debug)]
pub struct Attacher {
    pins: Pins,
    programs: Programs,
    xdp: XdpMode,
    tc: TcMode,
    /// What runs this agent's programs, not those of the one before.
    ours: BTreeSet<Attachment>,
    notes: BTreeMap<u32, String>,
}

impl Attacher {
    /// For programs that were loaded.
    pub fn new(pins: Pins, programs: Programs, xdp: XdpMode, tc: TcMode) -> Self {
        Self { pins, programs, xdp, tc, ours: BTreeSet::new(), notes: BTreeMap::new() }
    }

    /// The programs that are attached.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Why a device is attached in another way than asked for, or not at all, by its index.
    pub fn notes(&self) -> &BTreeMap<u32, String> {
        &self.notes
    }

    /// The same, to be filled with what an earlier agent knew.
    pub fn notes_mut(&mut self) -> &mut BTreeMap<u32, String> {
        &mut self.notes
    }

    /// Attaches to all of these devices, and to no others. What cannot be attached is in the errors; the rest is.
    pub fn sync(&mut self, devices: &[Device]) -> Vec<Error> {
        let mut errors = Vec::new();
        let pinned = match self.pins.attachments() {
            Ok(pinned) => pinned,
            Err(error) => return vec![error],
        };
        let mut wanted = BTreeSet::new();
        for device in devices {
            // Egress first: no packet is translated whose answer would not be.
            for candidates in self.hooks(device.role) {
                match self.hook(device, &candidates, &pinned) {
                    Ok(attachment) => drop(wanted.insert(attachment)),
                    Err(error) => {
                        self.notes.insert(device.index, error.to_string());
                        errors.push(error);
                    }
                }
            }
        }
        for attachment in pinned.iter().filter(|attachment| !wanted.contains(attachment)) {
            if let Err(error) = self.detach(attachment) {
                errors.push(error);
            }
        }
        self.notes.retain(|index, _| devices.iter().any(|device| device.index == *index));
        self.ours = wanted;
        errors
    }

    /// The hooks of a device: for each, in which ways it may be attached, the best first.
    fn hooks(&self, role: Role) -> Vec<Vec<(Hook, How)>> {
        let (egress, ingress) = (self.tc.candidates(Hook::TcEgress), self.tc.candidates(Hook::TcIngress));
        let xdp = match role {
            Role::Nic => self.xdp.candidates(),
            Role::Pod => &[],
        };
        vec![egress.to_vec(), [xdp, ingress].concat()]
    }

    fn hook(
        &mut self,
        device: &Device,
        candidates: &[(Hook, How)],
        pinned: &[Attachment],
    ) -> Result<Attachment, Error> {
        let of = |&(hook, how): &(Hook, How)| Attachment { index: device.index, role: device.role, hook, how };
        // A way that is not the best is kept where the best is known to fail: trying it again would leave a gap.
        let kept = if self.notes.contains_key(&device.index) { candidates } else { &candidates[..1] };
        for attachment in kept.iter().map(of).filter(|attachment| pinned.contains(attachment)) {
            if self.ours.contains(&attachment) && self.pins.attachment(&attachment).exists() {
                return Ok(attachment);
            }
            match self.adopt(device, &attachment) {
                Ok(true) => return Ok(attachment),
                Ok(false) => self.detach(&attachment)?,
                Err(error) => {
                    self.detach(&attachment)?;
                    tracing::warn!("{error}; attaching anew");
                }
            }
        }
        // Other ways stand in the way, where the kernel takes only one at a time.
        let rest = pinned.iter().filter(|found| found.index == device.index && found.hook == Hook::Xdp);
        for attachment in rest.filter(|_| candidates.iter().any(|(hook, _)| *hook == Hook::Xdp)) {
            self.detach(attachment)?;
        }
        let mut reasons = Vec::new();
        for attachment in candidates.iter().map(of) {
            match self.attach(device, &attachment) {
                Ok(()) => {
                    match reasons.is_empty() {
                        true => drop(self.notes.remove(&device.index)),
                        false => drop(self.notes.insert(device.index, reasons.join("; "))),
                    }
                    return Ok(attachment);
                }
                Err(error) => reasons.push(format!("{}: {}", attachment.how.title(), why(&error))),
            }
        }
        let program = candidates.last().map_or("a program", |(hook, _)| hook.program());
        Err(Error::Attach { program, target: device.name.clone(), reason: reasons.join("; ") })
    }

    /// Swaps the program of what an earlier agent attached. False where its device is gone.
    fn adopt(&mut self, device: &Device, attachment: &Attachment) -> Result<bool, Error> {
        if attachment.how == How::Clsact {
            return clsact::replace(self.programs.ebpf(), &device.name, attachment.hook)
                .map(|()| true)
                .map_err(|error| failed(attachment, device, &error));
        }
        let path = self.pins.attachment(attachment);
        let swap = || -> io::Result<bool> {
            let link = sys::open(&path)?;
            if sys::link_target(link.as_fd())? != u64::from(device.index) {
                return Ok(false);
            }
            let program = self.program(attachment.hook)?;
            sys::swap(link.as_fd(), program).map(|()| true)
        };
        swap().map_err(|error| failed(attachment, device, &error))
    }

    fn attach(&mut self, device: &Device, attachment: &Attachment) -> io::Result<()> {
        let path = self.pins.attachment(attachment);
        let index = device.index;
        let target = match (attachment.how, attachment.hook) {
            (How::Native, _) => Target::XdpNative(index),
            (How::Generic, _) => Target::XdpGeneric(index),
            (How::Tcx, Hook::TcEgress) => Target::TcxEgress(index),
            (How::Tcx, _) => Target::TcxIngress(index),
            (How::Clsact, hook) => {
                clsact::attach(self.programs.ebpf(), &device.name, hook)?;
                // A filter is no object that could be pinned: the pin of its program says that it is there.
                return sys::pin(self.program(hook)?, &path);
            }
        };
        let link = sys::attach(self.program(attachment.hook)?, target)?;
        sys::pin(link.as_fd(), &path)
    }

    fn detach(&mut self, attachment: &Attachment) -> Result<(), Error> {
        self.ours.remove(attachment);
        detach(&self.pins, attachment)
    }

    fn program(&self, hook: Hook) -> io::Result<BorrowedFd<'_>> {
        self.programs.get(hook.program()).map_err(io::Error::other)
    }
}

/// Detaches what is pinned, whoever attached it.
pub(super) fn detach(pins: &Pins, attachment: &Attachment) -> Result<(), Error> {
    if attachment.how == How::Clsact
        && let Some(device) = sys::device_name(attachment.index)
    {
        clsact::detach(&device, attachment.hook).map_err(|error| Error::Attach {
            program: attachment.hook.program(),
            target: device.clone(),
            reason: format!("the old filter cannot be removed: {error}"),
        })?;
    }
    pins::unlink(&pins.attachment(attachment))
}

fn failed(attachment: &Attachment, device: &Device, error: &io::Error) -> Error {
    Error::Attach { program: attachment.hook.program(), target: device.name.clone(), reason: why(error) }
}

/// The kernel's answer, and what it means here.
fn why(error: &io::Error) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver or the kernel cannot do it",
        Some(libc::EBUSY | libc::EEXIST) => "another program is there",
        Some(libc::ERANGE | libc::E2BIG) => "the device's MTU or offloads are too large for it",
        Some(libc::ENODEV) => "the device is gone",
        _ => return error.to_string(),
    };
    format!("{meaning} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_of_an_option_are_tried_from_the_best_to_the_simplest() {
        let ways = |list: &[(Hook, How)]| list.iter().map(|(_, how)| how.label()).collect::<Vec<_>>();
        assert_eq!(ways(XdpMode::Native.candidates()), ["native", "generic"]);
        assert_eq!(ways(XdpMode::Generic.candidates()), ["generic"]);
        assert!(XdpMode::Off.candidates().is_empty());
        for hook in [Hook::TcIngress, Hook::TcEgress] {
            assert_eq!(ways(TcMode::Tcx.candidates(hook)), ["tcx", "clsact"]);
            assert_eq!(ways(TcMode::Clsact.candidates(hook)), ["clsact"]);
            assert!(TcMode::Tcx.candidates(hook).iter().all(|(at, _)| *at == hook));
        }
    }
}
