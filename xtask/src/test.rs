//! `cargo xtask test`: every check of this workspace, in order, then one table of what came of it.
mod report;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    build,
    failure::NotPossible,
    image, process,
    setup::{self, Toolchain},
    tidy, workspace,
};

use report::{Outcome, Report, TestLines};

/// Tests that need root and a kernel run only when this is set; without it they skip themselves.
const KERNEL_TESTS: &str = "SLUICE_KERNEL_TESTS";

/// One check, in the order in which they run: quick ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// rustfmt finds nothing to change
    Fmt,
    /// The rules of this workspace (`cargo xtask tidy`)
    Tidy,
    /// clippy finds nothing, in all targets
    Clippy,
    /// clippy finds nothing in the eBPF programs
    ClippyBpf,
    /// cargo-deny finds no licence, source or crate that deny.toml forbids
    Deny,
    /// `cargo test`: what needs no kernel
    Unit,
    /// Programs, sockets and the agent in a real kernel
    Kernel,
    /// The demo, start to end
    Demo,
    /// The demo with a real API server
    DemoKubernetes,
}

impl Step {
    fn heading(self) -> &'static str {
        match self {
            Self::Fmt => "format",
            Self::Tidy => "tidy",
            Self::Clippy => "clippy",
            Self::ClippyBpf => "clippy of the eBPF programs",
            Self::Deny => "licences and sources",
            Self::Unit => "tests without a kernel",
            Self::Kernel => "tests in the kernel",
            Self::Demo => "demo",
            Self::DemoKubernetes => "demo with Kubernetes",
        }
    }

    /// Whether the step runs programs in the kernel; the others need neither root nor the lab.
    fn needs_kernel(self) -> bool {
        matches!(self, Self::Kernel | Self::Demo | Self::DemoKubernetes)
    }

    /// Whether the step compiles for BPF or uses what was compiled.
    fn needs_bpf(self) -> bool {
        self.needs_kernel() || self == Self::ClippyBpf
    }
}

/// Runs the steps, or those of them that are named.
pub(crate) fn run(only: &[Step]) -> Result<()> {
    let steps: Vec<Step> =
        Step::value_variants().iter().copied().filter(|step| only.is_empty() || only.contains(step)).collect();
    let mut report = Report::default();
    let mut toolchain = None;
    if steps.iter().any(|step| step.needs_bpf()) {
        let started = heading("set-up");
        let lab = steps.iter().any(|step| step.needs_kernel());
        // A machine that does not allow it ends everything here, with exit code 2 and one sentence.
        toolchain = Some(if lab { setup::run()? } else { setup::for_build()? });
        if steps.iter().any(|step| matches!(step, Step::Kernel | Step::DemoKubernetes)) {
            setup::for_kubernetes()?;
        }
        if steps.contains(&Step::Kernel) {
            setup::for_containers()?;
        }
        report.step("set-up", started.elapsed(), Outcome::Ok);
    }
    if let Some(toolchain) = toolchain.as_ref().filter(|_| steps.iter().any(|step| step.needs_kernel())) {
        let started = heading("build");
        let built = build::object(toolchain).and_then(|()| build::everything());
        let outcome = outcome_of(built.map(|()| Outcome::Ok));
        report.step("build", started.elapsed(), outcome);
    }
    for step in steps {
        let started = heading(step.heading());
        let outcome = if step.needs_kernel() && report.failed() && !report.is_ok("build") {
            Outcome::NotRun("the build failed".into())
        } else {
            outcome_of(one(step, toolchain.as_ref(), &mut report.tests))
        };
        report.step(step.heading(), started.elapsed(), outcome);
    }
    println!("\n{report}");
    if report.failed() {
        bail!("not every check passed");
    }
    Ok(())
}

fn one(step: Step, toolchain: Option<&Toolchain>, tests: &mut TestLines) -> Result<Outcome> {
    match step {
        Step::Fmt => run_in_view(process::cargo().args(["fmt", "--all", "--check"])),
        Step::Tidy => tidy::run().map(|()| Outcome::Ok),
        Step::Clippy => run_in_view(process::cargo().args(["clippy", "--all-targets", "--", "-D", "warnings"])),
        Step::ClippyBpf => clippy_bpf(toolchain.context("set-up has not run")?),
        Step::Deny => deny(),
        Step::Unit => unit(tests),
        Step::Kernel => kernel(tests),
        Step::Demo => demo(false),
        Step::DemoKubernetes => demo(true),
    }
}

