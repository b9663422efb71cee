//! Beside other people's netfilter rules, and on both kinds of CNI wiring.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::differential::{Api, Client, Cluster, Side, Subject};
use sluice_tests::lab::{FAMILIES, Family, Network, Node, Outcome, Probe, Protocol, Wiring, WorldOptions};
use sluice_tests::plane::{Plane, PlaneOptions};
use sluice_tests::plane_or_skip;

use super::matrix::{Kind, Place, Policy, Row, backend, expect, objects, rows};

/// Both wirings, and both ways between nodes.
const WORLDS: [WorldOptions; 3] = [
    WorldOptions { network: Network::Routed, wiring: Wiring::PointToPoint },
    WorldOptions { network: Network::Routed, wiring: Wiring::Bridge },
    WorldOptions { network: Network::Vxlan, wiring: Wiring::Bridge },
];

/// As many firewalls have it, and kube-proxy of old.
const INVALID: &str = "
table inet firewall {
    counter invalid {}
    set v4 { type ipv4_addr . ipv4_addr . inet_proto . inet_service . iface_index; flags dynamic; size 100; }
    set v6 { type ipv6_addr . ipv6_addr . inet_proto . inet_service . iface_index; flags dynamic; size 100; }
    chain invalid {
        # The node's advice to pods of one bridge that they need no router; it is of no connection.
        icmpv6 type nd-redirect return
        add @v4 { ip saddr . ip daddr . meta l4proto . th dport . meta iif }
        add @v6 { ip6 saddr . ip6 daddr . meta l4proto . th dport . meta iif }
        counter name invalid drop
    }
    chain forward { type filter hook forward priority 0; ct state invalid jump invalid; }
    chain input { type filter hook input priority 0; ct state invalid jump invalid; }
    chain output { type filter hook output priority 0; ct state invalid jump invalid; }
}
";

fn nft(node: &Node, arguments: &[&str]) -> Result<String> {
    let output = node.run(|| Command::new("nft").args(arguments).output().context("cannot start nft"))?;
    ensure!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_rule_that_drops_what_is_invalid_harms_nothing() -> Result<()> {
    plane_or_skip!();
    for options in WORLDS {
        let cluster = Cluster::new(options)?;
        for node in &cluster.world.nodes {
            nft(node, &[INVALID])?;
        }
        let plane = Plane::start_in(&cluster.world, PlaneOptions { api_servers: 1, controllers: false })?;
        Api::new(&plane)?.apply(&objects(&cluster))?;
        let side = Side::start(&cluster, Subject::Sluice, &plane.kubeconfig())?;
        expect(Subject::Sluice, &side, rows()).with_context(|| format!("{options:?}"))?;
        for node in &cluster.world.nodes {
            let said: Value = serde_json::from_str(&nft(node, &["-j", "list", "counters"])?)?;
            let counted =
                said["nftables"].as_array().into_iter().flatten().find_map(|o| o["counter"]["packets"].as_u64());
            let which = || nft(node, &["list", "table", "inet", "firewall"]).unwrap_or_default();
            ensure!(counted == Some(0), "{options:?} {}: {counted:?} were invalid: {}", node.name(), which());
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
        nft(node, &["add table inet network_policy"])?;
        nft(node, &["add chain inet network_policy forward { type filter hook forward priority 0; }"])?;
        for client in [Client::Pod(0), Client::Pod(2), Client::Outside(0)] {
            for (family, protocol) in FAMILIES.into_iter().flat_map(|f| Protocol::ALL.map(|p| (f, p))) {
                let (kind, place, policy) = (Kind::ClusterIp, Place::Pod(0), Policy::Cluster);
                let row = Row { client, kind, place, policy, family, protocol };
                let case = format!("{options:?} {row:?}");
                let answers = |wanted: bool| until(&side, &row, wanted).with_context(|| case.clone());
                answers(true)?;
                let pod = backend(place, &cluster).context("no backend")?.ip(family);
                let (ip, own) = (if family == Family::V4 { "ip" } else { "ip6" }, client.ip(&cluster, family));
                nft(node, &[&format!("add rule inet network_policy forward {ip} saddr {own} {ip} daddr {pod} drop")])?;
                answers(false)?;
                nft(node, &["flush chain inet network_policy forward"])?;
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
