//! What routers and hosts say of packets of Services with ICMP reaches those whom it concerns: real sockets learn the MTU
//! of a path, that a port is closed, and where their packets went no further.

use std::io::ErrorKind;
use std::mem::size_of_val;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
    sockopt::{Ipv4RecvErr, Ipv6RecvErr},
};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, Exchange, FAMILIES, Family, Far, Lab, Load, NIC, Netns, Pod, UDP_PORT, WORLDS, Way, cluster_ips, pattern,
    service_manifest,
};

/// Number of the ClusterIPs of the Service `web`.
const WEB: u8 = 10;
/// Of the Service `closed`, whose UDP port leads to one that no socket of its pods has.
const CLOSED: u8 = 11;
/// Of the narrow link: enough for IPv6, and less than the lab's other links.
const NARROW: u16 = 1300;

fn vip(n: u8, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(n), port)
}

fn world(lab: &Lab) -> Result<(Vec<Pod>, Pod)> {
    lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(WEB)))?;
    let closed = service_manifest("closed", &cluster_ips(CLOSED)).replace("app: closed", "app: web");
    lab.manifests.write("closed.yaml", &closed.replace(&format!("targetPort: {UDP_PORT}"), "targetPort: 9"))?;
    let pods = lab.pods("web", 11..13)?;
    for ns in pods.iter().map(|pod| &pod.ns).chain([&lab.node, &lab.outside]) {
        // As many errors as there are packets: hosts would else send few.
        ns.sysctl(&[("net/ipv4/icmp_ratelimit", "0"), ("net/ipv6/icmp/ratelimit", "0")])?;
    }
    Ok((pods, lab.bare_pod("client", 40)?))
}

/// How a socket asks for packets that are not to be fragmented (`IP_PMTUDISC_DO`).
fn never_fragment(socket: &UdpSocket, family: Family) -> Result<()> {
    let (level, name) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    let value = libc::IP_PMTUDISC_DO;
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads as many bytes as the value has.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// A connected socket in `ns`, which is told of all errors at once.
fn connected(family: Family, to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = family.pick(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let socket = UdpSocket::bind((any, 0))?;
    match family {
        Family::V4 => setsockopt(&socket, Ipv4RecvErr, &true)?,
        Family::V6 => setsockopt(&socket, Ipv6RecvErr, &true)?,
    }
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket)
}

/// Sends datagrams that are too large for the path until the socket knows, then one that fits: it is answered.
fn discover(ns: &Netns, family: Family, to: SocketAddr) -> Result<()> {
    ns.run(|| {
        let socket = connected(family, to)?;
        never_fragment(&socket, family)?;
        let large = pattern(0, usize::from(NARROW) + 50);
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            match socket.send(&large) {
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => break,
                Err(error) => return Err(error.into()),
                Ok(_) => ensure!(Instant::now() < end, "no error came for a datagram of {} bytes", large.len()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // What is queued of errors is not to be taken for an answer.
        while offender(&socket, family)?.is_some() {}
        let headers = if family == Family::V4 { 28 } else { 48 };
        socket.send(&pattern(0, usize::from(NARROW) - headers))?;
        let mut buffer = [0; 2000];
        let n = socket.recv(&mut buffer).context("no answer to a datagram that fits")?;
        ensure!(n == usize::from(NARROW) - headers, "an answer of {n} bytes");
        Ok(())
    })
}

/// The oldest error that waits at a socket: its number, who reported it, and to whom the packet was sent.
fn offender(socket: &UdpSocket, family: Family) -> Result<Option<(i32, IpAddr, SocketAddr)>> {
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut bytes = [0; 2000];
    let mut iov = [std::io::IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrStorage>(socket.as_fd().as_raw_fd(), &mut iov, Some(&mut space), flags) {
        Err(nix::Error::EAGAIN) => return Ok(None),
        message => message?,
    };
    let to = message.address.context("an error about a packet to nobody")?;
    let to = match family {
        Family::V4 => SocketAddr::V4((*to.as_sockaddr_in().context("IPv4")?).into()),
        Family::V6 => SocketAddr::V6((*to.as_sockaddr_in6().context("IPv6")?).into()),
    };
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
                let from = Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
                return Ok(Some((error.ee_errno as i32, from.into(), to)));
            }
            ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
                return Ok(Some((error.ee_errno as i32, Ipv6Addr::from(from.sin6_addr.s6_addr).into(), to)));
            }
            _ => {}
        }
    }
    Ok(Some((0, to.ip(), to)))
}

