//! The command line as it is typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_common::tables::map;

use crate::agent::RunDir;
use crate::bpf::Pins;
use crate::compile::Addresses;
use crate::model::Cidr;

/// Sluice, a Service load balancer for Kubernetes: the agent of a node, and what it has put into the kernel.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Keep this node's kernel in step with what is declared.
    Agent(Box<AgentArgs>),
    /// List Services: their frontends, one a line.
    Services(ListArgs),
    /// List backends.
    Backends(ListArgs),
    /// List flows.
    Flows(FlowArgs),
    /// List what each Service port has carried on this node.
    Traffic(ListArgs),
    /// List devices, and how programs are attached to them.
    Devices(DeviceArgs),
    /// Show the agent, the maps and the counters.
    Status(DeviceArgs),
    /// Detach all programs and remove all maps.
    Uninstall(UninstallArgs),
    /// Mount a bpffs, which pins need, where the system has not.
    MountBpffs {
        /// Where.
        #[arg(default_value = "/sys/fs/bpf")]
        folder: PathBuf,
    },
}

/// Where to look.
#[derive(Clone, Debug, Args)]
pub(super) struct PlaceArgs {
    /// Folder on a bpffs where maps, links and programs are pinned.
    #[arg(long, value_name = "FOLDER", default_value = PIN_ROOT, env = "SLUICE_PIN_ROOT")]
    pub(super) pin_root: PathBuf,
    /// Folder where the agent says how it is [default: /run/sluice; with another --pin-root, a folder of its own in it]
    #[arg(long, value_name = "FOLDER", env = "SLUICE_RUN_DIR")]
    run_dir: Option<PathBuf>,
}

const PIN_ROOT: &str = "/sys/fs/bpf/sluice";
const RUN_DIR: &str = "/run/sluice";

impl PlaceArgs {
    pub(super) fn pins(&self) -> Pins {
        Pins::new(&self.pin_root)
    }

    /// The folder that belongs to the pins, so that several nodes on one machine need only one option.
    pub(super) fn run_dir(&self) -> RunDir {
        RunDir::new(match &self.run_dir {
            Some(folder) => folder.clone(),
            None if self.pin_root == Path::new(PIN_ROOT) => PathBuf::from(RUN_DIR),
            None => {
                let parts = self.pin_root.iter().filter(|part| *part != "/").map(|part| part.to_string_lossy());
                Path::new(RUN_DIR).join(parts.collect::<Vec<_>>().join("-"))
            }
        })
    }
}

