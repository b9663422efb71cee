//! Where a client runs: in a namespace, and either as a thread outside the lab's cgroup (its packets take the packet
//! path) or as a process inside it (the cgroup's socket hooks see its sockets).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};

use super::{Load, Netns, Report};

/// A place from which loads are run.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The namespace.
    pub ns: &'a Netns,
    /// The cgroup of the client process; none for a thread.
    pub cgroup: Option<&'a Path>,
}

impl Place<'_> {
    /// Runs `load` to its end.
    pub fn run(&self, load: Load) -> Result<Report> {
        self.start(load)?.finish()
    }

    /// Starts `load`.
    pub fn start(&self, load: Load) -> Result<Running> {
        match self.cgroup {
            None => self.thread(load),
            Some(cgroup) => self.process(&load, cgroup),
        }
    }

    fn thread(&self, load: Load) -> Result<Running> {
        let (stop, so_far) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Report::default())));
        let (stopped, report) = (stop.clone(), so_far.clone());
        let thread = self.ns.start(move || {
            Ok(load.run(|answer| {
                report.lock().unwrap_or_else(PoisonError::into_inner).answers.push(answer.clone());
                !stopped.load(Ordering::Relaxed)
            }))
        })?;
        Ok(Running { kind: Kind::Thread { thread, stop, so_far } })
    }

    fn process(&self, load: &Load, cgroup: &Path) -> Result<Running> {
        let program = client_program()?;
        let mut command = Command::new(&program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self.ns.spawn(&mut command)?;
        // The process waits for its load, so it opens no socket before it is in the cgroup.
        let joined = fs::write(cgroup.join("cgroup.procs"), child.id().to_string());
        joined.with_context(|| format!("cannot move a client into the cgroup {}", cgroup.display()))?;
        let mut line = serde_json::to_string(load)?;
        line.push('\n');
        let stdin = child.stdin.as_mut().context("a client without standard input")?;
        stdin.write_all(line.as_bytes()).context("a client took no load")?;
        Ok(Running { kind: Kind::Process(child) })
    }
}

/// A load under way.
#[derive(Debug)]
pub struct Running {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Thread { thread: JoinHandle<Result<Report>>, stop: Arc<AtomicBool>, so_far: Arc<Mutex<Report>> },
    Process(Child),
}

impl Running {
    /// Waits for the end of the load.
    pub fn finish(self) -> Result<Report> {
        match self.kind {
            Kind::Thread { thread, .. } => thread.join().unwrap_or_else(|_| Err(anyhow!("a client panicked"))),
            Kind::Process(mut child) => {
                // Held open: its end would tell the client to stop.
                let stdin = child.stdin.take();
                let output = child.wait_with_output().context("cannot wait for a client")?;
                drop(stdin);
                if !output.status.success() {
                    bail!("a client ended with {}", output.status);
                }
                serde_json::from_slice(&output.stdout).context("a client printed no report")
            }
        }
    }

    /// Ends the load after the exchange under way.
    pub fn stop(mut self) -> Result<Report> {
        match &mut self.kind {
            Kind::Thread { stop, .. } => stop.store(true, Ordering::Relaxed),
            Kind::Process(child) => drop(child.stdin.take()),
        }
        self.finish()
    }

    /// Whether a thread has come to its end; [`Running::finish`] then returns at once.
    pub fn is_finished(&self) -> bool {
        match &self.kind {
            Kind::Thread { thread, .. } => thread.is_finished(),
            Kind::Process(_) => false,
        }
    }

    /// What came of it so far; for a thread only, a process reports at its end.
    pub fn so_far(&self) -> Report {
        match &self.kind {
            Kind::Thread { so_far, .. } => so_far.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Kind::Process(_) => Report::default(),
        }
    }
}

/// The binary `sluice-lab-client`: `SLUICE_LAB_CLIENT`, or beside the running executable.
pub(super) fn client_program() -> Result<PathBuf> {
    beside("SLUICE_LAB_CLIENT", "sluice-lab-client", "cargo build -p sluice-tests")
}

/// Finds a binary of this workspace: by an environment variable, or in the folders above the running executable
/// (tests run from `target/debug/deps`).
pub(crate) fn beside(variable: &str, name: &str, how: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("{variable} names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let own = std::env::current_exe().context("cannot find the running executable")?;
    let own_profile = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let target = own.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    let profiles = target.into_iter().flat_map(|dir| ["release", "debug"].map(|p| dir.join(p).join(name)));
    let mut candidates = own_profile.chain(profiles);
    let found = candidates.find(|path| path.is_file());
    found.with_context(|| format!("cannot find the binary `{name}`: build it with `{how}`, or set {variable}"))
}
