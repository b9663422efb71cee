//! What the agent costs: the metrics that Prometheus' own clients have of each process.

use std::fmt;

use procfs::WithCurrentSystemInfo;
use procfs::process::{LimitValue, Process as Proc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::rows::{Rows, number};

/// This process, read from /proc when it is asked for.
#[derive(Debug)]
pub(super) struct Process;

struct Figures {
    cpu: f64,
    started: f64,
    resident: u64,
    files: usize,
    files_limit: Option<u64>,
}

impl Figures {
    fn read() -> procfs::ProcResult<Self> {
        let process = Proc::myself()?;
        let stat = process.stat()?;
        let per_second = number(procfs::ticks_per_second());
        let started = number(procfs::boot_time_secs()?) + number(stat.starttime) / per_second;
        let files_limit = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        };
        Ok(Self {
            cpu: number(stat.utime + stat.stime) / per_second,
            started,
            resident: stat.rss_bytes().get(),
            files: process.fd_count()?,
            files_limit,
        })
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without /proc these are missing, and nothing else.
        let Ok(figures) = Figures::read() else { return Ok(()) };
        let mut rows = Rows(encoder);
        rows.counter("process_cpu_seconds", "CPU time that it used", figures.cpu)?;
        rows.gauge("process_start_time_seconds", "When it started, since 1970", figures.started)?;
        rows.gauge("process_resident_memory_bytes", "Memory that it occupies", number(figures.resident))?;
        rows.gauge("process_open_fds", "File descriptors that it holds", number(figures.files as u64))?;
        match figures.files_limit {
            Some(limit) => rows.gauge("process_max_fds", "File descriptors that it may hold", number(limit)),
            None => Ok(()),
        }
    }
}
