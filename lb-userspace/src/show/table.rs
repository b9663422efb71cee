//! Rows to text: columns as kubectl prints them, or JSON, or YAML.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

/// In which form rows are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Columns.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// What becomes one line of a table.
pub trait Row: Serialize {
    /// Columns that are always there.
    const COLUMNS: &'static [&'static str];
    /// Columns of the wide form, after those.
    const WIDE: &'static [&'static str];

    /// The cells of [`Row::COLUMNS`].
    fn cells(&self) -> Vec<String>;
    /// The cells of [`Row::WIDE`].
    fn wide(&self) -> Vec<String>;
}

/// Rows as text, the last line ended.
///
/// # Errors
/// A row cannot be serialized, which no row here can fail at.
pub fn render<R: Row>(rows: &[R], output: Output) -> Result<String, String> {
    match output {
        Output::Table => Ok(table(rows, false)),
        Output::Wide => Ok(table(rows, true)),
        Output::Json | Output::Yaml => serialized(&rows, output),
    }
}

/// Anything as JSON or YAML; as JSON where a table is asked for.
///
/// # Errors
/// It cannot be serialized.
pub(super) fn serialized<T: Serialize>(value: &T, output: Output) -> Result<String, String> {
    let text = match output {
        Output::Yaml => serde_saphyr::to_string(value).map_err(|error| error.to_string())?,
        _ => serde_json::to_string_pretty(value).map_err(|error| error.to_string())?,
    };
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

fn table<R: Row>(rows: &[R], wide: bool) -> String {
    let header = if wide { [R::COLUMNS, R::WIDE].concat() } else { R::COLUMNS.to_vec() };
    let cells = rows.iter().map(|row| {
        let mut cells = row.cells();
        if wide {
            cells.extend(row.wide());
        }
        cells
    });
    aligned(&header, cells)
}

/// Lines whose columns stand below each other, three spaces apart.
pub(super) fn aligned(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for cells in rows {
        table.add_row(cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.trim_fmt() + "\n"
}

/// A time span as kubectl writes it: 42s, 5m10s, 3h7m, 12d.
pub fn age(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..36_000 => format!("{hours}h{}m", minutes % 60),
        36_000..172_800 => format!("{hours}h"),
        _ => format!("{}d", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Pair(&'static str, u32);

    impl Row for Pair {
        const COLUMNS: &'static [&'static str] = &["NAME"];
        const WIDE: &'static [&'static str] = &["NUMBER"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned()]
        }
        fn wide(&self) -> Vec<String> {
            vec![self.1.to_string()]
        }
    }

    #[test]
    fn rows_are_printed_in_every_form() {
        let rows = [Pair("web", 1), Pair("", 20)];
        for (output, expected) in [
            (Output::Table, "NAME\nweb\n-\n"),
            (Output::Wide, "NAME   NUMBER\nweb    1\n-      20\n"),
            (Output::Json, "[\n  [\n    \"web\",\n    1\n  ],\n  [\n    \"\",\n    20\n  ]\n]\n"),
            (Output::Yaml, "- - web\n  - 1\n- - \"\"\n  - 20\n"),
        ] {
            assert_eq!(render(&rows, output).unwrap(), expected, "{output:?}");
        }
        assert_eq!(render::<Pair>(&[], Output::Table).unwrap(), "NAME\n");
        assert_eq!(render::<Pair>(&[], Output::Json).unwrap(), "[]\n");
    }

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        for (seconds, expected) in
            [(0, "0s"), (119, "119s"), (125, "2m5s"), (601, "10m"), (10_860, "3h1m"), (36_000, "10h"), (200_000, "2d")]
        {
            assert_eq!(age(seconds), expected);
        }
    }
}
