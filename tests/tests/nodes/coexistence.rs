//! Beside other people's netfilter rules, and on both kinds of CNI wiring.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sluice_tests::differential::{Api, Client, Cluster, Side, Subject};
use sluice_tests::lab::{FAMILIES, Family, Firewall, Network, Outcome, Probe, Protocol, Wiring, WorldOptions};
use sluice_tests::plane::{Plane, PlaneOptions};
use sluice_tests::plane_or_skip;

use super::matrix::{Kind, Place, Policy, Row, backend, expect, objects, rows};

/// Both wirings, and both ways between nodes.
const WORLDS: [WorldOptions; 3] = [
    WorldOptions { network: Network::Routed, wiring: Wiring::PointToPoint },
    WorldOptions { network: Network::Routed, wiring: Wiring::Bridge },
    WorldOptions { network: Network::Vxlan, wiring: Wiring::Bridge },
];

#[test]
fn a_rule_that_drops_what_is_invalid_harms_nothing() -> Result<()> {
    plane_or_skip!();
    for options in WORLDS {
        let cluster = Cluster::new(options)?;
        let firewalls: Vec<_> = cluster.world.nodes.iter().map(|node| Firewall::new(node)).collect::<Result<_>>()?;
        let plane = Plane::start_in(&cluster.world, PlaneOptions { api_servers: 1, controllers: false })?;
        Api::new(&plane)?.apply(&objects(&cluster))?;
        let side = Side::start(&cluster, Subject::Sluice, &plane.kubeconfig())?;
        expect(Subject::Sluice, &side, rows()).with_context(|| format!("{options:?}"))?;
        for (node, firewall) in cluster.world.nodes.iter().zip(firewalls) {
            let (dropped, which) = (firewall.dropped()?, || firewall.text().unwrap_or_default());
            ensure!(dropped == 0, "{options:?} {}: {dropped} were invalid: {}", node.name(), which());
        }
    }
    Ok(())
}

/// A rule such as an agent of network policy makes of it: nothing from this client to that pod.
#[test]
fn a_rule_toward_a_pod_applies_to_traffic_through_a_service() -> Result<()> {
    plane_or_skip!();
    for options in WORLDS {
        let cluster = Cluster::new(options)?;
        let plane = Plane::start_in(&cluster.world, PlaneOptions { api_servers: 1, controllers: false })?;
        Api::new(&plane)?.apply(&objects(&cluster))?;
        let side = Side::start(&cluster, Subject::Sluice, &plane.kubeconfig())?;
        let node = &cluster.world.nodes[0];
        node.output("nft", &["add table inet network_policy"])?;
        node.output("nft", &["add chain inet network_policy forward { type filter hook forward priority 0; }"])?;
        for client in [Client::Pod(0), Client::Pod(2), Client::Outside(0)] {
            for (family, protocol) in FAMILIES.into_iter().flat_map(|f| Protocol::ALL.map(|p| (f, p))) {
                let (kind, place, policy) = (Kind::ClusterIp, Place::Pod(0), Policy::Cluster);
                let row = Row { client, kind, place, policy, family, protocol };
                let case = format!("{options:?} {row:?}");
                let answers = |wanted: bool| until(&side, &row, wanted).with_context(|| case.clone());
                answers(true)?;
                let pod = backend(place, &cluster).context("no backend")?.ip(family);
                let (ip, own) = (if family == Family::V4 { "ip" } else { "ip6" }, client.ip(&cluster, family));
                node.output(
                    "nft",
                    &[&format!("add rule inet network_policy forward {ip} saddr {own} {ip} daddr {pod} drop")],
                )?;
                answers(false)?;
                node.output("nft", &["flush chain inet network_policy forward"])?;
                answers(true)?;
            }
        }
    }
    Ok(())
}

/// Waits until a row is answered, or else is not: a new rule may take a moment, and so may an agent.
fn until(side: &Side<'_>, row: &Row, wanted: bool) -> Result<()> {
    let start = Instant::now();
    let probe = Probe { to: row.to(), protocol: row.protocol, tries: 3, patience_ms: 400 };
    loop {
        let outcomes = side.ask(&[(row.client, probe)])?.remove(0);
        let holds = |outcome: &Outcome| match outcome {
            Outcome::Answered { .. } => wanted,
            other => !wanted && *other == Outcome::Silent,
        };
        if !outcomes.is_empty() && outcomes.keys().all(holds) {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(10), "wanted an answer: {wanted}; found {outcomes:?}");
        sleep(Duration::from_millis(50));
    }
}
