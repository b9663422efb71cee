//! Programs at devices. What should be attached is compared with the pins, so that a start, a new device and a repair
//! are one and the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::devices::Places;
use super::object::Programs;
use super::sys::Target;
use super::{Attachment, Error, Hook, How, Note, Pins, TcMode, XdpMode, clsact, pins, sys};
use crate::devices::{Device, Role};

/// How often a link is tried again that the kernel has not let go of yet.
const RELEASE_TRIES: u32 = 40;
/// And after this time.
const RELEASE_PAUSE: Duration = Duration::from_millis(5);

/// Keeps programs attached to the devices that need them.
#[derive(Debug)]
pub struct Attacher {
    pins: Pins,
    programs: Programs,
    xdp: XdpMode,
    tc: TcMode,
    /// What runs this agent's programs, not those of the one before.
    ours: BTreeSet<Attachment>,
    notes: BTreeMap<u32, Note>,
    /// Opened once: pins may be out of reach later.
    places: Option<Places>,
    /// Devices that take no program before the stack.
    without_xdp: BTreeSet<u32>,
    repairs: u64,
}

impl Attacher {
    /// For programs that were loaded.
    pub fn new(pins: Pins, programs: Programs, xdp: XdpMode, tc: TcMode) -> Self {
        let (ours, notes, without_xdp) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Self { pins, programs, xdp, tc, ours, notes, places: None, without_xdp, repairs: 0 }
    }

    /// Has all that is attached to devices run other programs, as soon as it is told to sync.
    pub fn replace(&mut self, programs: Programs) {
        self.programs.replace(programs);
        self.ours.clear();
    }

    /// Whether all that is pinned runs these programs.
    ///
    /// # Errors
    /// Something runs others, or the pins cannot be listed.
    pub fn run_everywhere(&self) -> Result<(), Error> {
        match self.pins.attachments()?.iter().find(|attachment| !self.ours.contains(attachment)) {
            None => Ok(()),
            Some(other) => Err(Error::Attach {
                program: other.hook.program(),
                target: sys::device_name(other.index).unwrap_or_else(|| format!("device {}", other.index)),
                reason: "the one that was there before stays".to_owned(),
            }),
        }
    }

    /// The programs that are attached.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// What is attached, as [`Attacher::sync`] last left it.
    pub fn attachments(&self) -> &BTreeSet<Attachment> {
        &self.ours
    }

    /// Why a device is attached in another way than asked for, or not at all, by its index.
    pub fn notes(&self) -> &BTreeMap<u32, Note> {
        &self.notes
    }

    /// The same, to be filled with what an earlier agent knew.
    pub fn notes_mut(&mut self) -> &mut BTreeMap<u32, Note> {
        &mut self.notes
    }