/// How to print.
#[derive(Clone, Debug, Args)]
pub(super) struct PrintArgs {
    /// The form.
    #[arg(short, long, value_name = "FORM")]
    pub(super) output: Option<OutputArg>,
    /// Print again whenever something has changed.
    #[arg(short, long)]
    pub(super) watch: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum OutputArg {
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ListArgs {
    /// Only those of this Service: [NAMESPACE/]NAME[:PORT].
    pub(super) service: Option<String>,
    #[command(flatten)]
    pub(super) print: PrintArgs,
    #[command(flatten)]
    pub(super) place: PlaceArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct FlowArgs {
    #[command(flatten)]
    pub(super) list: ListArgs,
    /// At most so many.
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct DeviceArgs {
    #[command(flatten)]
    pub(super) print: PrintArgs,
    #[command(flatten)]
    pub(super) place: PlaceArgs,
}

#[derive(Clone, Debug, Args)]
pub(super) struct UninstallArgs {
    /// First leave new connections to the next proxy, and wait until those that there are have ended, at most so long (`30s`, `10m`).
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) drain: Option<Duration>,
    #[command(flatten)]
    pub(super) place: PlaceArgs,
}

/// A time with its unit, as in Go: `90s`, `1h30m`; 0 needs none.
fn time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let time = text.parse::<jiff::SignedDuration>().ok().and_then(|time| time.try_into().ok());
    time.ok_or_else(|| format!("`{text}` is not a time such as 30s, 10m or 1h30m"))
}

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// Folder of manifests (YAML or JSON), in place of a cluster: Services, EndpointSlices, Pods.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["kubeconfig", "api_server"])]
    pub(super) manifests: Option<PathBuf>,
    /// How to get to the cluster's API [env: KUBECONFIG] [default: the service account of this pod]
    // Not clap's env: what a shell happens to have is no contradiction to --manifests.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Address of an API server, in place of the one that is configured; the next serves where one cannot. Repeatable. [env: SLUICE_API_SERVER, with commas between]
    #[arg(long, value_name = "URL")]
    pub(super) api_server: Vec<String>,
    #[command(flatten)]
    pub(super) place: PlaceArgs,
    /// The name of this node [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(super) node_name: Option<String>,
    /// At which addresses of this node NodePorts are: `primary` (of each family the one that its Node object names), `localhost` (for processes of the host), `all`, ranges of addresses, with commas between.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "primary",
        env = "SLUICE_NODEPORT_ADDRESSES"
    )]
    pub(super) nodeport_addresses: Vec<Addresses>,
    /// Whether spec.externalIPs is heeded, which Kubernetes 1.36 deprecated: who may write a Service can take any address.
    #[arg(long, value_name = "WHETHER", default_value = "on")]
    pub(super) external_ips: SwitchArg,
    /// Whose sockets are led straight to a backend when they connect to a Service.
    #[arg(long, value_name = "WHOSE", default_value = "all")]
    pub(super) socket_path: SocketPathArg,
    /// The cgroup2 folder of these sockets [default: where cgroup2 is mounted]
    #[arg(long, value_name = "FOLDER")]
    pub(super) cgroup: Option<PathBuf>,
    /// These devices lead outside, beside those with a default route. Repeatable.
    #[arg(long, value_name = "GLOB")]
    pub(super) nic: Vec<String>,
    /// These devices lead to pods, beside veths whose other end is in another network namespace. Repeatable.
    #[arg(long, value_name = "GLOB")]
    pub(super) pod_device: Vec<String>,
    /// A device that the agent makes for packets to Services that nothing else shows it: of sockets in the kernel, and of processes whose sockets are not led. `off` for none.
    #[arg(long, value_name = "NAME", default_value = "sluice0")]
    pub(super) service_device: String,
    /// A range of ClusterIPs whose packets lead there, beside those that the cluster tells (ServiceCIDRs, from Kubernetes 1.33 on). Repeatable.
    #[arg(long, value_name = "CIDR")]
    pub(super) service_cidr: Vec<Cidr>,
    /// How packets from outside are caught; what a device cannot do falls back to the next.
    #[arg(long, value_name = "HOW", default_value = "native")]
    pub(super) xdp: XdpArg,
    /// How packets of pods are caught.
    #[arg(long, value_name = "HOW", default_value = "tcx")]
    pub(super) tc: TcArg,
    /// How long connections that another proxy began before Sluice came to this node go on through that (`90s`, `1h`); 0 for not at all.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    pub(super) takeover: Duration,
    /// Room for frontends of each address family.
    #[arg(long, value_name = "N", default_value_t = map::FRONTENDS_CAPACITY, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub(super) max_services: u32,
    /// Most backends of each address family. They take memory when they are used.
    #[arg(long, value_name = "N", default_value_t = map::BACKENDS_CAPACITY, value_parser = clap::value_parser!(u32).range(2..=1 << 24))]
    pub(super) max_backends: u32,
    /// Most Maglev slots: about 100 for each backend of each set of backends. They take memory when they are used.
    #[arg(long, value_name = "N", default_value_t = map::SLOTS_CAPACITY, value_parser = clap::value_parser!(u32).range(2..=1 << 30))]
    pub(super) max_slots: u32,
    /// Room for source ranges (loadBalancerSourceRanges) of each address family, counted for each port.
    #[arg(long, value_name = "N", default_value_t = map::SOURCE_RANGES_CAPACITY, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub(super) max_source_ranges: u32,
    /// Most flows of each address family. They take memory when they are there.
    #[arg(long, value_name = "N", default_value_t = map::FLOWS_CAPACITY, value_parser = clap::value_parser!(u32).range(1..=1 << 25))]
    pub(super) max_flows: u32,
    /// Where load balancers and kubelets ask for health, as they ask kube-proxy: /healthz, /livez. `off` for nowhere.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:10256")]
    pub(super) healthz_bind_address: String,
    /// Where Prometheus asks for /metrics. `off` for nowhere.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10249")]
    pub(super) metrics_bind_address: String,
    /// Tell Prometheus of each Service port, too, what it carries: five rows a port.
    #[arg(long)]
    pub(super) service_metrics: bool,
    /// What the agent logs: error, warn, info, debug, trace, or directives as RUST_LOG has them.
    #[arg(long, alias = "log-level", value_name = "LEVEL", default_value = "info")]
    pub(super) log: String,
    /// Whether the programs in the kernel log packets. It costs time for each packet.
    #[arg(long, value_name = "LEVEL", default_value = "off")]
    pub(super) packet_log: PacketLogArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SwitchArg {
    /// Yes.
    On,
    /// No.
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SocketPathArg {
    /// Those of pods and of the host.
    All,
    /// Those in the host's network namespace.
    Host,
    /// Nobody's.
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum XdpArg {
    /// In the driver, else in the stack, else at TC.
    Native,
    /// In the stack, else at TC.
    Generic,
    /// At TC.
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum TcArg {
    /// With links, else with filters.
    Tcx,
    /// With filters.
    Clsact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PacketLogArg {
    /// No.
    Off,
    /// Each that is of a Service.
    Debug,
}
