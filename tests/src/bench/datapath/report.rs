//! The figures: ns per packet over the empty program.

use lb_common::tables::map;
use serde::{Deserialize, Serialize};

use super::cases::{FIRST, first_packet};
use crate::bench::report::{Bar, Chart, Findings, Machine, Runs, Table};

/// One measured case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) case: String,
    pub(super) family: String,
    pub(super) hook: String,
    pub(super) services: u32,
    /// Minimum of all runs less the minimum of those of what is subtracted.
    pub(super) min: f64,
    /// The same of the medians.
    pub(super) median: f64,
    /// The goal of the design, where it names one.
    pub(super) goal: Option<f64>,
}

impl Row {
    /// From what both gave: what is subtracted, and the whole.
    pub(super) fn new(
        case: &str,
        family: &str,
        hook: &str,
        services: u32,
        [empty, full]: [Runs; 2],
        goal: Option<f64>,
    ) -> Self {
        let (min, median) = (full.min() - empty.min(), full.median() - empty.median());
        Self { case: case.into(), family: family.into(), hook: hook.into(), services, min, median, goal }
    }

    fn is(&self, case: &str, hook: &str) -> bool {
        self.case == case && self.hook == hook
    }
}

/// What was measured, and on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::bench) struct Report {
    pub(super) machine: Machine,
    /// Packets a run.
    pub(super) rounds: u32,
    pub(super) rows: Vec<Row>,
    /// Memory of one translated flow, both directions, by family.
    pub(super) flow_bytes: Vec<(String, f64)>,
}

/// The goal for it.
const FLOW_BYTES: f64 = 160.0;

impl Findings for Report {
    const PART: &'static str = "datapath";
    const TITLE: &'static str = "Packets";

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn tables(&self) -> Vec<Table> {
        let row = |row: &Row| {
            vec![
                row.case.clone(),
                row.hook.clone(),
                row.family.clone(),
                row.services.to_string(),
                format!("{:.0}", row.min),
                format!("{:.0}", row.median),
                row.goal.map_or_else(|| "-".into(), |goal| format!("{goal:.0}")),
            ]
        };
        vec![
            Table {
                title: format!("ns per packet over the empty program; {} packets a run", self.rounds),
                header: vec!["CASE", "HOOK", "FAMILY", "SERVICES", "MIN", "MEDIAN", "GOAL"],
                rows: self.rows.iter().map(row).collect(),
                words: 3,
                notes: self.flow_notes(),
            },
            self.growth(),
        ]
    }

    fn charts(&self) -> Vec<Chart> {
        let services = self.rows.iter().map(|row| row.services).max().unwrap_or_default();
        let chart = |title: &str, wanted: &dyn Fn(&Row) -> bool| {
            let bars = self.rows.iter().filter(|row| (row.services == services || row.services == 0) && wanted(row));
            let bar = |row: &Row| Bar {
                label: format!("{}, {}, {}", row.case, row.hook, row.family),
                value: row.min,
                spread: (row.min, row.median),
                goal: row.goal,
            };
            Chart { title: format!("{title}: least ns per packet, {services} Services"), bars: bars.map(bar).collect() }
        };
        let first = |row: &Row| row.case.starts_with(FIRST);
        let many = |row: &Row| !first(row) && row.case.contains("2^");
        vec![
            chart("Hot", &|row| !first(row) && !many(row)),
            chart("Many flows at random", &many),
            chart("First packets", &first),
        ]
    }
}

impl Report {
    fn flow_notes(&self) -> Vec<String> {
        let note = |(family, bytes): &(String, f64)| {
            format!("a translated flow of {family} takes {bytes:.0} bytes, both directions (goal {FLOW_BYTES:.0})")
        };
        self.flow_bytes.iter().map(note).collect()
    }

    /// Most Services against the fewest.
    fn growth(&self) -> Table {
        let numbers = || self.rows.iter().map(|row| row.services).filter(|services| *services > 0);
        let (least, most) = (numbers().min().unwrap_or_default(), numbers().max().unwrap_or_default());
        let (mut rows, first) = (Vec::new(), first_packet(map::FLOWS_AT_FIRST));
        for (case, goal) in [("established", "1.05"), (&first, "1.20")] {
            for row in self.rows.iter().filter(|row| row.case == case && row.services == most) {
                let same = |base: &&Row| base.is(case, &row.hook) && base.family == row.family;
                let base = self.rows.iter().filter(|base| base.services == least).find(same);
                let ratio = base.map(|base| format!("{:.2}", row.min / base.min));
                let ratio = ratio.unwrap_or_else(|| "-".into());
                rows.push(vec![case.into(), row.hook.clone(), row.family.clone(), ratio, goal.into()]);
            }
        }
        Table {
            title: format!("{most} Services against {least}, by the minimum"),
            header: vec!["CASE", "HOOK", "FAMILY", "TIMES", "GOAL"],
            rows,
            words: 3,
            notes: Vec::new(),
        }
    }
}
