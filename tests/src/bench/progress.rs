//! Bars that show how far a part has come.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `len` steps, called `unit`. What is under way stands behind it, as its message.
pub(super) fn bar(prefix: String, len: u64, unit: &str) -> Result<ProgressBar> {
    let bar = ProgressBar::new(len);
    let template = format!("{{prefix:>36}} {{wide_bar}} {{pos}}/{{len}} {unit}, {{eta}} left  {{msg}}");
    bar.set_style(ProgressStyle::with_template(&template)?);
    bar.set_prefix(prefix);
    bar.tick();
    Ok(bar)
}
