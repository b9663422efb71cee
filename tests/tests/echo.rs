//! Who pings a virtual IP is answered: real sockets, small and in fragments.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{Agent, FAMILIES, Family, Lab, Netns, WORLDS, cluster_ips, pattern, service_manifest};
use socket2::{Domain, Protocol, Socket, Type};

/// The ranges of the lab's ClusterIPs: to these, processes of the node go through the service device.
const RANGES: &str = "apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, \"fd00:96::/108\"]}
";

/// Sends an echo request with so many bytes from a socket as `ping` has it; whether its reply comes. The kernel checks the
/// checksum, and takes only a reply to this socket.
fn ping(ns: &Netns, to: IpAddr, size: usize) -> Result<bool> {
    ns.run(|| {
        let (protocol, request) = if to.is_ipv4() { (Protocol::ICMPV4, 8) } else { (Protocol::ICMPV6, 128) };
        let mut socket = Socket::new(Domain::for_address(SocketAddr::new(to, 0)), Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut message = vec![request, 0, 0, 0, 0, 0, 0, 1];
        message.extend(pattern(0, size));
        match socket.send_to(&message, &SocketAddr::new(to, 0).into()) {
            // The node's own packet was dropped on its way out: at the service device, to nobody's address.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(false),
            sent => sent?,
        };
        let mut reply = vec![0; 65_536];
        match socket.read(&mut reply) {
            Ok(n) => {
                ensure!(reply[..2] == [if to.is_ipv4() { 0 } else { 129 }, 0], "no echo reply: {:?}", &reply[..8]);
                ensure!(reply[8..n] == message[8..], "a reply of {n} bytes to {}, or another", message.len());
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    })
}

#[test]
fn who_pings_a_virtual_ip_is_answered() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(10)))?;
        let _pods = lab.pods("web", 11..12)?;
        let client = lab.bare_pod("client", 40)?;
        lab.manifests.write("ranges.yaml", RANGES)?;
        for ns in [&*lab.node, &client.ns, &lab.outside] {
            ns.sysctl(&[("net/ipv4/ping_group_range", "0 2147483647")])?;
        }
        let silent = |ns, family: Family, n| -> Result<()> {
            ensure!(!ping(ns, family.cluster_ip(n), 56)?, "somebody answers at {}", family.cluster_ip(n));
            Ok(())
        };
        silent(&client.ns, Family::V4, 10)?;
        let agent = Agent::start(&lab, options)?;
        for way in ways {
            for family in FAMILIES {
                let ns = way.place(&lab, &client).ns;
                for size in [0, 1, 56, 1400, 1473, 4000, 20_000] {
                    let answered = ping(ns, family.cluster_ip(10), size)?;
                    ensure!(answered, "{way:?} {family:?}: no answer to {size} bytes");
                }
                silent(ns, family, 99)?;
                let own = ping(ns, family.node_ip(), 56)?;
                ensure!(own, "{way:?} {family:?}: the node itself does not answer");
            }
        }
        ensure!(agent.json(&["status"])?.to_string().contains("\"echo\""), "not counted");
    }
    Ok(())
}
