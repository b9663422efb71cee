//! The Go compiler: the machine's if it does, else Debian's. One that is a little old fetches the release that a module
//! asks for by itself.
use std::{path::PathBuf, process::Command, str::FromStr};

use anyhow::{Context, Result};

use crate::{failure::not_possible, process};

use super::{found, packages};

/// The first Go that fetches a newer one where a module needs it.
const FETCHES_NEWER: Version = Version(1, 21);

/// The first two numbers of a version of Go, which decide what it compiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32);

impl FromStr for Version {
    type Err = anyhow::Error;

    /// Reads `1.26.0`, `go1.26.8` as `go version` says it, and `2:1.24~2` as Debian does.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.split_once(':').map_or(text, |(_, version)| version).trim_start_matches("go");
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self(major, minor)),
            _ => anyhow::bail!("`{text}` is no version of Go"),
        }
    }
}

/// A Go that compiles what it was asked for.
#[derive(Debug)]
pub(super) struct Go {
    program: PathBuf,
    fetches_newer: bool,
}

impl Go {
    /// `go`, untouched by what the user has set for modules of their own.
    pub(super) fn command(&self) -> Command {
        let mut go = process::foreign(&self.program);
        for name in ["GOFLAGS", "GOOS", "GOARCH", "GOEXPERIMENT"] {
            go.env_remove(name);
        }
        go.env("GOWORK", "off");
        if self.fetches_newer {
            // Debian's default is to stay with its own.
            go.env("GOTOOLCHAIN", "auto");
        }
        go
    }
}

/// Finds or installs a Go that compiles modules for `oldest`.
pub(super) fn prepare(oldest: Version) -> Result<Go> {
    let Version(major, minor) = oldest;
    if let Some(go) = installed(oldest) {
        return Ok(go);
    }
    let offered = || packages::candidate("golang-go").and_then(|version| version.parse().ok());
    if packages::have_apt() && offered().is_some_and(|version: Version| version >= FETCHES_NEWER) {
        packages::install(&["golang-go"], "building Kubernetes' programs, which are written in Go")?;
        if let Some(go) = installed(oldest) {
            return Ok(go);
        }
    }
    Err(not_possible(format!(
        "Building Kubernetes' programs for the lab needs Go {major}.{minor} (or {}.{}, which fetches it), and this machine \
         has and offers none: install it from https://go.dev/dl/, or name a folder of ready programs in \
         KUBEBUILDER_ASSETS.",
        FETCHES_NEWER.0, FETCHES_NEWER.1
    )))
}

/// The Go of this machine, if it is new enough.
fn installed(oldest: Version) -> Option<Go> {
    let program = packages::which("go").or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")))?;
    // Not in a module, so that it speaks of itself and not of what it would fetch.
    let says = process::ask(process::foreign(&program).current_dir("/").env("GOTOOLCHAIN", "local").arg("version"))?;
    let version: Version = version_in(&says).ok()?;
    if version < FETCHES_NEWER.min(oldest) {
        return None;
    }
    let fetches_newer = version < oldest;
    found("Go", &format!("{says}{}", if fetches_newer { ", which fetches a newer one" } else { "" }));
    Some(Go { program, fetches_newer })
}

/// The version in `go version go1.26.8 linux/amd64`.
fn version_in(says: &str) -> Result<Version> {
    says.split(' ').nth(2).context("`go version` says no version")?.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_go_and_as_debian_write_them() {
        for (text, version) in [
            ("1.26.0", Some(Version(1, 26))),
            ("2:1.24~2", Some(Version(1, 24))),
            ("go1.27rc1", Some(Version(1, 27))),
            ("devel", None),
        ] {
            assert_eq!(text.parse().ok(), version, "{text}");
        }
        assert_eq!(version_in("go version go1.26.8 linux/amd64").ok(), Some(Version(1, 26)));
        assert!(Version(1, 9) < Version(1, 21) && Version(1, 26) < Version(2, 0));
    }
}
