//! The tasks of this workspace: `cargo xtask <task>`. This file only names them; each has a file of its own.
mod bench;
mod build;
mod demo;
mod differential;
mod failure;
mod image;
mod process;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, build, demo, tests and benchmarks of Sluice.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing need, and check what the kernel allows
    Setup,
    /// Build the eBPF object and the sluice binary
    Build {
        /// Optimise the binary (the eBPF object always is)
        #[arg(long)]
        release: bool,
    },
    /// Show on this machine, in network namespaces, what a Service is for
    Demo {
        /// Leave the small world up at the end, and say how to play with it
        #[arg(long)]
        keep: bool,
        /// The same story, told by kubectl to a real API server
        #[arg(long)]
        kubernetes: bool,
    },
    /// Compare Sluice with the real kube-proxy: random clusters and changes in twin worlds
    Differential(differential::Arguments),
    /// Make the container image, without Docker
    Image(image::Arguments),
    /// Measure, everything or what is named
    Bench(bench::Arguments),
    /// Run every check: format, rules, lints, tests without and with a kernel, the demo
    Test {
        /// Run this step only (may be given more than once)
        #[arg(long, value_name = "STEP")]
        only: Vec<test::Step>,
    },
    /// Check the rules of this workspace: imports by room, lengths, unsafe, twins
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup => setup::run().and_then(|_| setup::for_kubernetes()),
        Task::Build { release } => build::run(release).map(drop),
        Task::Demo { keep, kubernetes } => demo::run(keep, kubernetes),
        Task::Differential(arguments) => differential::run(&arguments),
        Task::Image(arguments) => image::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Test { only } => test::run(&only),
        Task::Tidy => tidy::run(),
    };
    if let Err(error) = &outcome {
        eprintln!("error: {error:#}");
    }
    failure::exit_code(&outcome)
}
