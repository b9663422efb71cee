//! A node's routes to other nodes, in a network namespace without a name: what packets of remote backends leave by when a
//! program is run on them alone.

use std::net::IpAddr;
use std::{fs, thread};

use anyhow::{Context, Result, anyhow};
use lb_common::mem::Native;
use lb_common::route::{Hop, NextHop};
use nix::sched::{CloneFlags, unshare};

use crate::lab::ip_batch;
use crate::packets::world::{Net, Network};

/// Index of the device that leads to clients and to other nodes.
pub const DEVICE: u32 = 7;
/// Bytes of the longest packet that it takes.
const MTU: usize = 1400;
/// Its MAC.
const OWN: [u8; 6] = [2, 0, 0, 0, 7, 1];
/// The MAC of all neighbours.
const NEXT: [u8; 6] = [2, 0, 0, 0, 7, 2];

/// Hosts of each network whose MACs are known: clients, and pods of other nodes but some.
const KNOWN: [(Network, &[u8]); 2] = [(Network::Client, &[1, 2]), (Network::Far, &[1, 2])];
/// A pod of another node whose MAC nobody knows.
const UNKNOWN: (Network, u8) = (Network::Far, 3);
/// One to whom no route leads.
const CUT_OFF: (Network, u8) = (Network::Far, 4);

/// Runs `work` on a thread in a namespace that has these routes; with it the namespace goes.
///
/// # Errors
/// The machine does not let us make it, or `work` fails.
pub fn within<A: Net, T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (this needs root)")?;
            for (setting, value) in [
                ("net/ipv6/conf/default/accept_dad", "0"),
                ("net/ipv6/conf/all/disable_ipv6", "0"),
                ("net/ipv6/conf/default/disable_ipv6", "0"),
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
            ] {
                fs::write(format!("/proc/sys/{setting}"), value).with_context(|| format!("cannot write {setting}"))?;
            }
            ip_batch(&commands::<A>())?;
            work()
        });
        inside.join().unwrap_or_else(|panic| Err(anyhow!("panicked: {:?}", panic.downcast_ref::<String>())))
    })
}

fn commands<A: Net>() -> String {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let host = A::host(Network::Node, 1);
    let len = if A::ICMP == 1 { 16 } else { 32 };
    let mut text = format!(
        "link set lo up\nlink add far index {DEVICE} address {} mtu {MTU} type veth peer name other\nlink set far up\nlink set other up\naddress add {host}/{len} dev far\n",
        mac(OWN)
    );
    for network in [Network::Client, Network::Far] {
        text += &format!("route add {}/{len} dev far\n", A::host(network, 0));
    }
    text += &format!("route add unreachable {}\n", A::host(CUT_OFF.0, CUT_OFF.1));
    for (network, hosts) in KNOWN {
        for host in hosts {
            let ip = A::host(network, *host);
            text += &format!("neighbour add {ip} lladdr {} dev far nud permanent\n", mac(NEXT));
        }
    }
    text
}

/// Tells a native run of these routes, as XDP or as TC sees them.
pub fn tell<A: Net>(native: &mut Native, xdp: bool) {
    let ips = KNOWN.iter().flat_map(|(network, hosts)| hosts.iter().map(|host| A::host(*network, *host)));
    let known: Vec<IpAddr> = ips.collect();
    for ip in known {
        let next = NextHop::new(DEVICE, 0, NEXT, OWN);
        native.hops.insert(ip, if xdp { Hop::Direct(next) } else { Hop::Neighbour(next) });
    }
    let unknown = NextHop { device: DEVICE, ..NextHop::NONE };
    let hop = if xdp { Hop::HandOver } else { Hop::Neighbour(unknown) };
    native.hops.insert(A::host(UNKNOWN.0, UNKNOWN.1), hop);
    native.longest = MTU;
    native.at_xdp = xdp;
}
