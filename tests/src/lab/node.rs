//! A node: its namespace, its name in the cluster, and where its agent keeps what. Pods are wired to it by `pod.rs`.

use std::fs;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::pod::Wiring;
use super::{Family, Lab, Netns, Owner, Place, Pod};

/// What distinguishes one node from another.
#[derive(Clone, Debug)]
pub(super) struct Character {
    /// As Kubernetes knows it.
    pub(super) name: &'static str,
    /// Its zone.
    pub(super) zone: &'static str,
    /// Its pods have the addresses 10.244.number.n and fd00:244:0:number::n.
    pub(super) number: u8,
    /// IPv4, IPv6.
    pub(super) ips: [IpAddr; 2],
    /// Devices that lead away from it.
    pub(super) nics: &'static [&'static str],
    /// How its pods are wired.
    pub(super) wiring: Wiring,
    /// The MTU of its pods.
    pub(super) mtu: u16,
}

/// Where a node keeps what on the machine that all share.
#[derive(Clone, Debug)]
pub(super) struct Home {
    /// The beginning of the names of its namespaces.
    pub(super) id: String,
    /// Logs, and the agent's run folder.
    pub(super) dir: PathBuf,
    /// A folder on a bpffs.
    pub(super) pins: PathBuf,
    /// Its processes, and those of its pods.
    pub(super) cgroup: PathBuf,
}

impl Home {
    /// The one of a lab's only node.
    pub(super) fn only(owner: &Owner) -> Result<Self> {
        let (dir, cgroup) = (owner.dir.clone(), owner.cgroup.clone());
        Ok(Self { id: owner.id.clone(), dir, pins: owner.bpffs()?, cgroup })
    }

    /// One of several, below the same owner.
    pub(super) fn one_of(owner: &Owner, bpffs: &Path, name: &str) -> Result<Self> {
        let home = Self {
            id: owner.id.clone(),
            dir: owner.dir.join(name),
            pins: bpffs.join(name),
            // Beside the owner's: a cgroup with children takes no processes of its own.
            cgroup: owner.cgroup.with_file_name(format!("{}-{name}", owner.id)),
        };
        for dir in [&home.dir, &home.pins, &home.cgroup] {
            fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(home)
    }
}

/// A node. What can be done in a namespace can be done on it.
#[derive(Debug)]
pub struct Node {
    ns: Netns,
    pub(super) home: Home,
    pub(super) character: Character,
}

impl Node {
    /// Makes its namespace, which routes, without devices.
    pub(super) fn new(home: Home, character: Character) -> Result<Self> {
        let ns = Netns::new(&format!("{}-{}", home.id, character.name))?;
        ns.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // Strict, as many distributions have it: an answer must leave where it would be expected.
            ("net/ipv4/conf/all/rp_filter", "1"),
            ("net/ipv4/conf/default/rp_filter", "1"),
        ])?;
        let node = Self { ns, home, character };
        node.prepare_wiring()?;
        Ok(node)
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        self.character.name
    }

    /// Its zone.
    pub fn zone(&self) -> &str {
        self.character.zone
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        let [v4, v6] = self.character.ips;
        if family == Family::V4 { v4 } else { v6 }
    }

    /// The addresses of its pods, of a family, as Kubernetes writes them.
    pub fn pod_cidr(&self, family: Family) -> String {
        let prefix = if family == Family::V4 { 24 } else { 64 };
        format!("{}/{prefix}", self.pod_ip(family, 0))
    }

    /// The address of pod number `n`.
    pub fn pod_ip(&self, family: Family, n: u8) -> IpAddr {
        family.pod_ip_on(self.character.number, n)
    }

    /// Devices that lead away from it.
    pub fn nics(&self) -> &[&'static str] {
        self.character.nics
    }

    /// A process on it, in its cgroup.
    pub fn host(&self) -> Place<'_> {
        Place { ns: &self.ns, cgroup: Some(&self.home.cgroup) }
    }

    /// A process on it whose sockets no cgroup hook sees, as those inside the kernel.
    pub fn unseen(&self) -> Place<'_> {
        Place { ns: &self.ns, cgroup: None }
    }

    /// A process in one of its pods, in its cgroup.
    pub fn process_in<'a>(&'a self, pod: &'a Pod) -> Place<'a> {
        Place { ns: &pod.ns, cgroup: Some(&self.home.cgroup) }
    }

    /// Its own folder.
    pub fn dir(&self) -> &Path {
        &self.home.dir
    }

    /// Where its agent pins.
    pub fn pins(&self) -> &Path {
        &self.home.pins
    }

    /// Where its agent says how it is.
    pub fn run_dir(&self) -> PathBuf {
        self.home.dir.join("run")
    }

    /// The cgroup of its processes.
    pub fn cgroup(&self) -> &Path {
        &self.home.cgroup
    }
}

impl Deref for Node {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.ns
    }
}

/// What runs on a node runs on a lab's only one.
impl<'a> From<&'a Lab> for &'a Node {
    fn from(lab: &'a Lab) -> Self {
        &lab.node
    }
}
