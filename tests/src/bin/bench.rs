//! The benchmarks; `cargo xtask bench` builds what they need and runs them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use sluice_tests::bench::control::{self, Subject};
use sluice_tests::bench::{self, datapath, forward, network};

#[derive(Debug, Parser)]
#[command(name = "sluice-bench")]
struct Arguments {
    /// What to measure, in the order in which it is named [default: everything]
    parts: Vec<Part>,
    /// To see that it works, not what it costs
    #[arg(long)]
    quick: bool,
    /// Numbers of Services where the API has them, ascending, with commas between
    #[arg(long, value_delimiter = ',', value_name = "N")]
    services: Vec<u32>,
    /// For control: changes with pauses between, and as many back to back [default: 30]
    #[arg(long, value_name = "N")]
    changes: Option<u32>,
    /// For control: what to measure, with commas between
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_values_t = Subject::ALL)]
    subjects: Vec<Subject>,
    /// The object with the benchmark's own programs
    #[arg(long)]
    programs: PathBuf,
    /// The folder where the figures go
    #[arg(long)]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    Datapath,
    Forward,
    Network,
    Control,
}

impl Arguments {
    fn measure(&self, part: Part) -> Result<()> {
        let (quick, out) = (self.quick, self.out.clone());
        let services = |usual: &[u32], few: &[u32]| match self.services.as_slice() {
            [] if quick => few.to_vec(),
            [] => usual.to_vec(),
            asked => asked.to_vec(),
        };
        match part {
            Part::Datapath => datapath::run(&datapath::Options {
                programs: self.programs.clone(),
                runs: if quick { 3 } else { 25 },
                rounds: if quick { 20_000 } else { 100_000 },
                services: if quick { vec![1, 10_000] } else { vec![1, 10_000, 100_000] },
                flows: if quick { 1 << 14 } else { 1 << 20 },
                out,
            }),
            Part::Forward => forward::run(&forward::Options {
                programs: self.programs.clone(),
                runs: if quick { 3 } else { 25 },
                time: if quick { 20 } else { 60 },
                flows: if quick { vec![1] } else { vec![1, 4_096] },
                out,
            }),
            Part::Network => network::run(&network::Options {
                services: services(&[10, 1_000, 10_000], &[10]),
                runs: if quick { 2 } else { 15 },
                time: if quick { 50 } else { 200 },
                out,
            }),
            Part::Control => control::run(&control::Options {
                services: services(&[100, 1_000, 10_000], &[100]),
                changes: self.changes.unwrap_or(if quick { 3 } else { 30 }),
                subjects: self.subjects.clone(),
                out,
            }),
        }
    }

    fn run(&self) -> Result<()> {
        let parts = if self.parts.is_empty() { Part::value_variants() } else { &self.parts };
        for part in parts {
            self.measure(*part)?;
        }
        println!("\nall parts on one page: {}", bench::page(&self.out)?.display());
        Ok(())
    }
}

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
