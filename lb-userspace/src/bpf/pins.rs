//! The folder of pins: `<root>/v<layout>/{maps,links,programs}` on a bpffs. What is pinned there outlives the agent.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lb_common::tables::LAYOUT;

use super::{Error, Hook, How, sys};
use crate::devices::Role;

/// Held for as long as an agent keeps the pins.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is there to be dropped")] File);

/// Where maps, links and programs of this layout are pinned.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Below a folder on a bpffs.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder of all layouts.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn layout(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT}"))
    }

    /// The folder of the maps.
    pub fn maps(&self) -> PathBuf {
        self.layout().join("maps")
    }

    /// The folder of the links.
    pub fn links(&self) -> PathBuf {
        self.layout().join("links")
    }

    /// The folder of the programs.
    pub fn programs(&self) -> PathBuf {
        self.layout().join("programs")
    }

    /// Whether an agent of this layout has been here.
    pub fn exist(&self) -> bool {
        self.maps().is_dir()
    }

    /// Makes the folders.
    ///
    /// # Errors
    /// The root is not on a bpffs, or cannot be written.
    pub fn create(&self) -> Result<(), Error> {
        let parent = self.root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        if !is_bpffs(parent) {
            return Err(Error::NotBpffs { path: self.root.clone() });
        }
        for folder in [self.maps(), self.links(), self.programs()] {
            fs::create_dir_all(&folder).map_err(|source| Error::file("create", &folder, source))?;
        }
        Ok(())
    }

    /// Takes the lock of these pins, which says that an agent keeps them. The kernel gives it back when it is dropped.
    ///
    /// # Errors
    /// Another agent has it, or there is no such folder.
    pub fn lock(&self) -> Result<Lock, Error> {
        let folder = File::open(&self.root).map_err(|source| Error::file("open", &self.root, source))?;
        match folder.try_lock() {
            Ok(()) => Ok(Lock(folder)),
            Err(TryLockError::WouldBlock) => Err(Error::Taken { path: self.root.clone() }),
            Err(TryLockError::Error(source)) => Err(Error::file("lock", &self.root, source)),
        }
    }

    /// Moves what agents of other layouts attached into this layout, where it is taken over without a gap: a link
    /// takes a program over other maps. To be called when the maps are complete. What is here already stays; how much
    /// was moved.
    ///
    /// # Errors
    /// A pin cannot be moved.
    pub fn take_over_links(&self) -> Result<usize, Error> {
        let mut moved = 0;
        // The latest layout first: of two that were there, it is the one that was in use.
        for layout in self.layouts(true)?.iter().rev() {
            let links = layout.join("links");
            let attached = attachments(&links)?.into_iter().map(|attachment| attachment.to_string());
            for name in attached.chain(sockets(&links)?.into_iter().map(|name| format!("{SOCKET}{name}"))) {
                let (from, to) = (links.join(&name), self.links().join(&name));
                if to.exists() {
                    continue;
                }
                fs::rename(&from, &to).map_err(|source| Error::file("move", &from, source))?;
                moved += 1;
            }
        }
        Ok(moved)
    }

    /// Everything that is attached to devices, in order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        attachments(&self.links())
    }

    /// Whether an agent of any layout has attached something.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn hold_links(&self) -> Result<bool, Error> {
        for layout in self.layouts(false)? {
            let links = layout.join("links");
            if !attachments(&links)?.is_empty() || !sockets(&links)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Names of all programs that are attached to sockets, in order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn sockets(&self) -> Result<Vec<String>, Error> {
        sockets(&self.links())
    }

    /// The file of a device's link.
    pub fn attachment(&self, attachment: &Attachment) -> PathBuf {
        self.links().join(attachment.to_string())
    }

    /// The file of a cgroup's link.
    pub fn socket(&self, program: &str) -> PathBuf {
        self.links().join(format!("{SOCKET}{program}"))
    }

    /// Folders of layouts, in order; of other agents' alone, or all.
    ///
    /// # Errors
    /// The root cannot be read.
    pub fn layouts(&self, others_only: bool) -> Result<Vec<PathBuf>, Error> {
        let names = names(&self.root)?;
        let number = |name: &String| name.strip_prefix('v')?.parse().ok();
        let mut wanted: Vec<u32> = names.iter().filter_map(number).filter(|n| !(others_only && *n == LAYOUT)).collect();
        wanted.sort_unstable();
        Ok(wanted.iter().map(|layout| self.root.join(format!("v{layout}"))).collect())
    }
}

