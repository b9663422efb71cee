//! Objects of a real API server become what the maps hold, whatever their order, form and fate.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use sluice_tests::lab::{
    Agent, AgentOptions, Exchange, FAMILIES, Family, HTTP_PORT, Lab, Load, Page, Pod, cluster_ips, endpoint_slice,
    service_manifest,
};
use sluice_tests::plane::{Frontends, Plane, PlaneOptions, programmed, service, together};
use sluice_tests::plane_or_skip;

/// The tests write the slices themselves.
const BARE: PlaneOptions = PlaneOptions { api_servers: 1, controllers: false };

fn calls_reach(client: &Pod, number: u8, families: &[Family], pods: &[&Pod]) -> Result<()> {
    for family in families {
        let to = SocketAddr::new(family.cluster_ip(number), 80);
        let report = client.client().run(Load::new(Exchange::Http, to, 20 * pods.len()))?;
        assert_eq!(report.failures(), [""; 0], "{to}");
        let want: Vec<_> = pods.iter().map(|pod| &pod.name).collect();
        assert!(report.by_pod().keys().eq(want.iter().copied()), "{to}: {:?}, not {want:?}", report.by_pod());
    }
    Ok(())
}

/// Frontends of one Service.
fn of(all: &Frontends, ips: &[IpAddr]) -> Frontends {
    all.iter().filter(|((at, _), _)| ips.contains(&at.ip())).map(|(key, to)| (key.clone(), to.clone())).collect()
}

#[test]
fn the_order_of_services_and_slices_makes_no_difference() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, BARE)?;
    let agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    let ips = cluster_ips(10);
    let slices = || {
        let slice =
            |(name, n): (&str, usize)| endpoint_slice(name, "web", &[FAMILIES[n].pod_ip(11), FAMILIES[n].pod_ip(12)]);
        together([("web-4", 0), ("web-6", 1)].map(slice))
    };
    let mut seen = Vec::new();
    for slices_first in [true, false] {
        let (first, second) =
            if slices_first { (slices(), service("web", &ips)) } else { (service("web", &ips), slices()) };
        plane.apply(&first)?;
        plane.agree(&agent)?;
        plane.apply(&second)?;
        plane.agree(&agent)?;
        seen.push(of(&programmed(&agent)?, &ips));
        plane.kubectl(&["delete", "service/web", "endpointslice/web-4", "endpointslice/web-6"])?;
        plane.agree(&agent)?;
        ensure!(of(&programmed(&agent)?, &ips).is_empty(), "expected nothing of a Service that was deleted");
    }
    ensure!(seen[0] == seen[1] && seen[0].len() == 2 && seen[0].values().all(|to| to.len() == 2), "{seen:#?}");
    Ok(())
}

