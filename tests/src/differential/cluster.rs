//! A world with what a cluster runs on it: backends that answer, clients that ask, and on every node the program that
//! makes Services work.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::thread::{ScopedJoinHandle, scope};

use anyhow::{Result, anyhow};

use crate::lab::{
    Agent, AgentOptions, Call, FAMILIES, Family, Node, Outcome, Outcomes, Pod, Probe, Prober, Responder, SocketPath,
    Source, Wiring, World, WorldOptions, cli,
};
use crate::plane::{KubeProxy, Mode};

/// Ports at which every backend answers, over all protocols.
pub const PORTS: [u16; 3] = [8080, 8081, 8082];
/// Numbers of the pods that are backends, on each node. The first is a client as well.
const BACKENDS: [u8; 2] = [11, 12];
/// Number of the pod that is only a client, on each node.
const CLIENT: u8 = 40;

/// Where an endpoint may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// IPv4, IPv6.
    pub ips: [IpAddr; 2],
    /// The number of its node.
    pub node: usize,
    /// Whether it has the node's own address.
    pub host_network: bool,
}

impl Backend {
    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        self.ips[usize::from(family == Family::V6)]
    }
}

/// Nodes, pods and clients outside. All of it is gone when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// All that may be endpoints: pods first, then the nodes themselves.
    pub backends: Vec<Backend>,
    _responders: Vec<Responder>,
    pods: Vec<Vec<Pod>>,
    /// The nodes, and the clients outside.
    pub world: World,
}

impl Cluster {
    /// Makes everything but what makes Services work.
    pub fn new(options: WorldOptions) -> Result<Self> {
        let world = World::new(options)?;
        let (mut backends, mut responders, mut pods) = (Vec::new(), Vec::new(), Vec::new());
        for (number, node) in world.nodes.iter().enumerate() {
            if options.wiring == Wiring::Bridge {
                // Netfilter sees what a bridge forwards, too, as Kubernetes asks of nodes with a bridge.
                let see = |family| format!("net/bridge/bridge-nf-call-{family}");
                node.sysctl(&[(&see("iptables"), "1"), (&see("ip6tables"), "1")])?;
            }
            let mut on_node = Vec::new();
            for n in BACKENDS {
                let pod = node.bare_pod(&format!("{}{n}", short(number)), n)?;
                responders.push(Responder::start(&pod.ns, &pod.ips, &PORTS)?);
                backends.push(Backend { ips: pod.ips, node: number, host_network: false });
                on_node.push(pod);
            }
            on_node.push(node.bare_pod(&format!("{}{CLIENT}", short(number)), CLIENT)?);
            if options.wiring == Wiring::Bridge {
                // Without it a pod that kube-proxy leads to itself hears nothing. Sluice needs none.
                let ports = on_node.iter().map(|pod| format!("link set {} type bridge_slave hairpin on\n", pod.device));
                node.ip(&ports.collect::<String>())?;
            }
            pods.push(on_node);
        }
        for (number, node) in world.nodes.iter().enumerate() {
            let ips = FAMILIES.map(|family| node.address(family));
            responders.push(Responder::start(node, &ips, &PORTS)?);
            backends.push(Backend { ips, node: number, host_network: true });
        }
        Ok(Self { backends, _responders: responders, pods, world })
    }
}

fn short(node: usize) -> char {
    (b'a'..).map(char::from).nth(node).unwrap_or('?')
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// A pod on this node that is also a backend, the first of its node.
    Backend(usize),
    /// Another pod on this node.
    Pod(usize),
    /// A process on this node.
    Host(usize),
    /// Outside, with this node as the way to everything.
    Outside(usize),
}

impl Client {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Backend(0),
        Self::Pod(0),
        Self::Pod(1),
        Self::Pod(2),
        Self::Host(0),
        Self::Host(1),
        Self::Host(2),
        Self::Outside(0),
        Self::Outside(1),
    ];

    /// The node at which its packets meet the Service.
    pub const fn node(self) -> usize {
        match self {
            Self::Backend(node) | Self::Pod(node) | Self::Host(node) | Self::Outside(node) => node,
        }
    }

    /// Its own address.
    pub fn ip(self, cluster: &Cluster, family: Family) -> IpAddr {
        match self {
            Self::Backend(node) => family.pod_ip_on(node as u8, BACKENDS[0]),
            Self::Pod(node) => family.pod_ip_on(node as u8, CLIENT),
            Self::Host(node) => cluster.world.nodes[node].address(family),
            Self::Outside(number) => World::outside_ip(family, number as u8),
        }
    }

    fn prober(self, cluster: &Cluster, path: SocketPath) -> Result<Prober<'_>> {
        let pod = |node: usize, n: usize| {
            let pod = &cluster.pods[node][n];
            // Only a process in a cgroup has sockets that hooks see.
            if path == SocketPath::All { cluster.world.nodes[node].process_in(pod) } else { pod.client() }
        };
        Prober::new(match self {
            Self::Backend(node) => pod(node, 0),
            Self::Pod(node) => pod(node, BACKENDS.len()),
            Self::Host(node) => cluster.world.nodes[node].host(),
            Self::Outside(number) => cluster.world.outside(number),
        })
    }
}

/// What makes Services work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The real kube-proxy, in its mode nftables.
    KubeProxy,
    /// Sluice.
    Sluice,
}

