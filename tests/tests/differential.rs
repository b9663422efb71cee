//! A short run of Sluice beside the real kube-proxy; `cargo xtask differential` runs long.

use anyhow::Result;
use sluice_tests::differential::{ALLOWANCES, Options, Subject, run};
use sluice_tests::lab::{Network, Wiring, WorldOptions};
use sluice_tests::plane_or_skip;

#[test]
fn sluice_answers_as_kube_proxy_does() -> Result<()> {
    plane_or_skip!();
    let world = WorldOptions { network: Network::Routed, wiring: Wiring::PointToPoint };
    let report = run(&Options { clusters: 3, seed: 1, changes: 4, world, beside: Subject::Sluice })?;
    println!("{report}");
    assert!(report.findings.is_empty(), "Sluice differs from kube-proxy, see above");
    Ok(())
}

#[test]
fn every_difference_that_may_be_is_documented() {
    let text = include_str!("../../docs/behaviour.md");
    for allowance in ALLOWANCES {
        assert!(
            text.contains(&format!("| {} |", allowance.name)),
            "docs/behaviour.md has no row \"{}\"",
            allowance.name
        );
    }
}
