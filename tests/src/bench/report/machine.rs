//! Where and when it was measured, and what.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// Tells which commit was built, where that is known.
const REVISION_VARIABLE: &str = "SLUICE_REVISION";

/// The machine, and the versions of what ran on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::bench) struct Machine {
    /// When it began, in UTC (RFC 3339).
    began: String,
    /// Of Sluice, with the commit where that is known.
    version: String,
    /// Of all that it is compared with.
    others: Vec<String>,
    kernel: String,
    cpu: String,
    cores: usize,
    /// Tasks that wanted a CPU in the minute before.
    load: f64,
}

impl Machine {
    /// This one, and this Sluice.
    pub(in crate::bench) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let revision = std::env::var(REVISION_VARIABLE).ok().filter(|revision| !revision.is_empty());
        let revision = revision.map_or_else(String::new, |revision| format!(" ({revision})"));
        let load = read("/proc/loadavg");
        Self {
            began: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            version: format!("{}{revision}", env!("CARGO_PKG_VERSION")),
            others: Vec::new(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load: load.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default(),
        }
    }

    /// Beside another program, named with its version.
    pub(in crate::bench) fn beside(self, other: String) -> Self {
        Self { others: [self.others, vec![other]].concat(), ..self }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { began, version, others, kernel, cpu, cores, load } = self;
        let others: String = others.iter().map(|other| format!(", {other}")).collect();
        write!(f, "{began}, Sluice {version}{others}, {cpu}, {cores} cores, Linux {kernel}, load before {load}")
    }
}
