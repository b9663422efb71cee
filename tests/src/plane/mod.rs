//! A real control plane for a lab: etcd, kube-apiserver and, where asked for, kube-controller-manager; and kube-proxy.
//!
//! ```text
//!  plane                                         node
//!  api0 ── node-0 ─────────── veth ───────────── plane0
//!  192.168.60.1, fd00:60::1                      192.168.60.100, fd00:60::100
//!       ── node-1 … (where there are more nodes, of this lab or another's)
//! ```
//!
//! It lives in a network namespace of its own, as on a machine of its own: what the agent does to the node's packets
//! cannot help or hurt it, and several nodes can reach one. There is no kubelet: who needs a running pod writes its status.

mod api;
mod certificates;
mod connection;
mod daemon;
mod etcd;
mod kubeconfig;
mod kubectl;
mod objects;
mod oracle;
mod programs;
mod proxy;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::{Family, Lab, Netns, Node, Owner, World, remove_cgroup};
use certificates::{Authority, Identity};
use daemon::Daemon;

use objects::node_manifest;
pub use objects::{service, together};
pub use oracle::{Frontends, programmed};
pub use programs::{program, reason_to_skip};
pub use proxy::{KubeProxy, Mode};

/// The Services' addresses, IPv4 first: those of [`Family::cluster_ip`] are among them.
pub const SERVICE_CIDRS: &str = "10.96.0.0/12,fd00:96::/108";

/// How long anything of the control plane may take; far longer than it should on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Leaves the calling test, saying why, unless the control plane can run here. Follows [`kernel_or_skip`](crate::kernel_or_skip).
#[macro_export]
macro_rules! plane_or_skip {
    () => {
        $crate::kernel_or_skip!();
        if let Some(reason) = $crate::plane::reason_to_skip() {
            let thread = std::thread::current();
            eprintln!("SKIP {}: {reason}", thread.name().unwrap_or("test"));
            return Ok(());
        }
    };
}

/// What of a control plane is wanted.
#[derive(Clone, Copy, Debug)]
pub struct PlaneOptions {
    /// API servers on one etcd, each on an address of its own.
    pub api_servers: u8,
    /// kube-controller-manager, with the controllers that turn Pods into EndpointSlices and make ServiceAccounts.
    /// Without it Pods are refused, since their namespace has no ServiceAccount.
    pub controllers: bool,
}

impl Default for PlaneOptions {
    fn default() -> Self {
        Self { api_servers: 1, controllers: true }
    }
}

/// A running control plane. It ends when it is dropped, and with the lab at the latest.
#[derive(Debug)]
pub struct Plane<'a> {
    controllers: Option<Daemon>,
    servers: Vec<Daemon>,
    etcd: Daemon,
    authority: Authority,
    admin: PathBuf,
    dir: PathBuf,
    ns: Netns,
    cgroup: Cgroup,
    joined: u8,
    // It ends with the lab.
    _owner: &'a Owner,
}

impl<'a> Plane<'a> {
    /// Starts it, reachable from the lab's node, and waits until it is ready.
    ///
    /// # Errors
    /// A program is not there, or does not become ready.
    pub fn start(lab: &'a Lab, options: PlaneOptions) -> Result<Self> {
        Self::start_for(&lab.owner, &[&lab.node], options)
    }

    /// The same for all nodes of a world.
    ///
    /// # Errors
    /// As for [`Plane::start`].
    pub fn start_in(world: &'a World, options: PlaneOptions) -> Result<Self> {
        Self::start_for(&world.owner, &world.nodes.iter().collect::<Vec<_>>(), options)
    }

    fn start_for(owner: &'a Owner, nodes: &[&Node], options: PlaneOptions) -> Result<Self> {
        let dir = owner.dir.join("plane");
        let pki = dir.join("pki");
        fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;
        let cgroup = Cgroup::new(owner)?;
        let ns = namespace(owner, options.api_servers)?;
        let authority = Authority::new(&pki)?;
        let identity = authority.client("admin", Some("system:masters"))?;
        // Written once: an agent may start and read it at any moment.
        let admin = dir.join("admin.json");
        kubeconfig::write(&admin, &authority, &Self::url(0), &kubeconfig::certificate(&identity))?;
        let tokens = authority.key("service-accounts")?;
        let servers =
            (0..options.api_servers).map(|n| api::server(n, &authority, &tokens, &dir)).collect::<Result<Vec<_>>>()?;
        let etcd = etcd::daemon(&dir)?;
        let controllers = options.controllers.then(|| api::controllers(&authority, &tokens, &dir)).transpose()?;
        let mut plane =
            Self { controllers, servers, etcd, authority, admin, dir, ns, cgroup, joined: 0, _owner: owner };
        plane.etcd.start(&plane.ns, &plane.cgroup.0)?;
        for n in 0..options.api_servers.into() {
            plane.start_api(n)?;
        }
        plane.wait_until("the API server has made its namespaces", |plane| plane.has("namespace/default"))?;
        for node in nodes {
            plane.join(node)?;
        }
        if let Some(controllers) = &mut plane.controllers {
            controllers.start(&plane.ns, &plane.cgroup.0)?;
            // Pods are refused before it is there.
            plane.wait_until("there is a ServiceAccount", |plane| plane.has("serviceaccount/default"))?;
        }
        Ok(plane)
    }

