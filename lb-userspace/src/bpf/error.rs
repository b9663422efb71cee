//! What can go wrong between the agent and the kernel.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::programs::ProgramError;

/// Why the kernel's side could not be set up or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary has no programs in it.
    #[error("this sluice was built without its kernel programs; run `cargo xtask build`")]
    NoObject,
    /// Pins need a bpffs.
    #[error(
        "{} is not on a bpffs, which pins of maps and links need: `mount -t bpf bpf /sys/fs/bpf`, or name a folder on one with --pin-root",
        path.display()
    )]
    NotBpffs {
        /// The root of the pins.
        path: PathBuf,
    },
    /// There is nothing to read.
    #[error("no Sluice at {}: no agent has run here, or its pins are elsewhere (--pin-root)", path.display())]
    NotInstalled {
        /// The root of the pins.
        path: PathBuf,
    },
    /// Two agents would fight for the pins.
    #[error("another agent keeps the pins at {}: stop it first, or name other pins with --pin-root", path.display())]
    Taken {
        /// The root of the pins.
        path: PathBuf,
    },
    /// A file or folder.
    #[error("cannot {act} {}: {source}", path.display())]
    File {
        /// What was to be done.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The object.
    #[error("cannot load the kernel programs: {0}")]
    Load(String),
    /// One program.
    #[error("the kernel refuses the program {program}: {reason}")]
    Program {
        /// Its name.
        program: String,
        /// What the verifier says.
        reason: String,
    },
    /// A map.
    #[error("cannot {act} the map {map}: {reason}")]
    Map {
        /// What was to be done.
        act: &'static str,
        /// Its name.
        map: &'static str,
        /// Why not.
        reason: String,
    },
    /// A map of another version in the folder of this layout.
    #[error(
        "the pinned map {map} has {found} where this sluice needs {needed}: remove it with `sluice uninstall`, then start the agent again"
    )]
    Shape {
        /// Its name.
        map: &'static str,
        /// What it has.
        found: String,
        /// What it must have.
        needed: String,
    },
    /// A hook.
    #[error("cannot attach {program} to {target}: {reason}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The device or cgroup.
        target: String,
        /// Why not.
        reason: String,
    },
    /// There is no cgroup2 to attach to.
    #[error(
        "no cgroup2 is mounted, which the socket path needs: `mount -t cgroup2 none <folder>`, name it with --cgroup, or switch the path off with --socket-path off"
    )]
    NoCgroup,
}

impl Error {
    pub(super) fn file(act: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { act, path: path.to_owned(), source }
    }

    pub(super) fn map(act: &'static str, map: &'static str, source: &dyn std::error::Error) -> Self {
        Self::Map { act, map, reason: chain(source) }
    }

    pub(super) fn program(program: &str, source: &ProgramError) -> Self {
        Self::Program { program: program.to_owned(), reason: chain(source) }
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The system call's error in one of aya's.
pub(super) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::IoError(error) => error,
        MapError::KeyNotFound => io::ErrorKind::NotFound.into(),
        MapError::OutOfBounds { .. } => io::Error::from_raw_os_error(libc::E2BIG),
        other => io::Error::other(other),
    }
}
