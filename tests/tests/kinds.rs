//! Addresses beside ClusterIPs, and clients that stay: real sockets, the real agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, Exchange, FAMILIES, Family, HTTP_PORT, Lab, Load, Place, Server, cluster_ips, service_manifest,
};

const NODE_PORT: u16 = 30080;
const UDP: Exchange = Exchange::Udp { size: 100, connected: false };
/// How long a client may be led to a backend that has left.
const LEFT: Duration = Duration::from_secs(1);

/// The Service `web` with NodePorts for HTTP and UDP, and these further lines in its spec.
fn web(spec: &str) -> String {
    let ported = |text: String, port: &str| text.replace(port, &format!("{port}\n    nodePort: {NODE_PORT}"));
    let text = ported(service_manifest("web", &cluster_ips(10)), "    port: 80");
    ported(text, "    port: 53").replace("  type: ClusterIP\n", &format!("  type: NodePort\n{spec}"))
}

fn loopback(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.pick(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST), port)
}

#[test]
fn processes_of_the_node_reach_node_ports_at_loopback_and_all_else_there_as_before() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    lab.manifests.write("web.yaml", &web(""))?;
    let _pods = lab.pods("web", 11..14)?;
    let _own = Server::start(&lab.node, "own")?;
    for (addresses, served) in [("all", true), ("primary,localhost", true), ("primary", false)] {
        let options = AgentOptions { nodeport_addresses: Some(addresses), ..AgentOptions::default() };
        let mut agent = Agent::start(&lab, options)?;
        for (family, exchange) in FAMILIES.into_iter().flat_map(|family| [(family, Exchange::Http), (family, UDP)]) {
            let case = format!("{addresses} {family:?} {exchange:?}");
            let report = lab.host().run(Load::new(exchange, loopback(family, NODE_PORT), 30))?;
            match served {
                true => {
                    assert_eq!(report.failures(), [""; 0], "{case}");
                    assert_eq!(report.by_pod().len(), 3, "{case}: {:?}", report.by_pod());
                }
                false => assert_eq!(report.by_pod().len(), 0, "{case}: {:?}", report.by_pod()),
            }
            // The node's own server at another port of the same address, and at the node's address.
            for at in [loopback(family, HTTP_PORT), SocketAddr::new(node_ip(family), HTTP_PORT)] {
                let report = lab.host().run(Load::new(Exchange::Http, at, 3))?;
                assert!(report.by_pod().keys().eq(["own"]), "{case} {at}: {:?}", report.failures());
            }
        }
        agent.stop()?;
    }
    Ok(())
}

fn node_ip(family: Family) -> IpAddr {
    family.node_ip()
}

/// A client stays with one backend at every address of a port, until that leaves.
#[test]
fn a_client_with_affinity_stays_until_its_backend_leaves() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    lab.manifests.write("web.yaml", &web("  sessionAffinity: ClientIP\n"))?;
    let _pods = lab.pods("web", 11..17)?;
    let client = lab.bare_pod("client", 40)?;
    let agent = Agent::start(&lab, AgentOptions::default())?;
    for family in FAMILIES {
        for (place, called) in [(client.client(), "pod"), (lab.host(), "host"), (lab.outside(), "outside")] {
            let at = [SocketAddr::new(family.cluster_ip(10), 80), SocketAddr::new(node_ip(family), NODE_PORT)];
            let all = pods_of(&place, &at)?;
            ensure!(all.len() == 1, "{called} {family:?}: {all:?} are not one");
        }
        let at = [SocketAddr::new(family.cluster_ip(10), 80)];
        let before = pods_of(&client.client(), &at)?.remove(0);
        let file = format!("{before}.yaml");
        let kept = std::fs::read_to_string(lab.manifests.dir().join(&file))?;
        lab.manifests.delete(&file)?;
        let took = agent.wait_until("the client has left the pod that left", |_| {
            Ok(!pods_of(&client.client(), &at)?.contains(&before))
        })?;
        ensure!(took < LEFT, "it took {took:?}");
        let after = pods_of(&client.client(), &at)?;
        ensure!(after.len() == 1 && after[0] != before, "{after:?}");
        // When it comes back, nobody goes back to it.
        lab.manifests.write(&file, &kept)?;
        agent.wait_until("the pod is back", |agent| {
            Ok(agent.json(&["services", "web:http"])?.as_array().is_some_and(|rows| rows[0]["backends"] == 6))
        })?;
        ensure!(pods_of(&client.client(), &at)? == after, "it went back");
    }
    Ok(())
}

/// A client stays for as long as it comes back in time, whatever else becomes of the Service; and not where nobody asks it
/// to.
#[test]
fn affinity_lasts_while_it_is_used_and_is_switched_on_and_off() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let sticky = |seconds: u32| {
        web(&format!(
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}\n"
        ))
    };
    lab.manifests.write("web.yaml", &sticky(3))?;
    let _pods = lab.pods("web", 11..17)?;
    let client = lab.bare_pod("client", 40)?;
    let agent = Agent::start(&lab, AgentOptions::default())?;
    let calls = |family: Family, count: usize| {
        let report =
            client.client().run(Load::new(Exchange::Http, SocketAddr::new(family.cluster_ip(10), 80), count))?;
        ensure!(report.failures().is_empty(), "{family:?}: {:?}", report.failures());
        Ok(report.by_pod().into_keys().collect::<Vec<_>>())
    };
    let shown = |seconds: Option<u32>| {
        agent.wait_until(&format!("affinity is {seconds:?}"), |agent| {
            let rows = agent.json(&["services", "web:http"])?;
            Ok(rows[0]["affinity_seconds"].as_u64() == seconds.map(u64::from))
        })
    };
    for family in FAMILIES {
        let first = calls(family, 1)?;
        // Longer than it lasts, but never so long without a call.
        for _ in 0..4 {
            sleep(Duration::from_millis(1_500));
            ensure!(calls(family, 1)? == first, "{family:?}: it left {first:?} while it came back in time");
        }
        // Each time another one of six may be the same.
        let mut others = 0;
        for _ in 0..12 {
            sleep(Duration::from_millis(4_500));
            others += usize::from(calls(family, 1)? != first);
            if others > 0 {
                break;
            }
        }
        ensure!(others > 0, "{family:?}: it never left {first:?}, though it came back too late");
        lab.manifests.write("web.yaml", &web(""))?;
        shown(None)?;
        ensure!(calls(family, 60)?.len() == 6, "{family:?}: not all answer where nobody stays");
        lab.manifests.write("web.yaml", &sticky(3))?;
        shown(Some(3))?;
        ensure!(calls(family, 20)?.len() == 1, "{family:?}: it does not stay");
    }
    Ok(())
}

/// Who answers twelve calls at each of these addresses.
fn pods_of(place: &Place<'_>, at: &[SocketAddr]) -> Result<Vec<String>> {
    let mut all = std::collections::BTreeSet::new();
    for to in at {
        let report = place.run(Load::new(Exchange::Http, *to, 12))?;
        ensure!(report.failures().is_empty(), "{to}: {:?}", report.failures());
        all.extend(report.by_pod().into_keys().map(|pod| pod.to_string()));
    }
    Ok(all.into_iter().collect())
}
