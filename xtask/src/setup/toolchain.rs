//! The compiler and the linker for BPF: rustup's nightly with its sources, or Debian's packages with a ready `core`.
use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{failure::not_possible, process, workspace};

use super::{found, packages};

/// The linker's version, and the newest LLVM it can be built with.
const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVM: u32 = 23;

/// Debian's compiler for the web browser: the only one there that is recent, and that has `core` for BPF.
const DEBIAN_COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// Building the linker there: the LLVM of that compiler, and what LLVM needs.
const DEBIAN_LINKER: &[&str] = &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev"];
const DEBIAN_LLVM: u32 = 22;
const DEBIAN_LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// The lints for that compiler: only checking needs them.
const DEBIAN_CLIPPY: &str = "rust-web-clippy";
/// The oldest compiler that takes the eBPF crates.
const OLDEST_RUST: (u32, u32) = (1, 95);

/// What compiles the eBPF programs on this machine.
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// rustup's nightly, which compiles `core` for BPF from its sources.
    Rustup {
        /// The directory of the nightly.
        sysroot: PathBuf,
    },
    /// Debian's packages, which bring `core` for BPF ready.
    Debian,
}

impl Toolchain {
    /// `cargo build` for BPF, up to the arguments that are the same everywhere.
    pub(crate) fn cargo_build(&self) -> Command {
        match self {
            Self::Rustup { .. } => {
                let mut command = process::foreign("rustup");
                command.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
                command
            }
            Self::Debian => {
                let mut command = process::foreign("/usr/bin/cargo");
                command.arg("build");
                self.set_compiler(&mut command);
                command
            }
        }
    }

    /// `cargo clippy` for BPF, if this machine has one that fits the compiler.
    pub(crate) fn cargo_clippy(&self) -> Option<Command> {
        match self {
            Self::Rustup { sysroot } => sysroot.join("bin/cargo-clippy").exists().then(|| {
                let mut command = process::foreign("rustup");
                command.args(["run", "nightly", "cargo", "clippy", "-Zbuild-std=core"]);
                command
            }),
            Self::Debian => Path::new("/usr/bin/cargo-clippy").exists().then(|| {
                let mut command = process::foreign("/usr/bin/cargo-clippy");
                command.arg("clippy").env("CARGO", "/usr/bin/cargo");
                self.set_compiler(&mut command);
                command
            }),
        }
    }

    /// Finds or installs the clippy that fits.
    pub(crate) fn need_clippy(&self) -> Result<()> {
        if self.cargo_clippy().is_none() {
            match self {
                Self::Debian => packages::install(&[DEBIAN_CLIPPY], "clippy of the eBPF programs")?,
                Self::Rustup { .. } => {
                    let mut rustup = process::foreign("rustup");
                    rustup.args(["component", "add", "clippy", "--toolchain", "nightly"]);
                    process::run_slowly("rustup component add clippy", &mut rustup)?;
                }
            }
        }
        found("clippy for BPF", "that of the compiler");
        Ok(())
    }

    /// Directories that must come first in `PATH`.
    pub(crate) fn path(&self) -> Vec<PathBuf> {
        let linker = cargo_home().join("bin");
        match self {
            Self::Rustup { .. } => vec![linker],
            Self::Debian => vec![Path::new(DEBIAN_LLVM_PREFIX).join("bin"), PathBuf::from("/usr/bin"), linker],
        }
    }