fn clippy_bpf(toolchain: &Toolchain) -> Result<Outcome> {
    let Some(mut cargo) = toolchain.cargo_clippy() else {
        return Ok(Outcome::NotRun("no clippy fits the BPF compiler here; `cargo xtask setup` installs it".into()));
    };
    build::for_bpf(&mut cargo, toolchain);
    run_in_view(cargo.args(["--", "-D", "warnings"]))
}

/// Takes a second, but its program minutes to install: so it runs where somebody has done that. Advisories come from the
/// network, and would make a checkout fail that did not change: `cargo deny check` asks for them, too.
fn deny() -> Result<Outcome> {
    if setup::which("cargo-deny").is_none() {
        return Ok(Outcome::NotRun("no cargo-deny here (cargo install --locked cargo-deny)".into()));
    }
    run_in_view(process::cargo().args(["deny", "check", "bans", "licenses", "sources"]))
}

/// `cargo test`, as a contributor runs it.
fn unit(tests: &mut TestLines) -> Result<Outcome> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--no-fail-fast"]).env_remove(KERNEL_TESTS);
    run_tests(&mut cargo, tests.in_part("unit"))
}

/// The integration tests once more, now with the kernel. Named one by one and not with `--package`: another choice of
/// packages would be another union of features, and the dependencies would be compiled again.
fn kernel(tests: &mut TestLines) -> Result<Outcome> {
    let targets = integration_tests(&workspace::root().join("tests/tests"))?;
    if targets.is_empty() {
        return Ok(Outcome::NotRun("there is no file in tests/tests".into()));
    }
    let mut cargo = process::cargo();
    cargo.args(["test", "--no-fail-fast"]);
    for target in targets {
        cargo.args(["--test", &target]);
    }
    // What these tests print is worth reading when they pass too: the verifier's budget, and why one did not run.
    cargo.args(["--", "--show-output"]);
    cargo.env(KERNEL_TESTS, "1").env(workspace::BINARY_VARIABLE, workspace::built("sluice", false));
    cargo.env(workspace::KUBERNETES_VARIABLE, workspace::kubernetes()).env(image::VARIABLE, image::for_tests()?);
    run_tests(&mut cargo, tests.in_part("kernel"))
}

/// What `cargo xtask demo` shows, with nothing kept.
fn demo(kubernetes: bool) -> Result<Outcome> {
    crate::demo::show(false, kubernetes)?;
    Ok(Outcome::Ok)
}

/// The names of cargo's test targets in a folder: its files, and its folders with a main.rs.
fn integration_tests(folder: &Path) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let is_target = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file();
        if let Some(name) = path.file_stem().filter(|_| is_target) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn run_in_view(command: &mut Command) -> Result<Outcome> {
    process::run(command.current_dir(workspace::root()))?;
    Ok(Outcome::Ok)
}

fn run_tests(cargo: &mut Command, mut lines: report::Part<'_>) -> Result<Outcome> {
    let status = process::run_and_read(cargo.current_dir(workspace::root()), |line| lines.read(line))?;
    if status.success() {
        return Ok(Outcome::Ok);
    }
    bail!("`cargo test` failed ({status})")
}

/// A failed step is a row, and the next one still runs; only a machine that cannot go on would end it all.
fn outcome_of(result: Result<Outcome>) -> Outcome {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        let kind = if error.is::<NotPossible>() { "not possible here" } else { "failed" };
        Outcome::Failed(kind.into())
    })
}

fn heading(text: &str) -> Instant {
    println!("\n=== {text} ===");
    Instant::now()
}

/// A time as the table shows it.
fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_targets_are_files_and_folders_with_a_main() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["sockets.rs", "datapath.rs", "notes.md"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir_all(dir.path().join("agent")).unwrap();
        fs::write(dir.path().join("agent/main.rs"), "").unwrap();
        fs::create_dir_all(dir.path().join("scripts")).unwrap();
        assert_eq!(integration_tests(dir.path()).unwrap(), ["agent", "datapath", "sockets"]);
        assert!(integration_tests(&dir.path().join("none")).unwrap().is_empty());
    }
}
