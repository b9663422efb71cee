//! The figures: one table for people, JSON for machines.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::objects::ENDPOINTS;
use super::usage::MapMemory;
use crate::bench::report::{Machine, save};

/// One subject at one number of Services.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) subject: &'static str,
    pub(super) services: u32,
    pub(super) start: Option<Start>,
    pub(super) paused: Option<Changes>,
    pub(super) back_to_back: Option<Changes>,
    /// MiB resident at most, from start to end.
    pub(super) peak: f64,
    pub(super) maps: Option<MapMemory>,
    /// Seconds after which the start was given up.
    pub(super) cut_off: Option<f64>,
}

/// From exec to complete.
#[derive(Clone, Copy, Debug, Serialize)]
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
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Changes {
    /// Milliseconds from the request to the API server to the first packet at a new endpoint, in the order of changes.
    pub(super) latencies: Vec<f64>,
    /// Milliseconds until the API server had answered.
    pub(super) writes: Vec<f64>,
    /// Seconds of CPU for all of them.
    pub(super) cpu: f64,
}

impl Changes {
    /// The latency that `share` of all do not exceed (nearest rank).
    fn quantile(&self, share: f64) -> f64 {
        quantile(&self.latencies, share)
    }
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl Row {
    /// One whose start took too long.
    pub(super) fn cut_off(subject: &'static str, services: u32, after: Duration) -> Self {
        let cut_off = Some(after.as_secs_f64());
        Self { subject, services, start: None, paused: None, back_to_back: None, peak: f64::NAN, maps: None, cut_off }
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
            Some(self.peak).filter(|peak| peak.is_finite()),
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

/// What was measured, and on what.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    machine: Machine,
    kube_proxy: String,
    changes: u32,
    pub(super) rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(changes: u32, kube_proxy: &str) -> Self {
        Self { machine: Machine::this(), kube_proxy: kube_proxy.to_owned(), changes, rows: Vec::new() }
    }

    /// The table; behind each figure of another, how many times Sluice's it is.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["SERVICES", "SUBJECT"].into_iter().chain(FIGURES));
        table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        for row in &self.rows {
            // The first of its size.
            let base = self.rows.iter().find(|first| first.services == row.services).unwrap_or(row);
            let mut cells = vec![row.services.to_string(), row.subject.to_owned()];
            let ratio = |(figure, base): (Option<f64>, Option<f64>)| match (figure, base) {
                (Some(figure), Some(base)) if base > 0.0 && base != figure => {
                    format!("{} ({}x)", show(Some(figure)), show(Some(figure / base)))
                }
                _ => show(figure),
            };
            if std::ptr::eq(base, row) {
                cells.extend(row.figures().map(show));
            } else {
                cells.extend(row.figures().into_iter().zip(base.figures()).map(ratio));
            }
            table.add_row(cells);
        }
        let maps = self.rows.iter().filter_map(|row| {
            let (maps, ready) = (row.maps?, row.start?.says_ready?);
            Some(format!(
                "\n{} Services: Sluice says ready after {} s; its maps take {:.1} MiB, {:.1} of them for Services, \
                 backends and slots of IPv4",
                row.services,
                show(Some(ready)),
                maps.all,
                maps.services
            ))
        });
        let cut_off = self.rows.iter().filter_map(|row| {
            let after = row.cut_off?;
            Some(format!("\n{} with {} Services was cut off after {after:.0} s", row.subject, row.services))
        });
        let writes: Vec<_> = self.rows.iter().flat_map(|row| [&row.paused, &row.back_to_back]).flatten().collect();
        let writes: Vec<f64> = writes.iter().flat_map(|changes| &changes.writes).copied().collect();
        format!(
            "{ENDPOINTS} endpoints a Service; {} changes with pauses, and as many back to back (DENSE); the API server \
             answers a write after {} ms (p50); kube-proxy {}; {}\n\n{table}\n{}{}",
            self.changes,
            show(Some(quantile(&writes, 0.5))),
            self.kube_proxy,
            self.machine,
            maps.collect::<String>(),
            cut_off.collect::<String>(),
        )
    }

    /// Writes the JSON.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        save(self, path)
    }
}

/// Three digits that count.
fn show(figure: Option<f64>) -> String {
    match figure {
        None => "-".into(),
        Some(figure) if figure >= 100.0 => format!("{figure:.0}"),
        Some(figure) if figure >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = [4.0, 1.0, 3.0, 2.0];
        for (share, expected) in [(0.5, 2.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0)] {
            assert_eq!(quantile(&values, share), expected);
        }
        assert!(quantile(&[], 0.5).is_nan());
    }
}