    /// Links a node to it, and registers the node as its kubelet would. Nodes of different labs may have one name: they
    /// are one node to the API.
    pub fn join(&mut self, node: &Node) -> Result<()> {
        let (number, port) = (FIRST_NODE + self.joined, format!("node-{}", self.joined));
        self.joined += 1;
        node.ip(&format!(
            "link add plane0 type veth peer name {port} netns {}
             addr add 192.168.60.{number}/24 dev plane0
             addr add fd00:60::{number}/64 dev plane0 nodad
             link set plane0 up\n",
            self.ns.name()
        ))?;
        self.ns.ip(&format!("link set {port} master {BRIDGE} up\n"))?;
        if !self.has(&format!("node/{}", node.name()))? {
            // Not applied by the server: two addresses of one type are one entry to it.
            self.kubectl_with(&["create", "--filename", "-"], &node_manifest(node).to_string())?;
        }
        Ok(())
    }

    /// Where API server number `n` answers.
    pub fn address(n: usize) -> SocketAddr {
        SocketAddr::new(api::ip(Family::V4, n), api::PORT)
    }

    /// The same as a URL.
    pub fn url(n: usize) -> String {
        format!("https://{}", Self::address(n))
    }

    /// The command that begins a shell command in its namespace.
    pub fn nsenter(&self) -> String {
        format!("nsenter --net={}", self.ns.path().display())
    }

    /// Starts API server number `n`, and waits until it is ready.
    pub fn start_api(&mut self, n: usize) -> Result<()> {
        self.server(n)?;
        let (ns, cgroup) = (&self.ns, &self.cgroup.0);
        self.servers[n].start(ns, cgroup)?;
        self.wait_until("the API server is ready", |plane| {
            plane.servers[n].expect_running()?;
            plane.is_ready(n)
        })
    }

    /// Ends API server number `n` as an update would: it ends what is under way.
    pub fn stop_api(&mut self, n: usize) -> Result<()> {
        self.server(n)?.stop()
    }

    /// Ends API server number `n` at once.
    pub fn kill_api(&mut self, n: usize) -> Result<()> {
        self.server(n)?.kill()
    }

    /// Forgets all revisions but the newest: a watch that would go on from an older one is told 410, Gone.
    pub fn compact(&mut self) -> Result<()> {
        etcd::compact(&self.ns)
    }

    /// Where it lives: a client there asks it without a packet through the node.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// Waits until `done`, which is asked every few milliseconds, holds.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if done(self)? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let logs: Vec<_> = self.daemons().map(|daemon| format!("{}:\n{}", daemon.name, daemon.tail())).collect();
        bail!("waited {} s in vain until {what}; the logs end:\n{}", PATIENCE.as_secs(), logs.join("\n\n"))
    }

    fn server(&mut self, n: usize) -> Result<&mut Daemon> {
        self.servers.get_mut(n).with_context(|| format!("there is no API server {n}"))
    }

    fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        [&self.etcd].into_iter().chain(&self.servers).chain(&self.controllers)
    }
}

/// All its links, as those of one machine.
const BRIDGE: &str = "api0";
/// The last part of the first node's address on them.
const FIRST_NODE: u8 = 100;

/// Makes the namespace, with an address for each API server.
fn namespace(owner: &Owner, api_servers: u8) -> Result<Netns> {
    let ns = Netns::new(&format!("{}-plane", owner.id))?;
    ns.ip(&format!("link add {BRIDGE} type bridge mcast_snooping 0\n"))?;
    for n in 0..api_servers.into() {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| api::ip(family, n));
        ns.ip(&format!("addr add {v4}/24 dev {BRIDGE}\naddr add {v6}/64 dev {BRIDGE} nodad\n"))?;
    }
    ns.ip(&format!(
        "link set {BRIDGE} up
         route add default via 192.168.60.{FIRST_NODE}
         route add default via fd00:60::{FIRST_NODE}\n"
    ))?;
    Ok(ns)
}

/// The processes of the control plane: apart from the lab's own, whose sockets the agent translates.
#[derive(Debug)]
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(owner: &Owner) -> Result<Self> {
        let path = owner.cgroup.with_file_name(format!("{}-plane", owner.id));
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_cgroup(&self.0);
    }
}
