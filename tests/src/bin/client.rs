//! Runs one load, or with the argument `probes` one batch of probes after the other. A load: reads it from standard input as a line of JSON, prints the report as JSON. Ends early when standard
//! input ends.

use std::io::{self, BufRead};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use sluice_tests::lab::{Load, SERVE_PROBES, serve_probes};

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some(SERVE_PROBES) {
        return serve_probes();
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line).context("cannot read the load")?;
    let load: Load = serde_json::from_str(&line).context("standard input has no load")?;

    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    std::thread::spawn(move || {
        let _ = io::stdin().lock().read_line(&mut String::new());
        stopped.store(true, Ordering::Relaxed);
    });
    let report = load.run(|_| !stop.load(Ordering::Relaxed));
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
