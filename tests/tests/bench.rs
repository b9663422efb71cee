//! The benchmarks run to their end, and measure what they say.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use sluice_tests::bench::control;
use sluice_tests::plane_or_skip;

#[test]
fn the_control_plane_benchmark_measures_sluice_and_kube_proxy() -> Result<()> {
    plane_or_skip!();
    let json = std::env::temp_dir().join(format!("sluice-bench-{}.json", std::process::id()));
    let subjects = control::Subject::ALL.to_vec();
    let run = control::run(&control::Options { services: vec![40], changes: 2, subjects, json: json.clone() });
    let report = fs::read_to_string(&json);
    let _ = fs::remove_file(&json);
    run?;
    let report: Value = serde_json::from_str(&report.context("no JSON was left")?)?;
    let rows = report["rows"].as_array().context("no rows")?;
    let subjects: Vec<_> = rows.iter().filter_map(|row| row["subject"].as_str()).collect();
    assert_eq!(subjects, ["Sluice", "kube-proxy nftables", "kube-proxy iptables"]);
    for row in rows {
        let positive = |value: &Value| value.as_f64().is_some_and(|value| value > 0.0);
        for figure in [&row["start"]["seconds"], &row["start"]["cpu"], &row["start"]["rss"], &row["peak"]] {
            assert!(positive(figure), "{row}");
        }
        for changes in [&row["paused"], &row["back_to_back"]] {
            let latencies = changes["latencies"].as_array().context("no latencies")?;
            assert!(latencies.len() == 2 && latencies.iter().all(positive), "{row}");
        }
    }
    let maps = &rows[0]["maps"];
    assert!(maps["all"].as_f64() > maps["services"].as_f64() && maps["services"].as_f64() > Some(1.0), "{maps}");
    Ok(())
}
