//! What load balancers hear at `healthCheckNodePort`, beside the real kube-proxy.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sluice_tests::differential::{Api, Backend, Cluster, PORTS, Side, Subject};
use sluice_tests::lab::{FAMILIES, Family, Network, Page, Wiring, World, WorldOptions};
use sluice_tests::plane::{Plane, PlaneOptions};
use sluice_tests::plane_or_skip;

const SERVICE: u8 = 120;
const HEALTH_PORT: u16 = 32_120;

/// Ready ones on the first node, one of them in two slices; on the second some that are going away, on the third nobody.
/// Of IPv6 there is one less on the first.
fn objects(cluster: &Cluster) -> Vec<Value> {
    let on = |node: usize| cluster.backends.iter().filter(move |b| b.node == node && !b.host_network);
    let endpoint = |family: Family, backend: &Backend, ready: bool| {
        json!({ "addresses": [backend.ip(family)], "nodeName": cluster.world.nodes[backend.node].name(),
                "conditions": { "ready": ready, "serving": true, "terminating": !ready } })
    };
    let slice = |name: &str, family: Family, endpoints: Vec<Value>| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": format!("health-{name}-{family:?}").to_lowercase(),
                          "labels": { "kubernetes.io/service-name": "health" } },
            "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
            "ports": [{ "name": "a", "protocol": "TCP", "port": PORTS[0] }], "endpoints": endpoints,
        })
    };
    let slices = FAMILIES.into_iter().flat_map(|family| {
        let count = if family == Family::V4 { 2 } else { 1 };
        let here = on(0).take(count).map(|backend| endpoint(family, backend, true));
        let leaving = on(1).map(|backend| endpoint(family, backend, false));
        let again = on(0).take(1).map(|backend| endpoint(family, backend, true)).collect();
        [slice("a", family, here.chain(leaving).collect()), slice("b", family, again)]
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "health" },
        "spec": {
            "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": Family::V4.cluster_ip(SERVICE), "clusterIPs": FAMILIES.map(|f| f.cluster_ip(SERVICE)),
            "externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT,
            "ports": [{ "name": "a", "protocol": "TCP", "port": 80 }],
        },
    });
    [service].into_iter().chain(slices).collect()
}

/// All that a load balancer can tell apart.
fn told(cluster: &Cluster, family: Family, node: usize) -> Result<Value> {
    let at = SocketAddr::new(World::node_ip(family, node), HEALTH_PORT);
    let page = Page::get(&cluster.world.outside[0], at, "/")?;
    let headers = ["content-type", "x-content-type-options", "x-load-balancing-endpoint-weight"];
    Ok(json!({ "code": page.code, "headers": headers.map(|name| page.header(name)), "body": page.json()? }))
}

#[test]
fn load_balancers_hear_the_same_as_from_kube_proxy() -> Result<()> {
    plane_or_skip!();
    for subject in [Subject::KubeProxy, Subject::Sluice] {
        let cluster = Cluster::new(WorldOptions { network: Network::Routed, wiring: Wiring::PointToPoint })?;
        let plane = Plane::start_in(&cluster.world, PlaneOptions { api_servers: 1, controllers: false })?;
        Api::new(&plane)?.apply(&objects(&cluster))?;
        let _side = Side::start(&cluster, subject, &plane.kubeconfig())?;
        for (family, node, endpoints) in [
            (Family::V4, 0, 2),
            (Family::V6, 0, 1),
            (Family::V4, 1, 0),
            (Family::V6, 1, 0),
            (Family::V4, 2, 0),
            (Family::V6, 2, 0),
        ] {
            let expected = json!({
                "code": if endpoints > 0 { 200 } else { 503 },
                "headers": ["application/json", "nosniff", endpoints.to_string()],
                "body": { "service": { "namespace": "default", "name": "health" }, "localEndpoints": endpoints,
                          "serviceProxyHealthy": true },
            });
            let start = Instant::now();
            loop {
                let found = told(&cluster, family, node);
                if found.as_ref().is_ok_and(|found| *found == expected) {
                    break;
                }
                let late = start.elapsed() > Duration::from_secs(20);
                ensure!(!late, "{subject:?} {family:?} node {node}: {found:?}, not {expected}");
                sleep(Duration::from_millis(50));
            }
        }
    }
    Ok(())
}
