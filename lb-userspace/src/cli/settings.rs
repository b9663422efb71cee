//! From what was typed to what is meant: the second stage, where whatever can be wrong is found before anything starts.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lb_common::tables::socket_path;

use super::args::{AgentArgs, PacketLogArg, SocketPathArg, SwitchArg, TcArg, XdpArg};
use crate::agent::{Settings, Source};
use crate::bpf::{Capacities, TcMode, XdpMode, cgroup2_mount};
use crate::compile::NodePortAddresses;
use crate::devices::{Globs, ServiceLink};
use crate::watch::kubernetes::Access;

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the options mean on this machine.
///
/// # Errors
/// An option names something that is not there.
pub(super) fn settings(args: &AgentArgs, env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Settings> {
    let source = source(args, env)?;
    let node = match &args.node_name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    if node.trim().is_empty() {
        bail!("the node has no name: give it one with --node-name");
    }
    let socket_path = match args.socket_path {
        SocketPathArg::All => socket_path::ALL,
        SocketPathArg::Host => socket_path::HOST,
        SocketPathArg::Off => socket_path::OFF,
    };
    let cgroup = match (&args.cgroup, socket_path) {
        (_, socket_path::OFF) => None,
        (Some(path), _) => Some(cgroup2(path).context("--cgroup")?),
        (None, _) => Some(mounted_cgroup2()?),
    };
    Ok(Settings {
        source,
        pins: args.place.pins(),
        run_dir: args.place.run_dir(),
        node,
        socket_path,
        cgroup,
        node_ports: NodePortAddresses::new(args.nodeport_addresses.clone()),
        external_ips: args.external_ips == SwitchArg::On,
        globs: Globs { nics: args.nic.clone(), pods: args.pod_device.clone(), service: service_link(args)? },
        service_cidrs: args.service_cidr.iter().copied().collect(),
        xdp: match args.xdp {
            XdpArg::Native => XdpMode::Native,
            XdpArg::Generic => XdpMode::Generic,
            XdpArg::Off => XdpMode::Off,
        },
        tc: match args.tc {
            TcArg::Tcx => TcMode::Tcx,
            TcArg::Clsact => TcMode::Clsact,
        },
        takeover: args.takeover,
        capacities: Capacities {
            services: args.max_services,
            backends: args.max_backends,
            slots: args.max_slots,
            source_ranges: args.max_source_ranges,
            flows: args.max_flows,
            ..Capacities::default()
        },
        packet_log: args.packet_log == PacketLogArg::Debug,
        healthz: bind_address(&args.healthz_bind_address, HEALTHZ_PORT).context("--healthz-bind-address")?,
        metrics: bind_address(&args.metrics_bind_address, METRICS_PORT).context("--metrics-bind-address")?,
        service_metrics: args.service_metrics,
    })
}

/// What the environment says counts where no option contradicts it.
fn source(args: &AgentArgs, env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Source> {
    if let Some(manifests) = &args.manifests {
        return Ok(Source::Manifests(folder(manifests).context("--manifests")?));
    }
    let env = |name: &str| env(name).filter(|text| !text.trim().is_empty());
    let kubeconfig = args.kubeconfig.clone().or_else(|| env("KUBECONFIG").map(PathBuf::from));
    let servers = match args.api_server.is_empty() {
        false => args.api_server.clone(),
        true => {
            let listed = env("SLUICE_API_SERVER").unwrap_or_default();
            listed.split(',').map(str::trim).filter(|url| !url.is_empty()).map(ToOwned::to_owned).collect()
        }
    };
    if kubeconfig.is_none() && env("KUBERNETES_SERVICE_HOST").is_none() && !Path::new(SERVICE_ACCOUNT).exists() {
        bail!("where to learn what is declared? Use --kubeconfig FILE, or --manifests FOLDER, or run in a pod");
    }
    Ok(Source::Kubernetes(Access { kubeconfig, servers }))
}

/// The longest name of a device (`IFNAMSIZ` of linux/if.h, without the zero at its end).
const DEVICE_NAME: usize = 15;

/// The service device, by a name that the kernel takes.
fn service_link(args: &AgentArgs) -> anyhow::Result<Option<ServiceLink>> {
    let name = &args.service_device;
    if name == "off" {
        return Ok(None);
    }
    let strange = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if name.is_empty() || name == "." || name == ".." || name.len() > DEVICE_NAME || name.contains(strange) {
        bail!("--service-device: `{name}` cannot be the name of a device");
    }
    Ok(Some(ServiceLink::new(name, &args.place.pin_root)))
}

/// kube-proxy's ports.
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// As kube-proxy takes it: an address, with or without a port. Nothing, and `off`, are nowhere.
fn bind_address(text: &str, port: u16) -> anyhow::Result<Option<SocketAddr>> {
    if text.is_empty() || text == "off" {
        return Ok(None);
    }
    let address = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, port)));
    Ok(Some(address.with_context(|| format!("`{text}` is not an IP address and a port, such as 0.0.0.0:{port}"))?))
}

fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    let found = fs::metadata(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
    if !found.is_dir() {
        bail!("{} is not a folder", path.display());
    }
    Ok(path.to_owned())
}

fn cgroup2(path: &Path) -> anyhow::Result<PathBuf> {
    let folder = folder(path)?;
    // Each cgroup of the second version has this file, none of the first.
    if !folder.join("cgroup.procs").exists() || folder.join("tasks").exists() {
        bail!("{} is not a cgroup2 folder", path.display());
    }
    Ok(folder)
}