#[test]
fn a_closed_port_of_a_pod_refuses_the_client() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        let (pods, client) = world(&lab)?;
        let _agent = Agent::start(&lab, options)?;
        for (&way, family) in ways.iter().flat_map(|way| FAMILIES.map(|family| (way, family))) {
            // The last is a pod that is its own backend in one of two cases.
            for from in [&client, &pods[0]] {
                let to = vip(CLOSED, family, 53);
                let load = Load::new(Exchange::Udp { size: 100, connected: true }, to, 4);
                let report = way.place(&lab, from).run(load)?;
                let refused = report.answers.iter().all(|answer| answer.refused && answer.took_us < 500_000);
                assert!(refused, "{way:?} {family:?} from {}: {:?}", from.name, report.failures());
            }
        }
    }
    Ok(())
}

#[test]
fn the_mtu_of_a_path_through_a_service_is_discovered() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        let (pods, client) = world(&lab)?;
        let far = lab.far()?;
        let _agent = Agent::start(&lab, options)?;
        let narrow = |ns: &Netns, device: &str, mtu: u16| ns.ip(&format!("link set {device} mtu {mtu}\n"));
        let bulk = |up, down| Exchange::Bulk { up, down };
        // To the pods: their own end of the link takes 1500 bytes, which is what TCP is told; the node's end does not.
        for pod in &pods {
            narrow(&lab.node, &pod.device, NARROW)?;
        }
        for (&way, family) in ways.iter().flat_map(|way| FAMILIES.map(|family| (way, family))) {
            let row = format!("{way:?} {family:?}");
            let place = way.place(&lab, &client);
            let report = place.run(Load::new(bulk(3_000_001, 1000), vip(WEB, family, 9000), 2))?;
            assert_eq!(report.failures(), [""; 0], "{row}: to the pods");
            // A socket that was led to a pod needs no translation, and its host knows the MTU.
            if !matches!(way, Way::Host | Way::PodSocket) {
                discover(place.ns, family, vip(WEB, family, 53)).with_context(|| format!("{row}: to the pods"))?;
            }
        }
        for pod in &pods {
            narrow(&lab.node, &pod.device, 1500)?;
        }
        // To a client behind a router: the error comes to the virtual IP.
        narrow(&lab.outside, "far0", NARROW)?;
        for family in FAMILIES {
            let report = far.place().run(Load::new(bulk(1000, 3_000_001), vip(WEB, family, 9000), 2))?;
            assert_eq!(report.failures(), [""; 0], "{family:?} {:?}: to the client", options.xdp);
        }
    }
    Ok(())
}

#[test]
fn the_router_where_a_packet_to_a_service_went_no_further_is_seen() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        let (_pods, client) = world(&lab)?;
        let far = lab.far()?;
        let _agent = Agent::start(&lab, options)?;
        let outside = ways.iter().find(|way| matches!(way, Way::OutsideXdp | Way::OutsideTc));
        for family in FAMILIES {
            // To a pod, the node is the first hop, and to the far client, the second: it translates, then counts hops.
            let rows = [(&client.ns, 1, "pod"), (&far.ns, 2, "far")];
            for (ns, hops, name) in rows {
                let row = format!("{name} {family:?} {outside:?}");
                let to = vip(WEB, family, 53);
                let told = ns.run(|| {
                    let socket = connected(family, to)?;
                    match family {
                        Family::V4 => socket.set_ttl(hops)?,
                        Family::V6 => socket2::SockRef::from(&socket).set_unicast_hops_v6(hops)?,
                    }
                    socket.send(&pattern(0, 100))?;
                    let failed = socket.recv(&mut [0; 200]).expect_err("a datagram with few hops to live was answered");
                    ensure!(failed.kind() == ErrorKind::HostUnreachable, "{failed}");
                    offender(&socket, family)?.context("no error waits")
                });
                let (errno, from, about) = told.context(row.clone())?;
                assert_eq!((errno, about), (libc::EHOSTUNREACH, to), "{row}");
                let node = if name == "pod" && family == Family::V6 { from } else { family.node_ip() };
                assert_eq!(from, node, "{row}");
                assert!(from != Far::ip(family) && from != to.ip(), "{row}: {from} of {NIC}");
            }
        }
    }
    Ok(())
}
