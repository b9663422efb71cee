//! The benchmarks, one subcommand each; `cargo xtask bench` builds what they need and runs them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice_tests::bench::datapath;

#[derive(Debug, Parser)]
#[command(name = "sluice-bench")]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Nanoseconds per packet, by prog run
    Datapath {
        /// The object with the programs that stand in front of the measured one
        #[arg(long)]
        front: PathBuf,
        /// Runs of each case
        #[arg(long, default_value_t = 15)]
        runs: usize,
        /// Packets a run
        #[arg(long, default_value_t = 100_000)]
        rounds: u32,
        /// Services of the second set of tables
        #[arg(long, default_value_t = 100_000)]
        services: u32,
        /// Where the figures go, as JSON
        #[arg(long)]
        json: PathBuf,
    },
}

fn main() -> ExitCode {
    let Part::Datapath { front, runs, rounds, services, json } = Arguments::parse().part;
    let options = datapath::Options { front, runs, rounds, many: services, json };
    match datapath::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