    fn set_compiler(&self, command: &mut Command) {
        if matches!(self, Self::Debian) {
            command.env("RUSTC", "/usr/bin/rustc");
            // aya-ebpf uses unstable features; Debian's is a stable compiler.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
    }
}

/// Finds or installs a compiler: what is there wins, then Debian's packages, then a nightly from rustup.
pub(crate) fn prepare() -> Result<Toolchain> {
    if let Some(sysroot) = nightly_with_sources() {
        found("Rust for BPF", "rustup's nightly with rust-src; `core` is built with -Zbuild-std");
        return Ok(Toolchain::Rustup { sysroot });
    }
    if packages::have_apt() && debian_offers_it()? {
        let all = [DEBIAN_COMPILER, DEBIAN_LINKER].concat();
        let lacking = packages::lacking(&all);
        if !lacking.is_empty() {
            packages::install(&lacking, "compiling the eBPF programs, and the LLVM their linker needs")?;
        }
        let version = debian_compiler()?;
        found("Rust for BPF", &format!("Debian's packages, {version} (rustup's nightly has no rust-src here)"));
        return Ok(Toolchain::Debian);
    }
    install_nightly()
}

/// The sysroot of rustup's nightly, if the sources of `core` are in it.
fn nightly_with_sources() -> Option<PathBuf> {
    let mut rustc = process::foreign("rustup");
    let sysroot = process::ask(rustc.args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    let sysroot = PathBuf::from(sysroot);
    sysroot.join("lib/rustlib/src/rust/library/core").exists().then_some(sysroot)
}

/// Whether the packages are installed, or apt knows them in a version that is new enough.
fn debian_offers_it() -> Result<bool> {
    if packages::lacking(DEBIAN_COMPILER).is_empty() {
        return Ok(true);
    }
    let offered = || {
        let compiler = packages::candidate("libstd-rust-web-dev-bpf");
        let llvm = packages::candidate(DEBIAN_LINKER[0]);
        compiler.is_some_and(|version| is_new_enough(&version)) && llvm.is_some()
    };
    if offered() {
        return Ok(true);
    }
    // An empty or old list says nothing: a fresh container has none.
    if is_debian() {
        packages::update()?;
    }
    Ok(offered())
}

/// Only Debian has these packages; elsewhere new lists would not help.
fn is_debian() -> bool {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines().any(|line| line.trim() == "ID=debian")
}

/// Whether a version such as `1.96.0+dfsg1-1` is at least the oldest that does.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST_RUST,
        _ => false,
    }
}

/// The version of Debian's compiler, whose LLVM the linker must be able to read.
fn debian_compiler() -> Result<String> {
    let verbose = process::ask(process::foreign("/usr/bin/rustc").arg("-vV"))
        .context("/usr/bin/rustc does not run, though its package is installed")?;
    match llvm_major(&verbose) {
        Some(llvm) if llvm <= DEBIAN_LLVM => Ok(verbose
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take_while(|c| *c != '(')
            .collect::<String>()
            .trim()
            .into()),
        llvm => Err(not_possible(format!(
            "Debian's rustc now uses LLVM {}, newer than the LLVM {DEBIAN_LLVM} this set-up builds bpf-linker with.",
            llvm.map_or("of an unknown version".into(), |v| v.to_string())
        ))),
    }
}

