//! A table, for a terminal and for the page.

use std::fmt;

use comfy_table::{CellAlignment, presets};

/// Rows of text under a header. All cells but those of the leading columns are figures.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Table {
    /// What it shows, and in which unit.
    pub(in crate::bench) title: String,
    pub(in crate::bench) header: Vec<&'static str>,
    pub(in crate::bench) rows: Vec<Vec<String>>,
    /// Leading columns that hold words.
    pub(in crate::bench) words: usize,
    /// What else is to be said of it.
    pub(in crate::bench) notes: Vec<String>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(&self.header);
        for column in table.column_iter_mut().skip(self.words) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in &self.rows {
            table.add_row(row);
        }
        write!(f, "{}\n\n{table}", self.title)?;
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

/// Three digits that count; `-` where there is no figure.
pub(in crate::bench) fn show(figure: impl Into<Option<f64>>) -> String {
    match figure.into().filter(|figure| figure.is_finite()) {
        None => "-".into(),
        Some(figure) if figure.abs() >= 100.0 => format!("{figure:.0}"),
        Some(figure) if figure.abs() >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.2}"),
    }
}
