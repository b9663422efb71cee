//! What the demo shows: colours, bars and progress on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::lab::{Report, Running};

/// Width of a full bar.
const BAR: usize = 40;

/// Where the demo writes.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal() }
    }

    fn styled(&self, code: &str, text: &str) -> String {
        if self.terminal { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A heading.
    pub(super) fn title(&self, text: &str) {
        println!("\n{}", self.styled("1", text));
    }

    /// Sentences.
    pub(super) fn say(&self, text: &str) {
        println!("{text}");
    }

    /// Something measured.
    pub(super) fn fact(&self, text: &str) {
        println!("  {}", self.styled("32", text));
    }

    /// Something that happened, with its time.
    pub(super) fn event(&self, clock: Instant, text: &str) {
        println!("  {:5.2} s  {text}", clock.elapsed().as_secs_f64());
    }

    /// A file's content.
    pub(super) fn quote(&self, text: &str) {
        for line in text.lines() {
            println!("  {}", self.styled("2", line));
        }
    }

    /// Two columns.
    pub(super) fn rows(&self, rows: &[(impl AsRef<str>, String)]) {
        let width = rows.iter().map(|(name, _)| name.as_ref().len()).max().unwrap_or_default();
        for (name, text) in rows {
            println!("  {:width$}  {text}", name.as_ref());
        }
    }

    /// A command and what it printed.
    pub(super) fn command(&self, command: &str, output: &str) {
        println!("{}", self.styled("1", &format!("$ {command}")));
        print!("{output}");
        println!();
    }

    /// Commands with what each is for.
    pub(super) fn commands(&self, rows: &[(&str, String)]) {
        for (what, command) in rows {
            println!("  {}", self.styled("2", &format!("# {what}")));
            println!("  {command}");
        }
    }

    /// A share of `all`, drawn.
    pub(super) fn bar(&self, name: &str, count: usize, all: usize) {
        let full = "█".repeat(count * BAR / all.max(1));
        let percent = count as f64 * 100.0 / all.max(1) as f64;
        println!("  {name:20} {}  {count} ({percent:.0} %)", self.styled("36", &format!("{full:BAR$}")));
    }

    /// Does `work` behind a spinner.
    pub(super) fn wait<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.terminal {
            println!("{what} …");
            return work();
        }
        let spinner = ProgressBar::new_spinner().with_message(format!("{what} …"));
        spinner.enable_steady_tick(Duration::from_millis(80));
        let result = work();
        spinner.finish_and_clear();
        println!("{what}: done.");
        result
    }

    /// Follows a load to its end.
    pub(super) fn watch(&self, running: Running, count: usize) -> Result<Report> {
        let bar = if self.terminal { ProgressBar::new(count as u64) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("  {bar:40} {pos}/{len} requests") {
            bar.set_style(style);
        }
        while !running.is_finished() {
            bar.set_position(running.so_far().answers.len() as u64);
            std::thread::sleep(Duration::from_millis(20));
        }
        bar.finish_and_clear();
        running.finish()
    }
}
