//! Taking everything away again.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::{Error, Hook, How, Pins, clsact, pins, sys};

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Programs at devices.
    pub devices: usize,
    /// Programs at sockets.
    pub sockets: usize,
    /// Folders of layouts.
    pub layouts: usize,
}

/// How long answers may be on their way when nothing more is led to backends.
const ANSWERS: Duration = Duration::from_millis(200);

/// Detaches all programs, whichever agent attached them, and removes all pins.
///
/// # Errors
/// An agent runs, or a pin or a filter cannot be removed.
pub fn uninstall(pins: &Pins) -> Result<Removed, Error> {
    let mut removed = Removed::default();
    let _lock = if pins.root().exists() { Some(pins.lock()?) } else { None };
    for layout in pins.layouts(false)? {
        let links = layout.join("links");
        for name in pins::sockets(&links)? {
            pins::unlink(&links.join(format!("{}{name}", pins::SOCKET)))?;
            removed.sockets += 1;
        }
        let (egress, ingress): (Vec<_>, _) =
            pins::attachments(&links)?.into_iter().partition(|attachment| attachment.hook == Hook::TcEgress);
        for (at, attachment) in ingress.iter().chain(&egress).enumerate() {
            // Egress last: until then what was asked before is still answered.
            if at == ingress.len() {
                thread::sleep(ANSWERS);
            }
            if attachment.how == How::Clsact
                && let Some(device) = sys::device_name(attachment.index)
            {
                let failed = |source| Error::file("remove the filter of", Path::new(&device), source);
                clsact::detach(&device, attachment.hook).map_err(failed)?;
            }
            pins::unlink(&links.join(attachment.to_string()))?;
            removed.devices += 1;
        }
        remove(&layout)?;
        removed.layouts += 1;
    }
    if removed.layouts > 0 {
        // Where the root is the bpffs itself, or holds others' pins, it stays.
        let _ = fs::remove_dir(pins.root());
    }
    Ok(removed)
}

/// Removes what agents of other layouts pinned and nobody took over. To be called when this one's programs are attached.
///
/// # Errors
/// A pin cannot be removed.
pub fn remove_older_layouts(pins: &Pins) -> Result<Vec<PathBuf>, Error> {
    let older = pins.layouts(true)?;
    // The filter of a clsact qdisc has one name in all layouts: ours has replaced it already.
    older.iter().try_for_each(|layout| remove(layout))?;
    Ok(older)
}

fn remove(layout: &Path) -> Result<(), Error> {
    let links = layout.join("links");
    for name in pins::names(&links)? {
        pins::unlink(&links.join(name))?;
    }
    fs::remove_dir_all(layout).map_err(|source| Error::file("remove", layout, source))
}
