//! What a run found.

use std::collections::BTreeMap;
use std::fmt;

/// A difference that no allowance covers.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Gives the same cluster again: `cargo xtask differential --clusters 1 --seed <seed>`.
    pub seed: u64,
    /// After so many changes.
    pub changes: usize,
    /// The last change.
    pub change: String,
    /// Who asked what.
    pub question: String,
    /// What came of it with kube-proxy.
    pub kube_proxy: String,
    /// What came of it with Sluice.
    pub sluice: String,
    /// The Service's objects, as JSON.
    pub objects: String,
}

/// All that was found, and how much was asked.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Clusters that ran.
    pub clusters: usize,
    /// Changes of them.
    pub changes: usize,
    /// Questions put to both worlds.
    pub questions: usize,
    /// What came of them with kube-proxy.
    pub outcomes: BTreeMap<String, usize>,
    /// Conversations from before a change that went on after it, and what became of them with kube-proxy.
    pub lasting: BTreeMap<String, usize>,
    /// Answers that differ as they may, by the name of the allowance.
    pub allowed: BTreeMap<&'static str, usize>,
    /// All others that differ.
    pub findings: Vec<Finding>,
}

/// Findings that are shown in full.
const SHOWN: usize = 40;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clusters, changes, questions, .. } = self;
        writeln!(f, "{clusters} clusters, {changes} changes, {questions} questions to both worlds")?;
        for (outcome, count) in &self.outcomes {
            writeln!(f, "  {count:>8} {outcome}")?;
        }
        writeln!(f, "{} times a conversation from before a change", self.lasting.values().sum::<usize>())?;
        for (fate, count) in &self.lasting {
            writeln!(f, "  {count:>8} {fate}")?;
        }
        for (name, count) in &self.allowed {
            writeln!(f, "  {count:>8} differ as allowed: {name}")?;
        }
        writeln!(f, "  {:>8} differ", self.findings.len())?;
        Findings(&self.findings[..self.findings.len().min(SHOWN)]).fmt(f)
    }
}

/// Some of them, in full.
pub(super) struct Findings<'a>(pub(super) &'a [Finding]);

impl fmt::Display for Findings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for finding in self.0 {
            let Finding { seed, changes, change, question, kube_proxy, sluice, objects } = finding;
            // Several questions are mostly about one Service.
            if last != Some((seed, changes, objects)) {
                writeln!(f, "\nseed {seed}, after {changes} changes ({change}):\n  {objects}")?;
                last = Some((seed, changes, objects));
            }
            writeln!(f, "  {question}\n    kube-proxy: {kube_proxy}\n    Sluice:     {sluice}")?;
        }
        Ok(())
    }
}
