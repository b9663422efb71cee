//! One network namespace: made, entered by a thread, removed.
//!
//! A thread of its own enters it, never the caller's, and `/sys` stays as it is (`ip netns exec` would remount it).
//! Child processes started from that thread live in the namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use super::owner::{ip_batch, remove_netns};

/// A named network namespace, removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes the namespace `name`, with its loopback up and IPv6 addresses usable at once.
    pub(crate) fn new(name: &str) -> Result<Self> {
        ip_batch(&format!("netns add {name}\n"))?;
        let path = Path::new("/run/netns").join(name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let ns = Self { name: name.to_owned(), file };
        ns.sysctl(&[
            // No duplicate address detection: it would hold an address back for a second.
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
        ])?;
        ns.ip("link set lo up\n")?;
        Ok(ns)
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` takes.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.file)?;
                work()
            });
            inside.join().unwrap_or_else(|_| Err(anyhow!("a thread in namespace {} panicked", self.name)))
        })
    }

    /// Starts `work` on a thread inside the namespace.
    pub fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let file = self.file.try_clone().context("cannot duplicate a namespace's file")?;
        let thread = thread::Builder::new().name(self.name.clone()).spawn(move || {
            enter(&file)?;
            work()
        });
        thread.context("cannot start a thread")
    }

    /// Starts a process inside the namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.run(|| command.spawn().with_context(|| format!("cannot start {}", command.get_program().display())))
    }

    /// Runs a program inside the namespace to its end; what it has written. One that fails is an error.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.run(|| {
            Command::new(program).args(arguments).output().with_context(|| format!("cannot start {program}"))
        })?;
        ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a batch of `ip` commands inside the namespace, one a line.
    pub fn ip(&self, commands: &str) -> Result<()> {
        self.run(|| ip_batch(commands)).with_context(|| format!("in namespace {}", self.name))
    }

    /// Writes sysctls of this namespace; the names as paths below `/proc/sys`.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in values {
                let path = Path::new("/proc/sys").join(name);
                fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))?;
            }
            Ok(())
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove_netns(&self.name);
    }
}

fn enter(file: &File) -> Result<()> {
    setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace (this needs root)")
}
