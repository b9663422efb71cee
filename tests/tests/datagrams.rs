//! Sockets of UDP whose backend leaves: every way, both families, connected or not.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, Exchange, FAMILIES, Family, Lab, Load, Pod, Running, WORLDS, Way, cluster_ips, pod_manifest,
    service_manifest,
};

/// How long a UDP flow may stick to a backend that has left: the agent looks for such flows as soon as it knows, and a
/// machine may be busy.
const LEFT: Duration = Duration::from_secs(1);

/// What happens to the pods web-11 to web-13 of the Service, and what its sockets meet then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    /// Two of them leave.
    Left,
    /// All leave, then one comes back.
    Empty,
    /// The Service is deleted, then it comes back over one.
    Deleted,
}

/// Sockets of datagrams, each of which calls the Service again and again: every way and family, IPv4 in sockets of
/// IPv6, too, and every kind of address.
fn datagrams(lab: &Lab, client: &Pod, ways: &[Way]) -> Result<Vec<(bool, String, Running)>> {
    let mapped = |to: SocketAddr| match to.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
        IpAddr::V6(_) => to,
    };
    let mut calls: Vec<_> = FAMILIES.map(|family| SocketAddr::new(family.cluster_ip(10), 53)).into();
    calls.push(mapped(calls[0]));
    let mut calls: Vec<_> = calls.into_iter().flat_map(|to| [(to, false), (to, true)]).collect();
    calls.extend(FAMILIES.into_iter().flat_map(others).map(|to| (to, false)));
    let mut streams = Vec::new();
    for (&way, (to, connected)) in ways.iter().flat_map(|way| calls.iter().map(move |call| (way, *call))) {
        let exchange = Exchange::Udp { size: 100, connected };
        let load = Load { one_socket: true, timeout_ms: 80, ..Load::steady(exchange, to, 100) };
        let is_led = way == Way::Host && connected;
        streams.push((is_led, format!("{way:?} {to} {exchange:?}"), way.place(lab, client).start(load)?));
    }
    Ok(streams)
}

const NODE_PORT: u16 = 30_053;

/// Its addresses beside the ClusterIP: a NodePort, a load balancer's, an external one.
fn others(family: Family) -> [SocketAddr; 3] {
    let [balanced, external] = beside(family).map(|ip| SocketAddr::new(ip, 53));
    [SocketAddr::new(family.node_ip(), NODE_PORT), balanced, external]
}

fn beside(family: Family) -> [IpAddr; 2] {
    [1, 2].map(|n| family.pick([203, 0, 113, n].into(), [0xfd00, 0x203, 0, 0, 0, 0, 0, n.into()].into()))
}

/// The Service, of every kind at once.
fn service() -> String {
    let [[balanced4, external4], [balanced6, external6]] = FAMILIES.map(beside);
    let kind = format!("  type: LoadBalancer\n  externalIPs: [\"{external4}\", \"{external6}\"]\n");
    let text = service_manifest("web", &cluster_ips(10)).replace("  type: ClusterIP\n", &kind);
    let text = text.replace("    port: 53\n", &format!("    port: 53\n    nodePort: {NODE_PORT}\n"));
    text + &format!("status: {{loadBalancer: {{ingress: [{{ip: \"{balanced4}\"}}, {{ip: \"{balanced6}\"}}]}}}}\n")
}

/// What its process hears of a socket that was closed for it, while it waits and when it sends.
const CLOSED: [&str; 2] = ["(os error 103)", "(os error 89)"];

#[test]
fn a_udp_socket_does_not_stick_to_a_backend_that_left() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        for change in [Change::Left, Change::Empty, Change::Deleted] {
            let lab = Lab::new()?;
            lab.manifests.write("web.yaml", &service())?;
            let (pods, client) = (lab.pods("web", 11..14)?, lab.bare_pod("client", 40)?);
            let _agent = Agent::start(&lab, options)?;
            let streams = datagrams(&lab, &client, ways)?;
            std::thread::sleep(Duration::from_millis(500));
            // The processes stay, so that nothing but the rule makes a flow move.
            let leave =
                |pods: &[Pod]| pods.iter().try_for_each(|pod| lab.manifests.delete(&format!("{}.yaml", pod.name)));
            if change == Change::Deleted {
                lab.manifests.delete("web.yaml")?;
            }
            leave(if change == Change::Empty { &pods } else { &pods[..2] })?;
            if change != Change::Left {
                std::thread::sleep(Duration::from_millis(700));
                lab.manifests.write("web.yaml", &service())?;
                lab.manifests.write("web-13.yaml", &pod_manifest("web-13", "web", &pods[2].ips))?;
            }
            std::thread::sleep(LEFT);
            for (is_led, row, stream) in streams {
                let (row, report) = (format!("{change:?} {row}"), stream.stop()?);
                // A socket of the node that was led to its backend when it connected is closed for its process.
                let (closed, failed): (Vec<_>, Vec<_>) =
                    report.failures().into_iter().partition(|failure| CLOSED.iter().any(|end| failure.ends_with(end)));
                match change {
                    Change::Left => assert_eq!(failed, [""; 0], "{row}"),
                    Change::Empty | Change::Deleted => assert!(failed.len() >= 2, "{row}: {failed:?}"),
                }
                let pods: Vec<_> = report.seen().map(|seen| seen.server.pod.as_str()).collect();
                let is_lost = change != Change::Left || pods.first() != Some(&"web-13");
                assert_eq!(closed.len(), usize::from(is_led && is_lost), "{row}: {closed:?}");
                // What the process opened while there was no Service is connected to an address that leads nowhere.
                if !(is_led && change == Change::Deleted) {
                    assert_eq!(pods.last(), Some(&"web-13"), "{row}");
                }
                let moves = pods.windows(2).filter(|pair| pair[0] != pair[1]).count();
                assert!(moves <= 1, "{row}: one flow moved {moves} times, though its backend left at most once");
            }
        }
    }
    Ok(())
}
