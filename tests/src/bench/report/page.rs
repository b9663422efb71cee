//! One page with the latest figures of every part.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Table;

/// Its name, beside the figures.
const PAGE: &str = "report.html";

/// What one part has on the page.
pub(in crate::bench) struct Section {
    pub(super) title: &'static str,
    pub(super) machine: String,
    pub(super) tables: Vec<Table>,
    /// SVG elements.
    pub(super) plots: Vec<String>,
}

/// No script, nothing from elsewhere: it can be sent as it is.
const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}\
                     table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .8em;border-bottom:1px solid #ddd}\
                     th{text-align:left}.figure{text-align:right;font-variant-numeric:tabular-nums}\
                     svg{display:block;margin:1em 0;max-width:100%;height:auto}p{color:#555}";

/// Writes the page, and says where.
pub(in crate::bench) fn write(folder: &Path, sections: &[Section]) -> Result<PathBuf> {
    let path = folder.join(PAGE);
    fs::write(&path, page(sections).into_string()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn page(sections: &[Section]) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Sluice: benchmarks" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Sluice: benchmarks" }
                p { "Black lines span all runs, red ones are goals. docs/benchmarks.md says how each figure is measured." }
                @for section in sections {
                    h2 { (section.title) }
                    p { (section.machine) }
                    @for plot in &section.plots { (PreEscaped(plot)) }
                    @for table in &section.tables { (shown(table)) }
                }
            }
        }
    }
}

fn shown(table: &Table) -> Markup {
    let class = |column: usize| (column >= table.words).then_some("figure");
    html! {
        h3 { (table.title) }
        table {
            tr { @for (column, name) in table.header.iter().enumerate() { th class=[class(column)] { (name) } } }
            @for row in &table.rows {
                tr { @for (column, cell) in row.iter().enumerate() { td class=[class(column)] { (cell) } } }
            }
        }
        @for note in &table.notes { p { (note) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{Bar, Chart};

    #[test]
    fn text_is_text_on_the_page_too() {
        let table = Table {
            title: "a < b".into(),
            header: vec!["NAME", "ns"],
            rows: vec![vec!["<script>".into(), "1.00".into()]],
            words: 1,
            notes: vec![],
        };
        let bar = Bar { label: "<script>".into(), value: 2.0, spread: (1.0, 3.0), goal: Some(1.5) };
        let chart = Chart { title: "a < b".into(), bars: vec![bar] };
        let plots = vec![chart.svg().unwrap()];
        let section = Section { title: "Part", machine: "m & n".into(), tables: vec![table], plots };
        let text = page(&[section]).into_string();
        assert!(!text.contains("<script>"), "{text}");
        for expected in ["a &lt; b", "m &amp; n", r#"<td class="figure">1.00</td>"#, "<svg ", "&lt;script&gt;"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
