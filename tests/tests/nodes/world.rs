//! The world itself.

use anyhow::Result;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{Exchange, FAMILIES, HTTP_PORT, Load, UDP_PORT, World, WorldOptions};

/// If this fails, no other result in such a world means anything.
#[test]
fn everyone_reaches_every_pod_in_every_kind_of_world() -> Result<()> {
    kernel_or_skip!();
    for options @ WorldOptions { network, wiring } in WorldOptions::ALL {
        let world = World::new(options)?;
        let mut pods = Vec::new();
        for node in &world.nodes {
            pods.push((node, node.pod(&format!("{}-1", node.name()), 11)?));
            pods.push((node, node.pod(&format!("{}-2", node.name()), 12)?));
        }
        let clients = pods.iter().map(|(_, pod)| (pod.name.as_str(), pod.client()));
        let hosts = world.nodes.iter().map(|node| (node.name(), node.host()));
        let outside = (0..world.outside.len()).map(|n| ("outside", world.outside(n)));
        for (name, client) in clients.chain(hosts).chain(outside) {
            for (family, (_, pod)) in FAMILIES.into_iter().flat_map(|family| pods.iter().map(move |pod| (family, pod)))
            {
                let bulk = Exchange::Bulk { up: 100_000, down: 100_000 };
                for (exchange, port) in [
                    (Exchange::Http, HTTP_PORT),
                    (Exchange::Udp { size: 1200, connected: false }, UDP_PORT),
                    (bulk, 9000),
                ] {
                    let report = client.run(Load::new(exchange, pod.at(family, port), 1))?;
                    let case = format!("{network:?} {wiring:?} {name} to {} {family:?} {exchange:?}", pod.name);
                    assert_eq!(report.failures(), [""; 0], "{case}");
                    assert!(report.by_pod().contains_key(&pod.name), "{case}");
                }
            }
        }
    }
    Ok(())
}