/// The first number of the line `LLVM version: 22.1.8`.
fn llvm_major(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

fn install_nightly() -> Result<Toolchain> {
    let sentence = "This machine offers no Rust for BPF: install rustup (a nightly with rust-src is needed), \
                    or use Debian 12 with its security suite.";
    if packages::which("rustup").is_none() {
        return Err(not_possible(sentence));
    }
    println!(
        "  ..  installing rustup's nightly with rust-src: it compiles `core` for BPF, which no stable Rust brings"
    );
    let mut rustup = process::foreign("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    process::run_slowly("rustup toolchain install nightly", &mut rustup)
        .map_err(|error| not_possible(format!("{sentence} Here rustup could not install it ({error}).")))?;
    let sysroot = nightly_with_sources().ok_or_else(|| not_possible(sentence))?;
    found("Rust for BPF", "rustup's nightly with rust-src");
    Ok(Toolchain::Rustup { sysroot })
}

/// Finds or installs bpf-linker, which makes one loadable object of the compiler's bitcode.
pub(crate) fn need_linker(toolchain: &Toolchain) -> Result<()> {
    if let Some(version) = linker_version(toolchain) {
        found("linker for BPF", &version);
        return Ok(());
    }
    println!("  ..  installing bpf-linker {LINKER_VERSION}: rustc has no linker for BPF of its own (a minute or two)");
    let installed = match toolchain {
        Toolchain::Debian => install_linker_for_debian(),
        Toolchain::Rustup { sysroot } => install_linker_for_nightly(sysroot),
    };
    installed.map_err(|error| not_possible(format!("bpf-linker could not be installed ({error}).")))?;
    let version = linker_version(toolchain)
        .ok_or_else(|| not_possible("bpf-linker is installed but does not run: see `bpf-linker --version`."))?;
    found("linker for BPF", &version);
    Ok(())
}

/// What bpf-linker says of itself; nothing too if the LLVM it was built with has gone.
fn linker_version(toolchain: &Toolchain) -> Option<String> {
    let mut linker = process::foreign("bpf-linker");
    let path = toolchain.path();
    linker.env("PATH", process::path_with(&path.iter().map(PathBuf::as_path).collect::<Vec<_>>()));
    process::ask(linker.arg("--version"))
}

fn install_linker_for_debian() -> Result<()> {
    if packages::which("c++").is_none() {
        packages::install(&["g++"], "linking LLVM, which is written in C++")?;
    }
    let mut cargo = linker_install(DEBIAN_LLVM, Path::new(DEBIAN_LLVM_PREFIX));
    process::run_slowly("cargo install bpf-linker", &mut cargo)
}

/// rustup's nightly brings its LLVM as a shared library: the linker is built on that one, so both always match.
fn install_linker_for_nightly(sysroot: &Path) -> Result<()> {
    let rustc = process::ask(process::foreign("rustup").args(["run", "nightly", "rustc", "-vV"])).unwrap_or_default();
    let llvm = llvm_major(&rustc)
        .filter(|llvm| *llvm <= LINKER_LLVM)
        .with_context(|| format!("bpf-linker {LINKER_VERSION} knows no LLVM newer than {LINKER_LLVM}, nightly's is"))?;
    let library =
        shared_llvm(&sysroot.join("lib")).with_context(|| format!("{} has no shared LLVM", sysroot.display()))?;
    // The linker's build looks for a file named libLLVM.so; rustup's carries a version in its name.
    let prefix = workspace::target_dir().join("llvm-of-nightly");
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib")).context("cannot make a folder in the target directory")?;
    let _ = fs::remove_file(&link);
    symlink(&library, &link).with_context(|| format!("cannot make the link {}", link.display()))?;
    let mut cargo = linker_install(llvm, &prefix);
    cargo.env("RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", sysroot.join("lib").display()));
    process::run_slowly("cargo install bpf-linker", &mut cargo)
}

/// The file `libLLVM.so.22.1-rust-1.97.0-nightly` in a directory.
fn shared_llvm(lib: &Path) -> Option<PathBuf> {
    fs::read_dir(lib)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so.")))
}

fn linker_install(llvm: u32, prefix: &Path) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = process::foreign(program);
    cargo
        .args(["install", "bpf-linker", "--locked", "--force", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        // Not this checkout's directory: its settings are not for the linker.
        .current_dir("/")
        .env("LLVM_PREFIX", prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), prefix)
        .env("PATH", process::path_with(&[&prefix.join("bin")]));
    if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
        // The program is the real cargo, not rustup's; it finds its rustc through this.
        cargo.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    cargo
}

/// Where cargo keeps its registry and what it installed.
pub(crate) fn cargo_home() -> PathBuf {
    match env::var_os("CARGO_HOME") {
        Some(home) => home.into(),
        None => env::home_dir().unwrap_or_default().join(".cargo"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debian_version_is_compared_by_its_first_two_numbers() {
        for (version, enough) in [
            ("1.96.0+dfsg1-1~deb12u2", true),
            ("1.95.0-1", true),
            ("1.85.0+dfsg3-1~deb12u3", false),
            ("2.0.0", true),
            ("(none)", false),
            ("", false),
        ] {
            assert_eq!(is_new_enough(version), enough, "{version}");
        }
    }

    #[test]
    fn llvm_is_read_from_the_long_version() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}
