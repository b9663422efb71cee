//! The demo; `cargo xtask demo` sets the machine up, builds, and runs it.

use std::process::ExitCode;

use clap::Parser;
use sluice_tests::demo::{self, DemoOptions};

/// Shows on this machine what a Service is for.
#[derive(Debug, Parser)]
#[command(name = "sluice-demo")]
struct Arguments {
    /// Leave the small world up at the end, and say how to play with it
    #[arg(long)]
    keep: bool,
    /// Tell the story to a real API server, with kubectl
    #[arg(long)]
    kubernetes: bool,
}

fn main() -> ExitCode {
    let Arguments { keep, kubernetes } = Arguments::parse();
    match demo::run(&DemoOptions { keep, kubernetes }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
