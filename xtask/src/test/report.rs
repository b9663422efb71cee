//! What came of the steps: a table, and the tests that skipped themselves with their reasons.
use std::{collections::BTreeMap, fmt, time::Duration};

use super::seconds;

/// What came of one step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    Failed(String),
    /// Left out, and why.
    NotRun(String),
}

#[derive(Debug)]
struct Row {
    step: String,
    time: Duration,
    outcome: Outcome,
}

/// All steps so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    rows: Vec<Row>,
    pub(super) tests: TestLines,
}

impl Report {
    pub(super) fn step(&mut self, step: &str, time: Duration, outcome: Outcome) {
        self.rows.push(Row { step: step.to_owned(), time, outcome });
    }

    pub(super) fn failed(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.outcome, Outcome::Failed(_)))
    }

    pub(super) fn is_ok(&self, step: &str) -> bool {
        self.rows.iter().any(|row| row.step == step && row.outcome == Outcome::Ok)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.step.len()).max().unwrap_or(0).max("STEP".len());
        writeln!(f, "{:<width$}  {:>7}  RESULT", "STEP", "SECONDS")?;
        for row in &self.rows {
            let result = match &row.outcome {
                Outcome::Ok => "ok".to_owned(),
                Outcome::Failed(kind) => kind.to_uppercase(),
                Outcome::NotRun(why) => format!("not run: {why}"),
            };
            writeln!(f, "{:<width$}  {:>7}  {result}", row.step, seconds(row.time))?;
        }
        let total: Duration = self.rows.iter().map(|row| row.time).sum();
        writeln!(f, "{:<width$}  {:>7}", "total", seconds(total))?;
        write!(f, "{}", self.tests)
    }
}

/// How a test says in its own output that it did not run; what follows is its name, a colon and the reason.
const SKIP_MARKS: [&str; 2] = ["SKIPPED ", "SKIP "];

/// What the test programs said, over all steps.
#[derive(Debug, Default)]
pub(super) struct TestLines {
    passed: u64,
    failed: u64,
    /// Test → the last step that skipped it and why. A later step in which it runs takes it out.
    skipped: BTreeMap<String, (&'static str, String)>,
}

impl TestLines {
    /// Starts one run of the tests.
    pub(super) fn in_part(&mut self, name: &'static str) -> Part<'_> {
        Part { name, all: self }
    }
}

impl fmt::Display for TestLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tests: {} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped.len())?;
        for (test, (_, reason)) in &self.skipped {
            write!(f, "\n  {test}: {reason}")?;
        }
        Ok(())
    }
}

/// One run of the tests, read line by line.
#[derive(Debug)]
pub(super) struct Part<'a> {
    name: &'static str,
    all: &'a mut TestLines,
}

impl Part<'_> {
    /// Understands three kinds of line and ignores the others:
    /// `test result: ok. 3 passed; 0 failed; …`, `test name ... ignored, reason`, and `SKIPPED name: reason`, which a
    /// test writes when it finds that it cannot run here.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.all.passed += number_before(result, " passed");
            self.all.failed += number_before(result, " failed");
        } else if let Some((_, skipped)) = SKIP_MARKS.iter().find_map(|mark| line.split_once(mark)) {
            let (test, reason) = skipped.split_once(": ").unwrap_or((skipped, "no reason given"));
            self.skip(test, reason);
        } else if let Some((test, state)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            match state.strip_prefix("ignored") {
                Some(reason) => self.skip(test, reason.strip_prefix(", ").unwrap_or("no reason given")),
                None => self.ran(test),
            }
        }
    }

    fn skip(&mut self, test: &str, reason: &str) {
        self.all.skipped.insert(test.to_owned(), (self.name, reason.to_owned()));
    }

    /// A test that ended well in this part was not skipped in an earlier one for good. Within one part the skipping
    /// test itself ends with `ok`, which says nothing.
    fn ran(&mut self, test: &str) {
        if self.all.skipped.get(test).is_some_and(|(part, _)| *part != self.name) {
            self.all.skipped.remove(test);
        }
    }
}

fn number_before(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().unwrap_or_default();
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tests: &mut TestLines, part: &'static str, text: &str) {
        let mut part = tests.in_part(part);
        text.lines().for_each(|line| part.read(line));
    }

    #[test]
    fn results_are_added_up_and_skips_keep_their_reasons() {
        let mut tests = TestLines::default();
        read(
            &mut tests,
            "unit",
            "running 3 tests\ntest a ... ok\ntest b ... ignored, takes an hour\nSKIP tcp_flows: no root\n\
             test tcp_flows ... ok\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
             test result: FAILED. 10 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        let text = tests.to_string();
        assert_eq!(text, "tests: 12 passed, 4 failed, 2 skipped\n  b: takes an hour\n  tcp_flows: no root");
    }

    #[test]
    fn a_test_that_runs_later_is_not_skipped() {
        let mut tests = TestLines::default();
        read(&mut tests, "unit", "test tcp_flows ... SKIPPED tcp_flows: no kernel\nok");
        read(&mut tests, "unit", "test tcp_flows ... ok");
        assert_eq!(tests.skipped.len(), 1);
        read(&mut tests, "kernel", "test tcp_flows ... ok");
        assert!(tests.skipped.is_empty());
    }

    #[test]
    fn the_table_names_each_step_its_time_and_its_result() {
        let mut report = Report::default();
        report.step("format", Duration::from_millis(1_240), Outcome::Ok);
        report.step("clippy", Duration::from_secs(61), Outcome::Failed("failed".into()));
        report.step("demo", Duration::ZERO, Outcome::NotRun("there is none".into()));
        let text = report.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "STEP    SECONDS  RESULT",
                "format      1.2  ok",
                "clippy     61.0  FAILED",
                "demo        0.0  not run: there is none",
                "total      62.2",
                "tests: 0 passed, 0 failed, 0 skipped",
            ]
        );
        assert!(report.failed() && report.is_ok("format") && !report.is_ok("clippy"));
    }
}
