//! CPU time of threads that share one CPU, and of what the kernel does for them there. Other load on the machine is not in
//! it: where one CPU does all the work, what is done in a second of it is what would be done in a second of a quiet machine.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use procfs::process::{Process, all_processes};

/// Keeps the calling thread on the CPU that all work of a measurement shares: the last.
pub(super) fn pin() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(number())?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("cannot choose a CPU")
}

fn number() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) - 1
}

/// Threads, among them the kernel's own on that CPU, to which it puts off packets now and then.
#[derive(Debug)]
pub(super) struct CpuTime(Vec<Process>);

impl CpuTime {
    /// Of these threads, by number, and the kernel's.
    pub(super) fn of(threads: &[i32]) -> Result<Self> {
        let name = format!("ksoftirqd/{}", number());
        let is_it = |process: &Process| process.stat().is_ok_and(|stat| stat.comm == name);
        let found = all_processes()?.filter_map(Result::ok).find(is_it);
        let mut all = vec![found.with_context(|| format!("no thread {name} among the processes"))?];
        for thread in threads {
            all.push(Process::new(*thread).with_context(|| format!("no thread {thread}"))?);
        }
        Ok(Self(all))
    }

    /// The sum until now.
    pub(super) fn now(&self) -> Result<Duration> {
        let times = self.0.iter().map(|thread| Ok(thread.schedstat()?.sum_exec_runtime));
        Ok(Duration::from_nanos(times.sum::<Result<u64>>()?))
    }
}