#[test]
fn a_service_moves_between_types() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, BARE)?;
    let (pod, client) = (lab.pod("web", 11)?, lab.bare_pod("client", 20)?);
    let agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    let ip = Family::V4.cluster_ip(10);
    plane.apply(&together([service("web", &[ip]), endpoint_slice("web", "web", &[pod.ip(Family::V4)])]))?;
    let back = format!(r#"{{"spec": {{"type": "ClusterIP", "externalName": null, "clusterIP": "{ip}"}}}}"#);
    for (patch, served) in [
        ("{}", true),
        (r#"{"spec": {"type": "ExternalName", "externalName": "example.org"}}"#, false),
        (&back, true),
        (r#"{"metadata": {"labels": {"service.kubernetes.io/headless": ""}}}"#, false),
        (r#"{"metadata": {"labels": {"service.kubernetes.io/headless": null}}}"#, true),
        (r#"{"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}}"#, false),
        (r#"{"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": null}}}"#, true),
        (r#"{"spec": {"type": "NodePort"}}"#, true),
        (r#"{"spec": {"type": "ClusterIP"}}"#, true),
    ] {
        plane.kubectl(&["patch", "service", "web", "--type=merge", "--patch", patch])?;
        plane.agree(&agent)?;
        assert_eq!(!of(&programmed(&agent)?, &[ip]).is_empty(), served, "after {patch}");
        if served {
            calls_reach(&client, 10, &[Family::V4], &[&pod]).with_context(|| format!("after {patch}"))?;
        }
    }
    // An address cannot be taken from a Service, so headless ones are made anew.
    plane.kubectl(&["delete", "service", "web"])?;
    plane.apply(&service("web", &[ip]).replace(&format!("{:?}", ip.to_string()), "\"None\""))?;
    plane.agree(&agent)?;
    assert!(of(&programmed(&agent)?, &[ip]).is_empty());
    Ok(())
}

/// The control plane calls endpoints ready then, which is all that the agent hears of it.
#[test]
fn endpoints_that_are_not_ready_serve_where_the_service_says_so() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let plane = Plane::start(&lab, PlaneOptions::default())?;
    let (pod, client) = (lab.pod("web", 11)?, lab.bare_pod("client", 20)?);
    let agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    plane.apply(&service_manifest("web", &cluster_ips(10)))?;
    plane.run_pod(&pod, "web")?;
    for (ready, publish, served) in
        [(true, false, true), (false, false, false), (false, true, true), (false, false, false), (true, true, true)]
    {
        plane.set_ready(&pod, ready)?;
        let patch = format!(r#"{{"spec": {{"publishNotReadyAddresses": {publish}}}}}"#);
        plane.kubectl(&["patch", "service", "web", "--type=merge", "--patch", &patch])?;
        for family in FAMILIES {
            let to = SocketAddr::new(family.cluster_ip(10), 80);
            agent.wait_until(&format!("{to}: ready {ready}, published {publish}: served {served}"), |_| {
                let answer = client.client().run(Load::new(Exchange::Http, to, 1))?.answers.remove(0);
                Ok(if served { answer.result.is_ok() } else { answer.refused })
            })?;
        }
    }
    Ok(())
}

#[test]
fn endpoints_come_from_several_slices_once_and_in_both_families() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, BARE)?;
    let pods = (11..14).map(|n| lab.pod(&format!("web-{n}"), n)).collect::<Result<Vec<_>>>()?;
    let client = lab.bare_pod("client", 20)?;
    let agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    let slice = |name: &str, family, pods: &[&Pod]| {
        let ips: Vec<_> = pods.iter().map(|pod| pod.ip(family)).collect();
        endpoint_slice(name, "web", &ips)
    };
    let [a, b, c] = [&pods[0], &pods[1], &pods[2]];
    plane.apply(&together([
        service("web", &cluster_ips(10)),
        slice("web-a", Family::V4, &[a, b]),
        // b stands in two slices, as it does while a controller moves it.
        slice("web-b", Family::V4, &[b, c]),
        slice("web-c", Family::V6, &[a]),
        slice("web-d", Family::V6, &[c, c]),
        // Another port name: it is no endpoint of `http`.
        slice("web-e", Family::V4, &[&client]).replace("name: http", "name: other"),
    ]))?;
    plane.agree(&agent)?;
    calls_reach(&client, 10, &[Family::V4], &[a, b, c])?;
    calls_reach(&client, 10, &[Family::V6], &[a, c])?;
    // b and c each leave one of their slices, and stay in the other; the IPv6 one of a goes altogether.
    plane.apply(&together([slice("web-a", Family::V4, &[a]), slice("web-d", Family::V6, &[c])]))?;
    plane.kubectl(&["delete", "endpointslice", "web-c"])?;
    plane.agree(&agent)?;
    calls_reach(&client, 10, &[Family::V4], &[a, b, c])?;
    calls_reach(&client, 10, &[Family::V6], &[c])?;
    // A target port by name may differ from slice to slice.
    let other_port = slice("web-b", Family::V4, &[b, c]).replace(&format!("port: {HTTP_PORT}"), "port: 7777");
    plane.apply(&other_port)?;
    plane.agree(&agent)?;
    let to: Vec<_> = of(&programmed(&agent)?, &[Family::V4.cluster_ip(10)]).into_values().flatten().collect();
    assert_eq!(to, [a.at(Family::V4, 8080), b.at(Family::V4, 7777), c.at(Family::V4, 7777)]);
    Ok(())
}

/// What a Service shows to clients outside, in the fields that the API server fills in and checks.
#[test]
fn addresses_for_clients_outside_follow_the_api() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, BARE)?;
    let (pod, client) = (lab.pod("web", 11)?, lab.bare_pod("client", 20)?);
    let agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    let outside = "  type: LoadBalancer\n  externalTrafficPolicy: Local\n  externalIPs: [198.51.100.6]\n  \
        loadBalancerSourceRanges: [203.0.113.0/24, \"fd00:9::/32\"]\n  \
        sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 77}}\n";
    let slice = endpoint_slice("web", "web", &[pod.ip(Family::V4)]);
    plane.apply(&together([service("web", &cluster_ips(10)) + outside, slice.clone()]))?;
    let ingress = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}, {"ip": "198.51.100.8", "ipMode": "Proxy"},
        {"ip": "2001:db8:7::7", "ipMode": "VIP"}]}}}"#;
    plane.kubectl(&["patch", "service", "web", "--subresource=status", "--type=merge", "--patch", ingress])?;
    plane.agree(&agent)?;
    let row = |address: &str| -> Result<_> {
        let rows = agent.json(&["services", "web"])?;
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["frontend"] == address)).cloned();
        row.with_context(|| format!("nothing at {address} in {rows}"))
    };
    let balanced = row("198.51.100.7:80")?;
    assert_eq!((&balanced["kind"], &balanced["policy"]), (&"LoadBalancer".into(), &"Local".into()));
    assert_eq!(balanced["source_ranges"], serde_json::json!(["203.0.113.0/24"]));
    assert_eq!(row("[2001:db8:7::7]:80")?["source_ranges"], serde_json::json!(["fd00:9::/32"]));
    let named = row("198.51.100.6:80")?;
    assert_eq!((&named["kind"], &named["source_ranges"]), (&"ExternalIP".into(), &serde_json::Value::Null));
    assert_eq!(balanced["affinity_seconds"], 77);
    // Nobody says that the pod is on this node. Clients inside do not care.
    assert_eq!((&balanced["backends"], &balanced["backends_outside"]), (&1.into(), &0.into()));
    calls_reach(&client, 10, &[Family::V4], &[&pod])?;
    let service = plane.get(&["service", "web"])?;
    let number = |value: &serde_json::Value| u16::try_from(value.as_u64()?).ok();
    let health = number(&service["spec"]["healthCheckNodePort"]).context("the API gave no healthCheckNodePort")?;
    let node_port = number(&service["spec"]["ports"][0]["nodePort"]).context("the API gave no nodePort")?;
    let at = |port| SocketAddr::new(Family::V4.node_ip(), port);
    assert_eq!(row(&at(node_port).to_string())?["kind"], "NodePort");
    let asked = Page::get(&lab.outside, at(health), "/")?;
    assert_eq!((asked.code, asked.header("x-load-balancing-endpoint-weight")), (503, Some("0")));
    // Now somebody says so.
    let here = slice.replace("- addresses", &format!("- nodeName: {}\n  addresses", agent.node().name()));
    plane.apply(&here)?;
    agent.wait_until("the load balancer hears of it", |agent| {
        let asked = Page::get(&lab.outside, at(health), "/healthz")?;
        let expected = serde_json::json!({"service": {"namespace": "default", "name": "web"},
            "localEndpoints": 1, "serviceProxyHealthy": true});
        Ok(asked.code == 200
            && asked.json()? == expected
            && row("198.51.100.7:80")?["backends_outside"].is_null()
            && agent.json(&["backends"])?[0]["local"] == true)
    })?;
    // A Service of another type has neither.
    let patch = r#"{"spec": {"type": "ClusterIP", "externalIPs": null, "externalTrafficPolicy": null,
        "loadBalancerSourceRanges": null, "sessionAffinity": "None"}}"#;
    plane.kubectl(&["patch", "service", "web", "--type=merge", "--patch", patch])?;
    plane.agree(&agent)?;
    let left = agent.json(&["services", "web"])?;
    assert_eq!(left.as_array().map(Vec::len), Some(2), "the ClusterIP of each family: {left}");
    agent.wait_until("nobody listens for load balancers", |_| Ok(Page::get(&lab.outside, at(health), "/").is_err()))?;
    Ok(())
}