fn mounted_cgroup2() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    Ok(cgroup2_mount(&mounts).ok_or(crate::bpf::Error::NoCgroup)?)
}

fn host_name() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/hostname";
    let name = fs::read_to_string(path).with_context(|| format!("cannot read {path}; use --node-name"))?;
    Ok(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn parse(args: &[&str]) -> Result<AgentArgs, String> {
        let cli = Cli::try_parse_from([&["sluice", "agent"], args].concat()).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Agent(args) => Ok(*args),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn what_is_typed_becomes_settings() {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().to_str().unwrap();
        let args = parse(&[
            "--manifests",
            manifests,
            "--node-name",
            "n1",
            "--socket-path",
            "off",
            "--nic",
            "eth*",
            "--nic",
            "bond0",
            "--xdp",
            "generic",
            "--tc",
            "clsact",
            "--service-device",
            "off",
            "--service-cidr",
            "10.96.0.0/16",
            "--service-cidr",
            "fd00:96::/112",
            "--takeover",
            "1h30m",
            "--max-flows",
            "1000",
            "--packet-log",
            "debug",
        ]);
        let settings = settings(&args.unwrap(), |_| None).unwrap();
        assert_eq!(settings.node, "n1");
        assert_eq!((settings.socket_path, settings.cgroup), (socket_path::OFF, None));
        assert_eq!(settings.globs.nics, ["eth*", "bond0"]);
        assert_eq!((settings.xdp, settings.tc), (XdpMode::Generic, TcMode::Clsact));
        assert_eq!(settings.capacities, Capacities { flows: 1000, ..Capacities::default() });
        assert!(settings.packet_log);
        assert_eq!((settings.globs.service, settings.service_cidrs.len()), (None, 2));
        assert_eq!(settings.takeover, Duration::from_secs(5400));
        for (typed, seconds) in [(&[][..], 3600), (&["--takeover", "0"], 0), (&["--takeover", "90s"], 90)] {
            let args = [&["--manifests", manifests], typed].concat();
            let settings = self::settings(&parse(&args).unwrap(), |_| None).unwrap();
            assert_eq!(settings.takeover, Duration::from_secs(seconds), "{typed:?}");
        }
    }

    #[test]
    fn options_come_before_the_environment() {
        let env = |name: &str| match name {
            "KUBECONFIG" => Some("/env".to_owned()),
            "SLUICE_API_SERVER" => Some("https://a:1, https://b:2,".to_owned()),
            _ => None,
        };
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap();
        let both = ["https://a:1", "https://b:2"].as_slice();
        for (args, expected) in [
            (vec![], Some(("/env", both))),
            (vec!["--kubeconfig", "/file"], Some(("/file", both))),
            (vec!["--api-server", "https://c"], Some(("/env", &["https://c"]))),
            (vec!["--manifests", here], None),
        ] {
            let expected = expected.map(|(kubeconfig, servers)| Access {
                kubeconfig: Some(kubeconfig.into()),
                servers: servers.iter().map(ToString::to_string).collect(),
            });
            match source(&parse(&args).unwrap(), env).unwrap() {
                Source::Kubernetes(access) => assert_eq!(Some(access), expected, "{args:?}"),
                Source::Manifests(_) => assert_eq!(None, expected, "{args:?}"),
            }
        }
    }

    #[test]
    fn servers_listen_where_they_are_told_to() {
        for (text, expected) in [
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("0.0.0.0", Some("0.0.0.0:10256")),
            ("[::]:1", Some("[::]:1")),
            ("::", Some("[::]:10256")),
            ("off", None),
            ("", None),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(bind_address(text, HEALTHZ_PORT).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn wrong_arguments_are_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for (args, expected) in [
            (vec![], "--kubeconfig FILE, or --manifests FOLDER"),
            (vec!["--manifests", here, "--api-server", "https://a"], "cannot be used with"),
            (vec!["--manifests", "/nowhere"], "cannot read the folder /nowhere"),
            (vec!["--manifests", file.to_str().unwrap()], "is not a folder"),
            (vec!["--manifests", here, "--node-name", " "], "the node has no name"),
            (vec!["--manifests", here, "--cgroup", here], "is not a cgroup2 folder"),
            (vec!["--manifests", here, "--max-flows", "0"], "0 is not in 1..="),
            (
                vec!["--manifests", here, "--healthz-bind-address", "node:80"],
                "`node:80` is not an IP address and a port",
            ),
            (vec!["--manifests", here, "--takeover", "90"], "`90` is not a time such as 30s"),
            (vec!["--manifests", here, "--takeover=-1s"], "`-1s` is not a time"),
            (vec!["--manifests", here, "--service-device", "a/b"], "`a/b` cannot be the name of a device"),
            (vec!["--manifests", here, "--service-device", "sixteen-letters0"], "cannot be the name of a device"),
            (vec!["--manifests", here, "--service-cidr", "10.96.0.1/16"], "not a range of addresses"),
            (vec!["--manifests", here, "--xdp", "fast"], "possible values: native, generic, off"),
        ] {
            let error = match parse(&args) {
                Err(error) => error,
                Ok(parsed) => format!("{:#}", settings(&parsed, |_| None).unwrap_err()),
            };
            assert!(error.contains(expected), "{args:?}: {error}");
        }
    }
}
