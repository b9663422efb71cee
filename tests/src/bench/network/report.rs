//! The figures, each with what the same was worth between two pods with nothing on their node.

use serde::{Deserialize, Serialize};

use crate::bench::report::{Bar, Chart, Findings, Machine, Runs, Table, show};

/// One figure, run by run, and that of the node without anything, measured just before.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ratio {
    values: Runs,
    direct: Runs,
}

impl Ratio {
    pub(super) fn push(&mut self, value: f64, direct: f64) {
        self.values.push(value);
        self.direct.push(direct);
    }

    /// Value over value, run by run.
    fn ratios(&self) -> Runs {
        self.values.over(&self.direct)
    }

    /// Median, ratio, and its spread.
    fn cells(&self) -> [String; 2] {
        let ratios = self.ratios();
        let spread = format!("{} ({}–{})", show(ratios.median()), show(ratios.min()), show(ratios.max()));
        [show(self.values.median()), if self.values.0.is_empty() { "-".into() } else { spread }]
    }
}

/// One way from a pod to another, with so many Services.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    way: String,
    services: u32,
    /// Microseconds of a round trip.
    pub(super) p50: Ratio,
    pub(super) p99: Ratio,
    /// In a second of CPU time.
    pub(super) connections: Ratio,
    /// Gbit in a second of CPU time.
    pub(super) bulk: Ratio,
    /// Why runs failed that were left out.
    pub(super) failures: Vec<String>,
}

impl Row {
    pub(super) fn new(way: &str, services: u32) -> Self {
        let none = Ratio::default;
        Self {
            way: way.to_owned(),
            services,
            p50: none(),
            p99: none(),
            connections: none(),
            bulk: none(),
            failures: Vec::new(),
        }
    }

    /// What was left out.
    fn note(&self) -> Option<String> {
        let (count, last) = (self.failures.len(), self.failures.last()?);
        Some(format!(
            "{} with {} Services: {count} runs failed and were left out, the last: {last}",
            self.way, self.services
        ))
    }

    /// What the design allows against direct traffic: round trips, connections, bulk. Only Sluice has goals.
    fn goals(&self) -> Option<[f64; 3]> {
        match self.way.as_str() {
            "Sluice, packets" => Some([1.03, 0.97, 0.98]),
            "Sluice, sockets" => Some([1.0, 1.0, 1.0]),
            "no Service, beside Sluice" => Some([1.01, 0.99, 0.99]),
            _ => None,
        }
    }
}

/// One figure of a row.
type Figure = fn(&Row) -> &Ratio;

/// What was measured, and on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::bench) struct Report {
    pub(super) machine: Machine,
    pub(super) rows: Vec<Row>,
}

impl Findings for Report {
    const PART: &'static str = "network";
    const TITLE: &'static str = "From pod to pod";

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn tables(&self) -> Vec<Table> {
        let row = |row: &Row| {
            let figures = [&row.p50, &row.p99, &row.connections, &row.bulk].map(Ratio::cells);
            let goals = row.goals().map_or_else(|| "-".into(), |goals| goals.map(show).join(" "));
            let names = [row.services.to_string(), row.way.clone()];
            names.into_iter().chain(figures.into_iter().flatten()).chain([goals]).collect()
        };
        let header = [
            "SERVICES",
            "WAY",
            "P50 µs",
            "TO DIRECT",
            "P99 µs",
            "TO DIRECT",
            "CONNECTIONS/s",
            "TO DIRECT",
            "BULK Gbit/s",
            "TO DIRECT",
            "GOALS",
        ];
        vec![Table {
            title:
                "medians; ratios to two pods of a node without anything, measured just before: median (least–most); \
                    goals for p50, connections and bulk"
                    .into(),
            header: header.to_vec(),
            rows: self.rows.iter().map(row).collect(),
            words: 2,
            notes: self.rows.iter().filter_map(Row::note).collect(),
        }]
    }

    fn charts(&self) -> Vec<Chart> {
        let mut charts: Vec<Chart> = Vec::new();
        let figures: [(&str, Figure); 3] = [
            ("Round trip (p50) against direct, less is better", |row| &row.p50),
            ("New connections a second against direct, more is better", |row| &row.connections),
            ("Bulk against direct, more is better", |row| &row.bulk),
        ];
        for (n, (title, figure)) in figures.into_iter().enumerate() {
            for row in self.rows.iter().filter(|row| !figure(row).values.0.is_empty()) {
                let title = format!("{title}, {} Services", row.services);
                let ratios = figure(row).ratios();
                let goal = row.goals().map(|goals| goals[n]);
                let spread = (ratios.min(), ratios.max());
                let bar = Bar { label: row.way.clone(), value: ratios.median(), spread, goal };
                match charts.iter_mut().find(|chart| chart.title == title) {
                    Some(chart) => chart.bars.push(bar),
                    None => charts.push(Chart { title, bars: vec![bar] }),
                }
            }
        }
        charts
    }
}
