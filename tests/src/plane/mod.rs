//! A real control plane for a lab: etcd, kube-apiserver and, where asked for, kube-controller-manager.
//!
//! ```text
//!  plane                                   node
//!  eth0 ────────────── veth ────────────── plane0
//!  192.168.60.1, fd00:60::1                192.168.60.100, fd00:60::100
//! ```
//!
//! It lives in a network namespace of its own, as on a machine of its own: what the agent does to the node's packets
//! cannot help or hurt it, and several nodes can reach one. There is no kubelet: who needs a running pod writes its status.

mod api;
mod certificates;
mod daemon;
mod etcd;
mod kubeconfig;
mod kubectl;
mod objects;
mod oracle;
mod programs;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::{Family, Lab, Netns, remove_cgroup};
use certificates::{Authority, Identity};
use daemon::Daemon;

pub use objects::{service, together};
pub use oracle::{Frontends, programmed};
pub use programs::{program, reason_to_skip};

/// The Services' addresses, IPv4 first: those of [`Family::cluster_ip`] are among them.
pub const SERVICE_CIDRS: &str = "10.96.0.0/12,fd00:96::/108";

/// The lab's node, as its kubelet would register it.
const NODE: &str = include_str!("node.yaml");

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
    _lab: &'a Lab,
}

impl<'a> Plane<'a> {
    /// Starts it, reachable from the lab's node, and waits until it is ready.
    ///
    /// # Errors
    /// A program is not there, or does not become ready.
    pub fn start(lab: &'a Lab, options: PlaneOptions) -> Result<Self> {
        let dir = lab.dir().join("plane");
        let pki = dir.join("pki");
        fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;
        let cgroup = Cgroup::new(lab)?;
        let ns = connect(lab, options.api_servers)?;
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
        let mut plane = Self { controllers, servers, etcd, authority, admin, dir, ns, cgroup, _lab: lab };
        plane.etcd.start(&plane.ns, &plane.cgroup.0)?;
        for n in 0..options.api_servers.into() {
            plane.start_api(n)?;
        }
        plane.wait_until("the API server has made its namespaces", |plane| plane.has("namespace/default"))?;
        // Not applied by the server: two addresses of one type are one entry to it.
        plane.kubectl_with(&["create", "--filename", "-"], NODE)?;
        if let Some(controllers) = &mut plane.controllers {
            controllers.start(&plane.ns, &plane.cgroup.0)?;
            // Pods are refused before it is there.
            plane.wait_until("there is a ServiceAccount", |plane| plane.has("serviceaccount/default"))?;
        }
        Ok(plane)
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

/// Makes the namespace, with an address for each API server, and a link to the node.
fn connect(lab: &Lab, api_servers: u8) -> Result<Netns> {
    let ns = Netns::new(&format!("{}-plane", lab.id()))?;
    lab.node.ip(&format!(
        "link add plane0 type veth peer name eth0 netns {}
         addr add 192.168.60.100/24 dev plane0
         addr add fd00:60::100/64 dev plane0 nodad
         link set plane0 up\n",
        ns.name()
    ))?;
    for n in 0..api_servers.into() {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| api::ip(family, n));
        ns.ip(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n"))?;
    }
    ns.ip("link set eth0 up
           route add default via 192.168.60.100
           route add default via fd00:60::100\n")?;
    Ok(ns)
}

/// The processes of the control plane: apart from the lab's own, whose sockets the agent translates.
#[derive(Debug)]
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(lab: &Lab) -> Result<Self> {
        let path = lab.cgroup().with_file_name(format!("{}-plane", lab.id()));
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_cgroup(&self.0);
    }
}