pub(super) const SOCKET: &str = "socket-";

/// Attachments to devices in a folder of links. Files that are not ours are passed over.
pub(super) fn attachments(links: &Path) -> Result<Vec<Attachment>, Error> {
    let mut found: Vec<Attachment> = names(links)?.iter().filter_map(|name| name.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// Programs attached to sockets in a folder of links.
pub(super) fn sockets(links: &Path) -> Result<Vec<String>, Error> {
    let names = names(links)?;
    let mut found: Vec<_> = names.iter().filter_map(|name| name.strip_prefix(SOCKET)).map(ToOwned::to_owned).collect();
    found.sort_unstable();
    Ok(found)
}

pub(super) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let read = |folder| -> io::Result<Vec<String>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    match read(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|source| Error::file("read", folder, source)),
    }
}

/// Detaches what a link's pin holds, and removes the pin.
pub(super) fn unlink(path: &Path) -> Result<(), Error> {
    if let Ok(link) = sys::open(path) {
        // A link whose device is gone is detached already; the pin of a filter's program is no link at all.
        let _ = sys::detach(link.as_fd());
    }
    unpin(path)
}

/// Removes a pin; nothing happens where there is none.
///
/// # Errors
/// It cannot be removed.
pub(super) fn unpin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path, error)),
        _ => Ok(()),
    }
}

/// Pins at a place where there may be a pin already: it changes from the old to the new in one step.
pub(super) fn repin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push("-new");
    let new = PathBuf::from(new);
    // What a killed agent left.
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    sys::pin(fd, &new)?;
    fs::rename(&new, path)
}

pub(super) fn is_bpffs(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path ends with a zero, and the kernel fills the structure, for which all zero is a value anyway.
    let stat = unsafe {
        if libc::statfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return false;
        }
        stat.assume_init()
    };
    // The field's type differs by C library, its 32 bits do not.
    stat.f_type as u32 == BPF_FS_MAGIC
}

/// One program at one device. Its pin's name says it all, so that the command line needs no agent and no netlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// Index of the device; names may hold dots, which a bpffs refuses.
    pub index: u32,
    /// What the device is to us.
    pub role: Role,
    /// Where on it.
    pub hook: Hook,
    /// In which way.
    pub how: How,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.index, self.role.label(), self.hook.program(), self.how.label())
    }
}

impl FromStr for Attachment {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let mut parts = name.split('-');
        let mut part = || parts.next().ok_or(());
        let index = part()?.parse().map_err(drop)?;
        let (role, hook, how) = (part()?, part()?, part()?);
        let role = Role::ALL.into_iter().find(|r| r.label() == role).ok_or(())?;
        let hook = Hook::ALL.into_iter().find(|h| h.program() == hook).ok_or(())?;
        let how = How::ALL.into_iter().find(|h| h.label() == how).ok_or(())?;
        if part().is_ok() {
            return Err(());
        }
        Ok(Self { index, role, hook, how })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_pin_says_what_is_attached() {
        for role in Role::ALL {
            for hook in Hook::ALL {
                for how in How::ALL {
                    let attachment = Attachment { index: 17, role, hook, how };
                    assert_eq!(attachment.to_string().parse(), Ok(attachment));
                }
            }
        }
    }

    #[test]
    fn other_files_are_passed_over() {
        for name in [
            "",
            "socket-connect4",
            "x-nic-tc_egress-tcx",
            "3-nic-tc_egress",
            "3-nic-tc_egress-other",
            "3-nic-tc_egress-tcx-new",
        ] {
            assert_eq!(name.parse::<Attachment>(), Err(()), "{name}");
        }
    }

    #[test]
    fn a_folder_elsewhere_than_on_a_bpffs_is_refused() {
        let error = Pins::new("/proc/sluice").create().unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
    }
}