/// It is refused alone, and an Event says so; a Service beside it is served.
#[test]
fn what_cannot_be_programmed_is_refused_alone_with_an_event() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, BARE)?;
    let (pod, client) = (lab.pod("web", 11)?, lab.bare_pod("client", 20)?);
    let own = Family::V4.cluster_ip(66);
    lab.node.ip(&format!("addr add {own}/32 dev lo\n"))?;
    let agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    plane.apply(&together([
        service("own", &[own]),
        service("web", &[Family::V4.cluster_ip(10)]),
        endpoint_slice("web", "web", &[pod.ip(Family::V4)]),
    ]))?;
    plane
        .wait_until("an Event says that the address was refused", |plane| {
            let events =
                plane.get(&["events", "--field-selector", "involvedObject.kind=Service,involvedObject.name=own"])?;
            let events = events["items"].as_array().context("no items")?;
            Ok(events.iter().any(|event| event["reason"] == "AddressRefused" && event["type"] == "Warning"))
        })
        .with_context(|| agent.log().unwrap_or_default())?;
    let have = programmed(&agent)?;
    assert!(of(&have, &[own]).is_empty(), "{have:?}");
    calls_reach(&client, 10, &[Family::V4], &[&pod])?;
    // Mended, it is served too.
    lab.node.ip(&format!("addr del {own}/32 dev lo\n"))?;
    plane.apply(&endpoint_slice("own", "own", &[pod.ip(Family::V4)]))?;
    agent.wait_until("the Service is served after the node gave its address up", |agent| {
        Ok(of(&programmed(agent)?, &[own]).values().any(|to| to.len() == 1))
    })?;
    calls_reach(&client, 66, &[Family::V4], &[&pod])
}
