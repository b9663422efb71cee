//! Figures as a table for people and as JSON for machines.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// One measured case, in ns per packet over the empty program.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) case: String,
    pub(super) family: &'static str,
    pub(super) hook: &'static str,
    pub(super) services: u32,
    pub(super) min: f64,
    pub(super) median: f64,
    /// The goal of the design, where it names one.
    pub(super) goal: Option<f64>,
}

/// Where it was measured, and what.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    version: &'static str,
    kernel: String,
    cpu: String,
    cores: usize,
}

impl Machine {
    /// This one, and this Sluice.
    pub(super) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        Self {
            version: env!("CARGO_PKG_VERSION"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} cores, Linux {}", self.cpu, self.cores, self.kernel)
    }
}

/// What was measured, and on what.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) machine: Machine,
    pub(super) runs: usize,
    pub(super) rounds: u32,
    pub(super) rows: Vec<Row>,
}

impl Report {
    /// A report without rows, of this machine.
    pub(super) fn new(runs: usize, rounds: u32) -> Self {
        Self { machine: Machine::this(), runs, rounds, rows: Vec::new() }
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["CASE", "FAMILY", "HOOK", "SERVICES", "MIN", "MEDIAN", "GOAL"]);
        for index in 3..=6 {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for row in &self.rows {
            table.add_row([
                row.case.clone(),
                row.family.to_owned(),
                row.hook.to_owned(),
                row.services.to_string(),
                format!("{:.0}", row.min),
                format!("{:.0}", row.median),
                row.goal.map_or_else(|| "-".into(), |goal| format!("{goal:.0}")),
            ]);
        }
        format!(
            "ns per packet over the empty program; {} runs of {} packets; {}\n\n{table}",
            self.runs, self.rounds, self.machine
        )
    }

    /// Writes the JSON.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        save(self, path)
    }
}

/// Writes a report as JSON.
pub(super) fn save(report: &impl Serialize, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let json = serde_json::to_string_pretty(report)?;
    fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}
