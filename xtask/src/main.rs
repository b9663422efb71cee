//! The tasks of this workspace: `cargo xtask <task>`. This file only names them; each has a file of its own.
mod build;
mod failure;
mod process;
mod setup;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, build and tests of Sluice.
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
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup => setup::run().map(drop),
        Task::Build { release } => build::run(release).map(drop),
    };
    if let Err(error) = &outcome {
        eprintln!("error: {error:#}");
    }
    failure::exit_code(&outcome)
}
