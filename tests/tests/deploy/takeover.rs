//! From kube-proxy to Sluice and back, as docs/kubernetes.md tells it, with a real kube-proxy and requests all the while.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sluice_tests::lab::{Agent, AgentOptions, Exchange, FAMILIES, Family, Lab, Load, Pod, cluster_ips, endpoint_slice};
use sluice_tests::plane::{KubeProxy, Mode, Plane, PlaneOptions, service, together};
use sluice_tests::plane_or_skip;

fn web(family: Family) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(10), 80)
}

/// Whether each request of a pod over both families is answered.
fn is_served(client: &Pod) -> Result<bool> {
    for family in FAMILIES {
        let load = Load { timeout_ms: 500, ..Load::new(Exchange::Http, web(family), 5) };
        if !client.client().run(load)?.failures().is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn wait_until_served(client: &Pod, by: &KubeProxy<'_>) -> Result<()> {
    let start = Instant::now();
    while !is_served(client)? {
        if start.elapsed() > Duration::from_secs(30) {
            bail!("kube-proxy serves nothing after 30 s: {}", by.log());
        }
    }
    Ok(())
}

#[test]
fn no_request_fails_on_the_way_from_kube_proxy_to_sluice_and_back() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let plane = Plane::start(&lab, PlaneOptions { api_servers: 1, controllers: false })?;
    let client = lab.bare_pod("client", 40)?;
    let pods = [lab.pod("web-1", 11)?, lab.pod("web-2", 12)?];
    let slices = FAMILIES.map(|family| {
        let ips: Vec<_> = pods.iter().map(|pod| pod.ip(family)).collect();
        endpoint_slice(&format!("web-{family:?}").to_lowercase(), "web", &ips)
    });
    plane.apply(&together([service("web", &cluster_ips(10))].into_iter().chain(slices)))?;
    assert!(!is_served(&client)?, "somebody serves the Service before anybody was started");
    let mut proxy = KubeProxy::start(&lab, &plane.kubeconfig(), Mode::Nftables)?;
    wait_until_served(&client, &proxy)?;

    let loads = FAMILIES.map(|family| client.client().start(Load::steady(Exchange::Http, web(family), 5)));
    let pause = || sleep(Duration::from_millis(700));
    pause();
    let mut agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    pause();
    proxy.end()?;
    proxy.clean_up()?;
    pause();
    assert!(agent.json(&["flows"])?.as_array().is_some_and(|flows| !flows.is_empty()), "Sluice carries the requests");

    let mut proxy = KubeProxy::start(&lab, &plane.kubeconfig(), Mode::Nftables)?;
    sleep(Duration::from_secs(4));
    agent.kill()?;
    let removed = agent.cli(&["uninstall", "--drain", "20s"])?;
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    pause();
    for load in loads {
        let report = load?.stop()?;
        assert!(report.answers.len() > 200, "{} requests only", report.answers.len());
        assert_eq!(report.failures(), [""; 0], "of {}", report.answers.len());
    }
    proxy.end()?;
    proxy.clean_up()?;
    assert!(!is_served(&client)?, "nobody is left");
    Ok(())
}
