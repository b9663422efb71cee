//! Debian packages: installed only where they lack, and never at the price of another package.
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{failure::not_possible, process};

use super::found;

/// The programs must be there; where some are not, their packages are installed.
pub(crate) fn need_commands(commands: &[(&str, &str, &str)]) -> Result<()> {
    let lacking: Vec<_> = commands.iter().filter(|(name, ..)| which(name).is_none()).collect();
    if !lacking.is_empty() {
        let names: Vec<_> = lacking.iter().map(|(name, ..)| *name).collect();
        let why: Vec<_> = lacking.iter().map(|(name, _, why)| format!("{name} ({why})")).collect();
        if !have_apt() {
            return Err(not_possible(format!(
                "The commands {} are needed, which this machine lacks and which can only be installed here by hand.",
                names.join(", ")
            )));
        }
        let mut packages: Vec<_> = lacking.iter().map(|(_, package, _)| *package).collect();
        packages.dedup();
        install(&packages, &why.join(", "))?;
    }
    let names: Vec<_> = commands.iter().map(|(name, ..)| *name).collect();
    found("commands", &names.join(", "));
    Ok(())
}

/// The packages must be there, on a machine with Debian's package tools; elsewhere their users say what they miss.
pub(crate) fn need_packages(packages: &[(&str, &str)]) -> Result<()> {
    let names: Vec<_> = packages.iter().map(|(name, _)| *name).collect();
    if !have_apt() {
        return Ok(());
    }
    let missing = lacking(&names);
    if !missing.is_empty() {
        let why = packages.iter().filter(|(name, _)| missing.contains(name)).map(|(_, why)| *why);
        install(&missing, &why.collect::<Vec<_>>().join(", "))?;
    }
    found("packages of the tests", &names.join(", "));
    Ok(())
}

/// Whether this is a machine with Debian's package tools.
pub(crate) fn have_apt() -> bool {
    which("apt-get").is_some() && which("dpkg-query").is_some()
}

/// Those of the packages that are not installed.
pub(crate) fn lacking<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    // dpkg-query fails when one of them is unknown, and prints the others all the same.
    let output = Command::new("dpkg-query").args(["-W", "-f=${Package} ${db:Status-Status}\n"]).args(packages).output();
    let listed = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let installed = |name: &str| listed.lines().any(|line| line == format!("{name} installed"));
    packages.iter().copied().filter(|name| !installed(name)).collect()
}

/// The version of a package that apt would install, if any; knows what the last `apt-get update` knew.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let policy = process::ask(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))?;
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
}

/// Fetches the lists of packages.
pub(crate) fn update() -> Result<()> {
    need_root("read the lists of Debian packages")?;
    process::run_slowly("apt-get update: the lists of packages", apt_get().arg("update"))
}

/// Installs packages, with new lists if the old ones do not do.
pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    need_root(&format!("install {}", packages.join(", ")))?;
    println!("  ..  installing {} for: {why}", packages.join(", "));
    let what = format!("apt-get install {}", packages.join(" "));
    // No package of the user's is removed to make room for one of ours: then apt-get says what is in the way.
    let install = || {
        let mut command = apt_get();
        command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages);
        command
    };
    let known = packages.iter().all(|package| candidate(package).is_some());
    if known && process::run_slowly(&what, &mut install()).is_ok() {
        return Ok(());
    }
    update()?;
    process::run_slowly(&what, &mut install()).map_err(|error| {
        not_possible(format!(
            "The packages {} could not be installed ({error}); see apt-get's lines above.",
            packages.join(", ")
        ))
    })
}

fn apt_get() -> Command {
    let mut command = process::foreign("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // Another apt may be at work, as on a machine that has just started.
    command.args(["-o", "DPkg::Lock::Timeout=120"]);
    command
}

fn need_root(act: &str) -> Result<()> {
    if super::kernel::is_root() {
        return Ok(());
    }
    Err(not_possible(format!("Only root may {act}: run this once as root.")))
}

/// Where a program lies, also among those of the administrator.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| is_program(file))
}

/// Whether this is a file that can be run.
pub(crate) fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
