//! What a process and the maps of Sluice cost.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use procfs::process::Process;
use serde::{Deserialize, Serialize};

const MIB: f64 = 1024.0 * 1024.0;

/// Of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Seconds in user and kernel mode, with children that have ended.
    pub(super) cpu: f64,
    /// MiB resident.
    pub(super) rss: f64,
    /// MiB resident at most.
    pub(super) peak: f64,
}

impl Usage {
    pub(super) fn of(child: &Child) -> Result<Self> {
        let process = Process::new(child.id().cast_signed()).context("cannot find a process in /proc")?;
        let (stat, status) = (process.stat()?, process.status()?);
        // Of the process itself to the nanosecond: what thirty changes cost is ten of the ticks that stat counts.
        let own = clock_getcpuclockid(Pid::from_raw(process.pid)).and_then(ClockId::now);
        let own = Duration::from(own.context("a process has no clock")?);
        let children = (stat.cutime + stat.cstime) as f64 / procfs::ticks_per_second() as f64;
        // In KiB, as proc(5) says.
        let mib = |kib: Option<u64>| kib.map(|kib| kib as f64 / 1024.0).context("a process has ended");
        Ok(Self { cpu: own.as_secs_f64() + children, rss: mib(status.vmrss)?, peak: mib(status.vmhwm)? })
    }
}

/// Kernel memory of Sluice's maps, in MiB.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct MapMemory {
    /// All maps, those of flows too.
    pub(super) all: f64,
    /// Frontends, backends and Maglev slots of IPv4.
    pub(super) services: f64,
}

/// The maps that hold Services of IPv4, with what their names begin with.
const OF_SERVICES: [&str; 3] = ["FRONTENDS_V4", "BACKENDS_V4", "SLOTS"];

impl MapMemory {
    /// Of all maps that are pinned in a folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let (mut all, mut services) = (0.0, 0.0);
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let bytes = charged(&path)?.0;
            all += bytes;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if OF_SERVICES.iter().any(|of| name.starts_with(of)) {
                services += bytes;
            }
        }
        Ok(Self { all: all / MIB, services: services / MIB })
    }
}

/// Bytes that the kernel charges for a pinned map, and entries that it has room for.
pub(super) fn charged(pin: &Path) -> Result<(f64, u32)> {
    let info = MapInfo::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
    Ok((memlock(info.fd()?.as_fd().as_raw_fd())?, info.max_entries()))
}

/// What the kernel charges for a map (`bpf_map_show_fdinfo`).
fn memlock(fd: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).context("cannot read a map's fdinfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix("memlock:")).context("fdinfo names no memlock")?;
    value.trim().parse().with_context(|| format!("memlock is {value:?}"))
}
