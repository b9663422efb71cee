//! The figures, by program and number of Services.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::objects::ENDPOINTS;
use crate::bench::report::{Bar, Chart, Findings, Machine, Table, quantile, show};
use crate::bench::usage::MapMemory;

/// One subject at one number of Services.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) subject: String,
    pub(super) services: u32,
    pub(super) start: Option<Start>,
    pub(super) paused: Option<Changes>,
    pub(super) back_to_back: Option<Changes>,
    /// MiB resident at most, from start to end.
    pub(super) peak: Option<f64>,
    pub(super) maps: Option<MapMemory>,
    /// Seconds after which the start was given up.
    pub(super) cut_off: Option<f64>,
}

/// From exec to complete.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// Seconds until every Service of the sample answered a new connection.
    pub(super) seconds: f64,
    /// Seconds until the agent said so itself.
    pub(super) says_ready: Option<f64>,
    /// Seconds of CPU until a few seconds later.
    pub(super) cpu: f64,
    /// MiB resident then.
    pub(super) rss: f64,
}

/// A series of changes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Changes {
    /// Milliseconds from the request to the API server to the first packet at a new endpoint, in the order of changes.
    pub(super) latencies: Vec<f64>,
    /// Milliseconds until the API server had answered.
    pub(super) writes: Vec<f64>,
    /// Seconds of CPU for all of them.
    pub(super) cpu: f64,
}

impl Changes {
    /// The latency that `share` of all do not exceed.
    fn quantile(&self, share: f64) -> f64 {
        quantile(&self.latencies, share)
    }

    fn spread(&self) -> Spread {
        (self.quantile(0.0), self.quantile(0.5), self.quantile(1.0))
    }
}

impl Row {
    /// One whose start took too long.
    pub(super) fn cut_off(subject: &'static str, services: u32, after: Duration) -> Self {
        let cut_off = Some(after.as_secs_f64());
        let subject = subject.to_owned();
        Self { subject, services, start: None, paused: None, back_to_back: None, peak: None, maps: None, cut_off }
    }

    /// Every figure of the table, in the order of its columns; none where there is none.
    fn figures(&self) -> [Option<f64>; FIGURES.len()] {
        let start = |get: fn(&Start) -> f64| self.start.as_ref().map(get);
        let of = |changes: &Option<Changes>, share| changes.as_ref().map(|changes| changes.quantile(share));
        let cpu = |changes: &Option<Changes>| changes.as_ref().map(|changes| changes.cpu);
        let (paused, dense) = (&self.paused, &self.back_to_back);
        [
            start(|start| start.seconds),
            start(|start| start.cpu),
            start(|start| start.rss),
            self.peak,
            of(paused, 0.5),
            of(paused, 0.99),
            of(paused, 1.0),
            cpu(paused),
            of(dense, 0.5),
            of(dense, 0.99),
            of(dense, 1.0),
            cpu(dense),
        ]
    }

    /// The row as it stands alone, while others are still being measured.
    pub(super) fn line(&self) -> String {
        let figures = FIGURES.iter().zip(self.figures()).map(|(name, figure)| format!("{name} {}", show(figure)));
        format!("{}, {} Services: {}", self.subject, self.services, figures.collect::<Vec<_>>().join(", "))
    }
}

const FIGURES: [&str; 12] = [
    "START s",
    "CPU s",
    "RSS MiB",
    "PEAK MiB",
    "P50 ms",
    "P99 ms",
    "MAX ms",
    "CPU s",
    "DENSE P50",
    "P99",
    "MAX",
    "CPU s",
];

/// The least, the middle and the most of a figure.
type Spread = (f64, f64, f64);

/// What was measured, and on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::bench) struct Report {
    pub(super) machine: Machine,
    pub(super) changes: u32,
    pub(super) rows: Vec<Row>,
}

impl Report {
    /// What the other figures of a row are compared with: the first of its size.
    fn base<'a>(&'a self, row: &'a Row) -> &'a Row {
        self.rows.iter().find(|first| first.services == row.services).unwrap_or(row)
    }

    fn notes(&self) -> Vec<String> {
        let maps = self.rows.iter().filter_map(|row| {
            let (maps, ready) = (row.maps?, row.start?.says_ready?);
            Some(format!(
                "{} Services: Sluice says ready after {} s; its maps take {:.1} MiB, {:.1} of them for Services, \
                 backends and slots of IPv4",
                row.services,
                show(ready),
                maps.all,
                maps.services
            ))
        });
        let cut_off = self.rows.iter().filter_map(|row| {
            let after = row.cut_off?;
            Some(format!("{} with {} Services was cut off after {after:.0} s", row.subject, row.services))
        });
        maps.chain(cut_off).collect()
    }
}

impl Findings for Report {
    const PART: &'static str = "control";
    const TITLE: &'static str = "From the API to the packets";

    fn machine(&self) -> &Machine {
        &self.machine
    }

    /// One; behind each figure of another, how many times Sluice's it is.
    fn tables(&self) -> Vec<Table> {
        let ratio = |(figure, base): (Option<f64>, Option<f64>)| match (figure, base) {
            (Some(figure), Some(base)) if base > 0.0 && base != figure => {
                format!("{} ({}x)", show(figure), show(figure / base))
            }
            _ => show(figure),
        };
        let row = |row: &Row| {
            let base = self.base(row);
            let figures = row.figures().into_iter().zip(base.figures()).map(ratio);
            [row.services.to_string(), row.subject.clone()].into_iter().chain(figures).collect()
        };
        let series: Vec<_> = self.rows.iter().flat_map(|row| [&row.paused, &row.back_to_back]).flatten().collect();
        let writes: Vec<f64> = series.iter().flat_map(|changes| &changes.writes).copied().collect();
        vec![Table {
            title: format!(
                "{ENDPOINTS} endpoints a Service; {} changes with pauses, and as many back to back (DENSE); the API \
                 server answers a write after {} ms (p50)",
                self.changes,
                show(quantile(&writes, 0.5)),
            ),
            header: ["SERVICES", "SUBJECT"].into_iter().chain(FIGURES).collect(),
            rows: self.rows.iter().map(row).collect(),
            words: 2,
            notes: self.notes(),
        }]
    }

    fn charts(&self) -> Vec<Chart> {
        let Some(services) = self.rows.last().map(|row| row.services) else { return Vec::new() };
        let rows = || self.rows.iter().filter(|row| row.services == services);
        let chart = |title: &str, goal: f64, figure: fn(&Row) -> Option<Spread>| {
            let bars = rows().filter_map(|row| {
                let (least, value, most) = figure(row)?;
                let goal = Some(goal).filter(|_| row.subject == "Sluice");
                Some(Bar { label: row.subject.clone(), value, spread: (least, most), goal })
            });
            Chart { title: format!("{title}, {services} Services"), bars: bars.collect() }
        };
        vec![
            chart("EndpointSlice to packet, p50 in ms", 8.0, |row| row.paused.as_ref().map(Changes::spread)),
            chart("The same back to back, p50 in ms", 8.0, |row| row.back_to_back.as_ref().map(Changes::spread)),
            chart("Start to complete rules in s", 1.5, |row| row.start.map(|start| [start.seconds; 3].into())),
            chart("Resident memory after the start in MiB", 100.0, |row| row.start.map(|start| [start.rss; 3].into())),
        ]
    }
}
