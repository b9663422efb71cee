//! The figures: packets a second of CPU time.

use serde::{Deserialize, Serialize};

use super::Way;
use crate::bench::report::{Bar, Chart, Findings, Machine, Runs, Table, show};

/// One way in one setting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) target: String,
    pub(super) family: String,
    pub(super) flows: u32,
    pub(super) subject: String,
    /// Whether packets arrive at all.
    pub(super) works: bool,
    /// Packets a second of CPU time, by run.
    pub(super) rates: Runs,
    /// The share that did not arrive, by run.
    pub(super) lost: Runs,
}

impl Row {
    fn setting(&self) -> (&str, &str, u32) {
        (&self.target, &self.family, self.flows)
    }
}

/// What was measured, and on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::bench) struct Report {
    pub(super) machine: Machine,
    pub(super) rows: Vec<Row>,
}

/// How many times kube-proxy's rate the design asks for, at a NodePort.
const GOAL: f64 = 5.0;
const PROXY: &str = "kube-proxy nftables";

impl Report {
    /// Another row of the same setting.
    fn beside(&self, row: &Row, subject: &str) -> Option<&Row> {
        self.rows.iter().find(|other| other.subject == subject && other.setting() == row.setting() && other.works)
    }

    /// The rate to reach.
    fn goal(&self, row: &Row) -> Option<f64> {
        let asked = row.subject == "Sluice XDP" && row.target == "NodePort";
        Some(GOAL * self.beside(row, PROXY).filter(|_| asked)?.rates.median())
    }
}

impl Findings for Report {
    const PART: &'static str = "forward";
    const TITLE: &'static str = "Packets sent on to another node";

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn tables(&self) -> Vec<Table> {
        let row = |row: &Row| {
            let over = |base: &str| {
                let ratios = row.rates.over(&self.beside(row, base).filter(|_| row.works)?.rates);
                Some(format!("{} ({}–{})", show(ratios.median()), show(ratios.min()), show(ratios.max())))
            };
            let nanoseconds = |row: &Row| 1e9 / row.rates.max();
            let wire = self.beside(row, Way::Wire.name()).filter(|_| row.works);
            let net = wire.map(|wire| format!("{:.0}", nanoseconds(row) - nanoseconds(wire)));
            let over = |base| over(base).unwrap_or_else(|| "-".into());
            let thousands = |rate: f64| show(Some(rate / 1e3).filter(|_| row.works));
            vec![
                row.target.clone(),
                row.family.clone(),
                row.flows.to_string(),
                row.subject.clone(),
                thousands(row.rates.median()),
                thousands(row.rates.max()),
                net.unwrap_or_else(|| "-".into()),
                over(Way::Plain.name()),
                over(PROXY),
                show(100.0 * row.lost.median()),
            ]
        };
        let dead = self.rows.iter().filter(|row| !row.works);
        let note = |row: &Row| format!("{} sends nothing on for a {} of {}", row.subject, row.target, row.family);
        let mut notes: Vec<_> = dead.map(note).collect();
        notes.dedup();
        vec![Table {
            title:
                "thousand packets a second of CPU time, generator and counter included; NET: of one packet, without \
                    these, at best; ratios run by run: median (least–most)"
                    .into(),
            header: vec![
                "TO",
                "FAMILY",
                "FLOWS",
                "SUBJECT",
                "MEDIAN",
                "BEST",
                "NET ns",
                "TO PLAIN",
                "TO KUBE-PROXY NFTABLES",
                "LOST %",
            ],
            rows: self.rows.iter().map(row).collect(),
            words: 4,
            notes,
        }]
    }

    fn charts(&self) -> Vec<Chart> {
        let mut charts: Vec<Chart> = Vec::new();
        for row in self.rows.iter().filter(|row| row.works) {
            let (target, family, flows) = row.setting();
            let title =
                format!("Outside to {target}, {family}, {flows} flows: thousand packets a second, more is better");
            let bar = Bar {
                label: row.subject.clone(),
                value: row.rates.median() / 1e3,
                spread: (row.rates.min() / 1e3, row.rates.max() / 1e3),
                goal: self.goal(row).map(|goal| goal / 1e3),
            };
            match charts.iter_mut().find(|chart| chart.title == title) {
                Some(chart) => chart.bars.push(bar),
                None => charts.push(Chart { title, bars: vec![bar] }),
            }
        }
        charts
    }
}
