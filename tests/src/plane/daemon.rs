//! A long-running program of the control plane: started, stopped, killed and started again, with its log in a file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Netns;

/// Lines of a log that are shown where something fails.
const TAIL: usize = 30;
/// How long a program may take to end by itself.
const END: Duration = Duration::from_secs(20);

/// One program and how it is started. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Not yet started.
    pub(super) fn new(name: &str, program: PathBuf, arguments: impl IntoIterator<Item = String>, logs: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program,
            arguments: arguments.into_iter().map(OsString::from).collect(),
            log: logs.join(format!("{name}.log")),
            child: None,
        }
    }

    /// Starts it in a namespace and in a cgroup, by which it ends with the lab also when the test was killed.
    pub(super) fn start(&mut self, ns: &Netns, cgroup: &Path) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.name);
        }
        let log = File::options().create(true).append(true).open(&self.log).context("cannot make a log")?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().context("cannot share a log")?).stderr(log);
        let child = self.child.insert(ns.spawn(&mut command)?);
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string())
            .with_context(|| format!("cannot move {} into {}", self.name, cgroup.display()))
    }

    /// SIGTERM, and waits for the end.
    pub(super) fn stop(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { bail!("{} does not run", self.name) };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).context("cannot signal a program")?;
        let end = Instant::now() + END;
        while Instant::now() < end {
            if child.try_wait().context("cannot wait for a program")?.is_some() {
                self.child = None;
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{} did not end within {} s of SIGTERM; its log ends:\n{}", self.name, END.as_secs(), self.tail())
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { bail!("{} does not run", self.name) };
        child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// Whether it was started, and not ended by us.
    pub(super) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Fails, with the end of its log, if it runs no more.
    pub(super) fn expect_running(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { bail!("{} does not run", self.name) };
        match child.try_wait().context("cannot wait for a program")? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its log ends:\n{}", self.name, self.tail()),
        }
    }

    /// The end of its log.
    pub(super) fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill();
        }
        if std::thread::panicking() {
            eprintln!("the log of {} ends:\n{}", self.name, self.tail());
        }
    }
}
