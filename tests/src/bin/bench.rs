//! The benchmarks, one subcommand each; `cargo xtask bench` builds what they need and runs them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice_tests::bench::control::{self, Subject};
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
    /// From the API to the packets, beside kube-proxy
    Control {
        /// Numbers of Services, ascending, with commas between
        #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
        services: Vec<u32>,
        /// Changes with pauses between, and as many back to back
        #[arg(long, default_value_t = 30)]
        changes: u32,
        /// What to measure, with commas between
        #[arg(long, value_delimiter = ',', default_values_t = Subject::ALL)]
        subjects: Vec<Subject>,
        /// Where the figures go, as JSON
        #[arg(long)]
        json: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().part {
        Part::Datapath { front, runs, rounds, services, json } => {
            datapath::run(&datapath::Options { front, runs, rounds, many: services, json })
        }
        Part::Control { services, changes, subjects, json } => {
            control::run(&control::Options { services, changes, subjects, json })
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