    /// How often something was attached no more, or no longer pinned.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Attaches to all of these devices, and to no others. What cannot be attached is in the errors; the rest is.
    pub fn sync(&mut self, devices: &[Device]) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut pinned = match self.pins.attachments() {
            Ok(pinned) => pinned,
            Err(error) => return vec![error],
        };
        // Programs that take pods for strangers would do harm.
        if let Err(error) = self.places().and_then(|places| places.tell(devices)) {
            return vec![error];
        }
        self.follow_roles(devices, &mut pinned, &mut errors);
        self.miss(devices, &pinned);
        let (mut wanted, mut failed) = (BTreeSet::new(), BTreeSet::new());
        for device in devices {
            let hooks = self.hooks(device.role);
            if !hooks.iter().flat_map(|candidates| candidates.iter()).any(|(hook, _)| *hook == Hook::Xdp) {
                // Nothing to excuse: it is not asked for.
                self.notes.entry(device.index).or_default().xdp = None;
            }
            for candidates in hooks {
                match self.hook(device, candidates, &pinned) {
                    Ok(attachment) => wanted.extend(attachment),
                    Err(error) => {
                        failed.extend(candidates.iter().map(|(hook, _)| (device.index, *hook)));
                        *self.note(device, candidates) = Some(error.to_string());
                        errors.push(error);
                    }
                }
            }
        }
        for attachment in pinned.iter().filter(|attachment| !wanted.contains(attachment)) {
            // What is there still is better than nothing.
            if failed.contains(&(attachment.index, attachment.hook)) {
                continue;
            }
            if let Err(error) = self.detach(attachment) {
                errors.push(error);
            }
        }
        errors.extend(self.places().and_then(|places| places.settle(devices, &wanted)).err());
        self.without_xdp.retain(|index| devices.iter().any(|found| found.index == *index));
        self.notes.retain(|index, note| *note != Note::default() && devices.iter().any(|found| found.index == *index));
        self.ours = wanted;
        errors
    }

    fn places(&mut self) -> Result<&mut Places, Error> {
        let places = match self.places.take() {
            Some(places) => places,
            None => Places::open(&self.pins)?,
        };
        Ok(self.places.insert(places))
    }

    /// Where a device is now something else, what is attached to it stays, under the name that this has now.
    fn follow_roles(&mut self, devices: &[Device], pinned: &mut Vec<Attachment>, errors: &mut Vec<Error>) {
        let roles: BTreeMap<_, _> = devices.iter().map(|device| (device.index, device.role)).collect();
        for attachment in &mut *pinned {
            let Some(&role) = roles.get(&attachment.index).filter(|role| **role != attachment.role) else { continue };
            let renamed = Attachment { role, ..*attachment };
            let path = self.pins.attachment(attachment);
            if let Err(source) = fs::rename(&path, self.pins.attachment(&renamed)) {
                errors.push(Error::file("rename", &path, source));
                continue;
            }
            if self.ours.remove(attachment) {
                self.ours.insert(renamed);
            }
            *attachment = renamed;
        }
        pinned.sort_unstable();
        pinned.dedup();
    }

    /// Counts what was attached and whose pin is gone, and with it the program: it will be attached anew.
    fn miss(&mut self, devices: &[Device], pinned: &[Attachment]) {
        for missing in self.ours.iter().filter(|attachment| !pinned.contains(attachment)) {
            let Some(device) = devices.iter().find(|device| device.index == missing.index) else { continue };
            tracing::warn!("the pin of {} at {} was removed", missing.hook.program(), device.name);
            self.repairs += 1;
        }
    }

    /// The hooks of a device: for each, in which ways it may be attached, the best first.
    /// Egress first: no packet is translated whose answer would not be. XDP last: it leaves packets to the program at TC.
    fn hooks(&self, role: Role) -> Vec<&'static [(Hook, How)]> {
        let (egress, ingress) = (self.tc.candidates(Hook::TcEgress), self.tc.candidates(Hook::TcIngress));
        let xdp = match role {
            Role::Nic => self.xdp.candidates(),
            Role::Pod | Role::Overlay | Role::Vlan => &[],
            // What comes in through it was translated before.
            Role::Service => return vec![self.tc.candidates(Hook::TcService)],
            Role::Loopback => return vec![self.tc.candidates(Hook::TcLoopback)],
        };
        [egress, ingress, xdp].into_iter().filter(|candidates| !candidates.is_empty()).collect()
    }

    fn note(&mut self, device: &Device, candidates: &[(Hook, How)]) -> &mut Option<String> {
        self.notes.entry(device.index).or_default().side(candidates[0].0)
    }

    /// Attaches in the best way that the kernel takes; `None` where it takes none and can do without.
    fn hook(
        &mut self,
        device: &Device,
        candidates: &[(Hook, How)],
        pinned: &[Attachment],
    ) -> Result<Option<Attachment>, Error> {
        let of = |&(hook, how): &(Hook, How)| Attachment { index: device.index, role: device.role, hook, how };
        // A way that is not the best is kept where the best is known to fail: trying it again would leave a gap.
        let known = self.note(device, candidates).is_some();
        let kept = if known { candidates } else { &candidates[..1] };
        for (i, attachment) in kept.iter().map(of).enumerate() {
            if pinned.contains(&attachment) && self.keep(device, &attachment)? {
                if i == 0 {
                    *self.note(device, candidates) = None;
                }
                return Ok(Some(attachment));
            }
        }
        let optional = candidates.iter().all(|(hook, _)| *hook == Hook::Xdp);
        if optional && self.without_xdp.contains(&device.index) {
            return Ok(None);
        }
        // Other ways stand in the way, where the kernel takes only one at a time.
        let rest = pinned.iter().filter(|found| found.index == device.index && found.hook == Hook::Xdp);
        for attachment in rest.filter(|_| candidates.iter().any(|(hook, _)| *hook == Hook::Xdp)) {
            self.detach(attachment)?;
        }
        let mut reasons = Vec::new();
        for attachment in candidates.iter().map(of) {
            let there = pinned.contains(&attachment) && self.keep(device, &attachment)?;
            match if there { Ok(()) } else { self.attach(device, &attachment) } {
                Ok(()) => {
                    *self.note(device, candidates) = Some(reasons.join("; ")).filter(|text| !text.is_empty());
                    return Ok(Some(attachment));
                }
                Err(error) => reasons.push(format!("{}: {}", attachment.how.title(), why(attachment.hook, &error))),
            }
        }
        if optional {
            // Each try stops some drivers for a moment.
            self.without_xdp.insert(device.index);
            *self.note(device, candidates) = Some(reasons.join("; "));
            return Ok(None);
        }
        let program = candidates.last().map_or("a program", |(hook, _)| hook.program());
        Err(Error::Attach { program, target: device.name.clone(), reason: reasons.join("; ") })
    }

    /// Whether what is pinned is attached, and runs this agent's program from now on. What is not is removed.
    fn keep(&mut self, device: &Device, attachment: &Attachment) -> Result<bool, Error> {
        if !self.pins.attachment(attachment).exists() {
            return Ok(false);
        }
        match self.adopt(device, attachment) {
            Ok(true) => return Ok(true),
            Ok(false) => tracing::warn!("{} was detached from {}", attachment.hook.program(), device.name),
            Err(error) => tracing::warn!("{}; attaching anew", failed(attachment, device, &error)),
        }
        self.repairs += 1;
        self.detach(attachment).map(|()| false)
    }

    /// False where it is attached no more.
    fn adopt(&mut self, device: &Device, attachment: &Attachment) -> io::Result<bool> {
        let path = self.pins.attachment(attachment);
        let ours = self.ours.contains(attachment);
        if attachment.how == How::Clsact {
            // To replace a filter by itself is the one question to the kernel that also mends it.
            match clsact::replace(self.programs.ebpf(), &device.name, attachment.hook) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                result => result?,
            }
            return if ours { Ok(true) } else { pins::repin(self.program(attachment.hook)?, &path).map(|()| true) };
        }
        let link = sys::open(&path)?;
        if sys::link_target(link.as_fd())? != u64::from(device.index) {
            return Ok(false);
        }
        if ours { Ok(true) } else { sys::swap(link.as_fd(), self.program(attachment.hook)?).map(|()| true) }
    }

    fn attach(&mut self, device: &Device, attachment: &Attachment) -> io::Result<()> {
        let path = self.pins.attachment(attachment);
        let index = device.index;
        let target = match (attachment.how, attachment.hook) {
            (How::Native, _) => Target::XdpNative(index),
            (How::Generic, _) => Target::XdpGeneric(index),
            (How::Tcx, Hook::TcEgress | Hook::TcService | Hook::TcLoopback) => Target::TcxEgress(index),
            (How::Tcx, _) => Target::TcxIngress(index),
            (How::Clsact, hook) => {
                clsact::attach(self.programs.ebpf(), &device.name, hook)?;
                // A filter is no object that could be pinned: the pin of its program says that it is there.
                let pinned = pins::repin(self.program(hook)?, &path);
                // Without a pin nobody would ever remove it.
                return pinned.inspect_err(|_| drop(clsact::detach(&device.name, hook)));
            }
        };
        let program = self.program(attachment.hook)?;
        // Where only the pin was removed, the kernel takes a moment to let go of what it held.
        let mut tries = if self.ours.contains(attachment) { RELEASE_TRIES } else { 0 };
        let link = loop {
            match sys::attach(program, target) {
                Err(error) if tries > 0 && matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                    tries -= 1;
                    std::thread::sleep(RELEASE_PAUSE);
                }
                result => break result?,
            }
        };
        pins::repin(link.as_fd(), &path)
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
    Error::Attach {
        program: attachment.hook.program(),
        target: device.name.clone(),
        reason: why(attachment.hook, error),
    }
}

/// The kernel's answer, and what it means here.
fn why(hook: Hook, error: &io::Error) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver or the kernel cannot do it",
        Some(libc::EBUSY | libc::EEXIST) => "another program is there",
        // XDP says so of frames that do not fit a page, tcx of the 63 programs that a device takes.
        Some(libc::ERANGE | libc::E2BIG) if hook != Hook::Xdp => "the device takes no more programs",
        Some(libc::ERANGE | libc::E2BIG) => "the device's MTU or offloads are too large for it",
        Some(libc::ENODEV) => "the device is gone",
        _ => return error.to_string(),
    };
    format!("{meaning} ({error})")
}
