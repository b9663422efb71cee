//! Programs at a cgroup, for sockets.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::object::Programs;
use super::sys::Target;
use super::{Error, Pins, pins, sys};

/// The programs, and `enum bpf_attach_type` of linux/bpf.h.
const HOOKS: [(&str, u32); 8] = [
    // Answers first: no datagram goes to a backend whose answer would not seem to come from the frontend.
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
];

/// Whether a program is one of these.
pub(super) fn is_of_sockets(program: &str) -> bool {
    HOOKS.iter().any(|(name, _)| *name == program)
}

/// The folder where the cgroup2 hierarchy is mounted, from the text of `/proc/mounts`.
pub fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.find(|fields| fields.get(2) == Some(&"cgroup2")).map(|fields| PathBuf::from(fields[1].replace("\\040", " ")))
}

/// Attaches to all sockets of a cgroup, or swaps the programs where an earlier agent did.
///
/// # Errors
/// The kernel refuses a hook.
pub fn attach_sockets(pins: &Pins, programs: &Programs, cgroup: &Path) -> Result<(), Error> {
    attach(pins, programs, cgroup, sys::swap).map(drop)
}

/// Attaches again what others detached since [`attach_sockets`]; how much that was.
///
/// # Errors
/// The kernel refuses a hook.
pub fn mend_sockets(pins: &Pins, programs: &Programs, cgroup: &Path) -> Result<u64, Error> {
    attach(pins, programs, cgroup, |_, _| Ok(()))
}

/// Attaches what is not attached, and does to the rest as told. How much was not.
fn attach(pins: &Pins, programs: &Programs, cgroup: &Path, adopt: Adopt) -> Result<u64, Error> {
    let mut anew = 0;
    let folder = File::open(cgroup).map_err(|source| Error::file("open", cgroup, source))?;
    // The id of a cgroup is the number of its inode.
    let id = folder.metadata().map_err(|source| Error::file("open", cgroup, source))?.ino();
    for (name, kind) in HOOKS {
        let program = programs.get(name)?;
        let path = pins.socket(name);
        if adopted(&path, program, id, adopt).unwrap_or(false) {
            continue;
        }
        pins::unlink(&path)?;
        let attach = || -> io::Result<()> {
            let link = sys::attach(program, Target::Cgroup(folder.as_fd(), kind))?;
            sys::pin(link.as_fd(), &path)
        };
        attach().map_err(|error| Error::Attach {
            program: name,
            target: cgroup.display().to_string(),
            reason: error.to_string(),
        })?;
        anew += 1;
    }
    Ok(anew)
}

/// What becomes of a link that is attached, given the program it shall run.
type Adopt = fn(BorrowedFd<'_>, BorrowedFd<'_>) -> io::Result<()>;

fn adopted(path: &Path, program: BorrowedFd<'_>, cgroup: u64, adopt: Adopt) -> io::Result<bool> {
    if !fs::exists(path)? {
        return Ok(false);
    }
    let link = sys::open(path)?;
    if sys::link_target(link.as_fd())? != cgroup {
        return Ok(false);
    }
    adopt(link.as_fd(), program).map(|()| true)
}

/// Detaches from all sockets. Those that are connected stay with their backends.
///
/// # Errors
/// A pin cannot be removed.
pub fn detach_sockets(pins: &Pins) -> Result<(), Error> {
    pins.sockets()?.iter().try_for_each(|name| pins::unlink(&pins.socket(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_also_beside_cgroup1() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        for (mounts, expected) in [
            (hybrid, Some("/sys/fs/cgroup/unified")),
            ("none /a\\040b cgroup2 rw 0 0", Some("/a b")),
            ("tmpfs /sys/fs/cgroup tmpfs rw 0 0", None),
            ("", None),
        ] {
            assert_eq!(cgroup2_mount(mounts), expected.map(PathBuf::from));
        }
    }
}