#[derive(Debug)]
enum Running<'a> {
    KubeProxy(KubeProxy<'a>),
    Sluice(Agent<'a>),
}

/// A cluster whose Services work, and clients in it.
#[derive(Debug)]
pub struct Side<'a> {
    cluster: &'a Cluster,
    running: Vec<Running<'a>>,
    probers: Vec<(Client, Prober<'a>)>,
}

impl<'a> Side<'a> {
    /// Starts a subject on every node, where it follows an API whose plane the nodes have joined.
    pub fn start(cluster: &'a Cluster, subject: Subject, kubeconfig: &Path) -> Result<Self> {
        Self::start_with(cluster, subject, kubeconfig, AgentOptions::USUAL)
    }

    /// The same with other options of the agent. kube-proxy, too, has NodePorts at the addresses that they say.
    pub fn start_with(
        cluster: &'a Cluster,
        subject: Subject,
        kubeconfig: &Path,
        options: AgentOptions,
    ) -> Result<Self> {
        let start = |node: &'a Node| {
            Ok(match subject {
                Subject::KubeProxy => {
                    // Longer than netfilter's 30 s, which a busy machine may need between two questions.
                    node.sysctl(&[
                        ("net/netfilter/nf_conntrack_udp_timeout", "60"),
                        ("net/netfilter/nf_conntrack_udp_timeout_stream", "120"),
                    ])?;
                    let addresses = options.nodeport_addresses.unwrap_or("primary");
                    Running::KubeProxy(KubeProxy::start_with(node, kubeconfig, Mode::Nftables, addresses)?)
                }
                Subject::Sluice => {
                    let source = Source::Kubernetes { kubeconfig: kubeconfig.to_owned(), api_servers: Vec::new() };
                    Running::Sluice(Agent::start_on(node, source, options)?)
                }
            })
        };
        let running = cluster.world.nodes.iter().map(start).collect::<Result<_>>()?;
        let probers = Client::ALL.iter().map(|client| Ok((*client, client.prober(cluster, options.socket_path)?)));
        Ok(Self { cluster, running, probers: probers.collect::<Result<_>>()? })
    }

    /// The cluster.
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// Lets clients ask, all at once; the answers come in the order of the questions.
    pub fn ask(&self, questions: &[(Client, Probe)]) -> Result<Vec<Outcomes>> {
        self.spread(questions, Outcomes::new(), Prober::ask)
    }

    /// Lets clients begin conversations, all at once, as many as each probe has tries; what came of each.
    pub(super) fn begin(&self, questions: &[(Client, Probe)], call: Call) -> Result<Vec<Vec<Outcome>>> {
        self.spread(questions, Vec::new(), |prober, probes| {
            let mut outcomes = prober.begin(probes, call)?.into_iter();
            Ok(probes.iter().map(|probe| outcomes.by_ref().take(probe.tries.into()).collect()).collect())
        })
    }

    /// Lets clients go on with their conversations, all at once; what came of each, in their order.
    pub(super) fn go_on(&self, patience_ms: u64) -> Result<BTreeMap<Client, Vec<Outcome>>> {
        self.each(|_, prober| prober.go_on(patience_ms))
    }

    /// Lets clients end their conversations, but for those in these places.
    pub(super) fn keep(&self, places: &BTreeMap<Client, Vec<usize>>) -> Result<()> {
        self.each(|client, prober| prober.keep(places.get(&client).map_or(&[], Vec::as_slice))).map(drop)
    }

    /// Gives each client its own among these questions; what comes of them in their order.
    fn spread<T: Clone + Send>(
        &self,
        questions: &[(Client, Probe)],
        nothing: T,
        ask: impl Fn(&Prober<'a>, &[Probe]) -> Result<Vec<T>> + Sync,
    ) -> Result<Vec<T>> {
        let batches = self.each(|client, prober| {
            let own = questions.iter().enumerate().filter(|(_, (by, _))| *by == client);
            let (places, probes): (Vec<_>, Vec<_>) = own.map(|(place, (_, probe))| (place, *probe)).unzip();
            let answers = if probes.is_empty() { Vec::new() } else { ask(prober, &probes)? };
            Ok(places.into_iter().zip(answers).collect::<Vec<_>>())
        })?;
        let mut all = vec![nothing; questions.len()];
        for (at, answer) in batches.into_values().flatten() {
            all[at] = answer;
        }
        Ok(all)
    }

    /// All clients do something at the same time.
    fn each<T: Send>(&self, work: impl Fn(Client, &Prober<'a>) -> Result<T> + Sync) -> Result<BTreeMap<Client, T>> {
        let work = &work;
        scope(|scope| {
            let begin = |(client, prober)| (client, scope.spawn(move || work(client, prober)));
            // All begin before the first is waited for.
            let begun: Vec<_> = self.probers.iter().map(|(client, prober)| begin((*client, prober))).collect();
            let end = |(client, batch): (Client, ScopedJoinHandle<'_, _>)| {
                Ok((client, batch.join().unwrap_or_else(|_| Err(anyhow!("a prober panicked")))?))
            };
            begun.into_iter().map(end).collect()
        })
    }

    /// What the subject on a node has written.
    pub fn log(&self, node: usize) -> String {
        match &self.running[node] {
            Running::KubeProxy(proxy) => proxy.log(),
            Running::Sluice(agent) => agent.log().unwrap_or_default(),
        }
    }

    /// What the agents say that they have done, for people who look into a difference; nothing for kube-proxy.
    pub fn programmed(&self, node: usize) -> String {
        match &self.running[node] {
            Running::KubeProxy(_) => String::new(),
            Running::Sluice(_) => {
                let output = cli(&self.cluster.world.nodes[node], &["services", "-o", "wide"]);
                output.map_or_else(|error| format!("{error:#}"), |o| String::from_utf8_lossy(&o.stdout).into_owned())
            }
        }
    }
}
