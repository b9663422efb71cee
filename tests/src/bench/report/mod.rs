//! What a part of the benchmark found: kept as JSON for machines, shown as tables in a terminal, and as tables and plots
//! on one page.

mod chart;
mod machine;
mod page;
mod runs;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) use chart::{Bar, Chart};
pub(super) use machine::Machine;
pub(super) use page::{Section, write};
pub(super) use runs::{Runs, quantile};
pub(super) use table::{Table, show};

/// What one part found.
pub(super) trait Findings: Serialize + DeserializeOwned {
    /// The part, as it is typed, and as its file is called.
    const PART: &'static str;
    /// What it measures, as a heading.
    const TITLE: &'static str;

    /// Where it was measured.
    fn machine(&self) -> &Machine;

    /// All figures.
    fn tables(&self) -> Vec<Table>;

    /// The figures that say most.
    fn charts(&self) -> Vec<Chart>;

    /// Prints the tables, keeps the JSON in `folder`.
    fn save(&self, folder: &Path) -> Result<()> {
        println!("\n{}\n{}\n", Self::TITLE, self.machine());
        for table in self.tables() {
            println!("{table}\n");
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(Self::PART).with_extension("json");
        let json = serde_json::to_string_pretty(self)?;
        fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
        println!("saved as {}", path.display());
        Ok(())
    }

    /// What the latest run of this part left in `folder`, for the page; nothing where there was none.
    fn section(folder: &Path) -> Result<Option<Section>> {
        let path = folder.join(Self::PART).with_extension("json");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        // An older version of the benchmark may have left another form of it.
        let Ok(findings) = serde_json::from_str::<Self>(&text) else { return Ok(None) };
        Ok(Some(Section {
            title: Self::TITLE,
            machine: findings.machine().to_string(),
            tables: findings.tables(),
            plots: findings.charts().iter().map(Chart::svg).collect::<Result<_>>()?,
        }))
    }
}
