//! The benchmarks run to their end, and measure what they say.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;
use sluice_tests::bench::{self, control, datapath, forward, network};
use sluice_tests::{kernel_or_skip, plane_or_skip};

/// Runs a part, and returns its JSON. The page must show it, too.
fn report(part: &str, run: impl FnOnce(PathBuf) -> Result<()>) -> Result<Value> {
    let out = std::env::temp_dir().join(format!("sluice-bench-{part}-{}", std::process::id()));
    let read = || {
        let text = fs::read_to_string(out.join(part).with_extension("json")).context("no JSON was left")?;
        let page = fs::read_to_string(bench::page(&out)?).context("no page was left")?;
        anyhow::ensure!(page.contains("<svg"), "no plot on the page: {page}");
        Ok(serde_json::from_str(&text)?)
    };
    let report = run(out.clone()).and_then(|()| read());
    let _ = fs::remove_dir_all(&out);
    report
}

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|value| value > 0.0)
}

/// The benchmark's own programs, where `cargo xtask build` has left them.
fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).context("no target directory")?;
    Ok(target.join("bpf/bpfel-unknown-none/release/sluice-bench"))
}

#[test]
fn the_datapath_benchmark_measures_every_hook() -> Result<()> {
    kernel_or_skip!();
    let report = report("datapath", |out| {
        datapath::run(&datapath::Options {
            programs: programs()?,
            runs: 2,
            rounds: 2_000,
            services: vec![1, 10],
            flows: 1 << 14,
            out,
        })
    })?;
    let rows = report["rows"].as_array().context("no rows")?;
    for hook in ["XDP", "TC ingress", "TC egress", "socket"] {
        for family in ["IPv4", "IPv6"] {
            assert!(rows.iter().any(|row| row["hook"] == hook && row["family"] == family), "{hook}, {family}");
        }
    }
    for room in ["2^14", "2^15"] {
        let name = format!("first packet, room for {room} flows");
        let is_it = |row: &&Value| row["case"] == name && row["hook"] == "XDP";
        let first: Vec<_> = rows.iter().filter(is_it).collect();
        assert!(first.len() == 4 && first.iter().all(|row| is_positive(&row["min"])), "{name}: {rows:?}");
    }
    Ok(())
}

#[test]
fn the_forwarding_benchmark_counts_packets_of_every_way() -> Result<()> {
    plane_or_skip!();
    let report = report("forward", |out| {
        forward::run(&forward::Options { programs: programs()?, runs: 1, time: 5, flows: vec![16], out })
    })?;
    let rows = report["rows"].as_array().context("no rows")?;
    for family in ["IPv4", "IPv6"] {
        for subject in
            ["wire alone", "plain forwarding", "Sluice XDP", "Sluice TC", "kube-proxy nftables", "kube-proxy iptables"]
        {
            let is_it = |row: &&Value| row["subject"] == subject && row["family"] == family;
            let row = rows.iter().filter(is_it).find(|row| row["target"] == "ClusterIP");
            let row = row.with_context(|| format!("no row for {subject}, {family}"))?;
            assert!(row["works"] == true && is_positive(&row["rates"][0]), "{row}");
        }
    }
    Ok(())
}

#[test]
fn the_network_benchmark_compares_every_way_with_direct_traffic() -> Result<()> {
    plane_or_skip!();
    let report =
        report("network", |out| network::run(&network::Options { services: vec![10], runs: 1, time: 20, out }))?;
    let rows = report["rows"].as_array().context("no rows")?;
    assert_eq!(rows.len(), 7);
    for row in rows {
        for figure in ["p50", "p99", "connections", "bulk"] {
            let Value::Object(pair) = &row[figure] else { panic!("no {figure}: {row}") };
            assert!(pair.values().all(|runs| is_positive(&runs[0])), "{figure}: {row}");
        }
    }
    Ok(())
}

#[test]
fn the_control_plane_benchmark_measures_sluice_and_kube_proxy() -> Result<()> {
    plane_or_skip!();
    let subjects = control::Subject::ALL.to_vec();
    let report =
        report("control", |out| control::run(&control::Options { services: vec![40], changes: 2, subjects, out }))?;
    let rows = report["rows"].as_array().context("no rows")?;
    let subjects: Vec<_> = rows.iter().filter_map(|row| row["subject"].as_str()).collect();
    assert_eq!(subjects, ["Sluice", "kube-proxy nftables", "kube-proxy iptables"]);
    for row in rows {
        for figure in [&row["start"]["seconds"], &row["start"]["cpu"], &row["start"]["rss"], &row["peak"]] {
            assert!(is_positive(figure), "{row}");
        }
        for changes in [&row["paused"], &row["back_to_back"]] {
            let latencies = changes["latencies"].as_array().context("no latencies")?;
            assert!(latencies.len() == 2 && latencies.iter().all(is_positive), "{row}");
        }
    }
    let maps = &rows[0]["maps"];
    assert!(maps["all"].as_f64() > maps["services"].as_f64() && maps["services"].as_f64() > Some(1.0), "{maps}");
    Ok(())
}
