//! Running other programs: quietly for a question, with a spinner for slow work, or in full view.
use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How many lines of a failed command are shown.
const LINES_ON_FAILURE: usize = 25;

/// What cargo and rustup set for the programs they start. A cargo inside a cargo must not inherit it: it would
/// take the outer one's compiler, flags and libraries.
const SET_BY_CARGO: &[&str] = &[
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "LD_LIBRARY_PATH",
    "OUT_DIR",
    "RUST_RECURSION_COUNT",
];
const SET_BY_CARGO_PREFIX: &[&str] = &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_FEATURE_", "CARGO_CFG_"];

/// What chooses a compiler, flags or an output directory. Another toolchain must not see it.
const CHOICES: &[&str] = &[
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];
const CHOICES_PREFIX: &[&str] = &["CARGO_BUILD_", "CARGO_TARGET_", "CARGO_PROFILE_", "CARGO_UNSTABLE_"];

/// A cargo with the toolchain, flags and target directory of the one that started this program.
pub(crate) fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    remove(&mut command, SET_BY_CARGO, SET_BY_CARGO_PREFIX);
    command
}

/// A program of another toolchain: nothing of this one's choices reaches it.
pub(crate) fn foreign(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    remove(&mut command, SET_BY_CARGO, SET_BY_CARGO_PREFIX);
    remove(&mut command, CHOICES, CHOICES_PREFIX);
    command
}

fn remove(command: &mut Command, names: &[&str], prefixes: &[&str]) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if names.contains(&text.as_ref()) || prefixes.iter().any(|p| text.starts_with(p)) {
            command.env_remove(&name);
        }
    }
}

/// Asks a program something: its standard output, trimmed, or nothing if it is not there or failed.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a program and wants it to succeed; its own output stays in view.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    expect_success(command, status)
}

/// Runs slow work behind a spinner that shows the last line of output; in full if it fails.
pub(crate) fn run_slowly(what: &str, command: &mut Command) -> Result<()> {
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(
        ProgressStyle::with_template("  {spinner} {prefix} [{elapsed}] {wide_msg}").expect("the template is valid"),
    );
    spinner.set_prefix(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    if spinner.is_hidden() {
        println!("  ..  {what}");
    }
    let started = Instant::now();
    let mut lines: Vec<String> = Vec::new();
    let status = for_each_line(command, |line| {
        spinner.set_message(line.trim().to_owned());
        lines.push(line.to_owned());
    })?;
    spinner.finish_and_clear();
    if !status.success() {
        for line in lines.iter().skip(lines.len().saturating_sub(LINES_ON_FAILURE)) {
            eprintln!("      {line}");
        }
    }
    expect_success(command, status)?;
    println!("  ok  {what} ({:.0} s)", started.elapsed().as_secs_f64());
    Ok(())
}

/// Runs a program in full view and also hands over each line of its output.
pub(crate) fn run_and_read(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    if io::stdout().is_terminal() && env::var_os("CARGO_TERM_COLOR").is_none() {
        // The program writes into a pipe and would take that for a reason to drop its colours.
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut out = io::stdout();
    for_each_line(command, |line| {
        // A closed output is no reason to stop the tests.
        let _ = writeln!(out, "{line}");
        each(line);
    })
}

/// Starts a program with both outputs in one pipe, in order, and reads it line by line.
fn for_each_line(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    // The command holds the writing ends; while they are open the reader sees no end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    read_lines(reader, &mut each).context("cannot read a program's output")?;
    child.wait().context("cannot wait for a program")
}

fn read_lines(reader: impl Read, each: &mut impl FnMut(&str)) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
    Ok(())
}

fn expect_success(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let mut line = command.get_program().display().to_string();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.display().to_string());
    }
    bail!("`{line}` failed ({status})");
}

/// Joins a directory in front of `PATH`.
pub(crate) fn path_with(dirs: &[&std::path::Path]) -> std::ffi::OsString {
    let old = env::var_os("PATH").unwrap_or_default();
    let all = dirs
        .iter()
        .map(|dir| dir.to_path_buf())
        .chain(env::split_paths(&old).filter(|dir| !dir.as_os_str().is_empty()));
    env::join_paths(all).unwrap_or(old)
}
