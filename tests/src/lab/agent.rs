//! The real agent, and the command line, run as a user runs them: as processes in the node's namespace.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::place::beside;
use super::{Lab, Node};

/// Which sockets the cgroup hooks translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketPath {
    /// Those of all processes.
    All,
    /// Those of processes on the host itself.
    Host,
    /// None.
    Off,
}

/// How XDP is attached at the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xdp {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
    /// Not at all: TC alone.
    Off,
}

/// How programs are attached at TC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tc {
    /// By links.
    Tcx,
    /// By filters.
    Clsact,
}

/// Where the agent learns what is declared.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The API of a control plane.
    Kubernetes {
        /// Who asks, and the address of the API server.
        kubeconfig: PathBuf,
        /// `--api-server`, in place of that address: the next where one cannot be reached.
        api_servers: Vec<String>,
    },
}

impl Source {
    /// As it is typed.
    fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Manifests(folder) => vec!["--manifests".into(), folder.into()],
            Self::Kubernetes { kubeconfig, api_servers } => {
                let servers = api_servers.iter().flat_map(|url| ["--api-server".into(), url.into()]);
                ["--kubeconfig".into(), kubeconfig.into()].into_iter().chain(servers).collect()
            }
        }
    }
}

/// What the agent is told.
#[derive(Clone, Copy, Debug)]
pub struct AgentOptions {
    /// `--socket-path`.
    pub socket_path: SocketPath,
    /// `--xdp`.
    pub xdp: Xdp,
    /// `--tc`.
    pub tc: Tc,
    /// `--log-level`.
    pub log_level: &'static str,
    /// `--packet-log debug`.
    pub packet_log: bool,
    /// `--nodeport-addresses`, where it is not the default.
    pub nodeport_addresses: Option<&'static str>,
    /// Whether it has a service device; else `--service-device off`.
    pub service_device: bool,
    /// `--max-flows`, where it is not the default.
    pub max_flows: Option<u32>,
    /// `--max-services`, where it is not the default.
    pub max_services: Option<u32>,
    /// `--max-backends`, where it is not the default.
    pub max_backends: Option<u32>,
    /// `--max-slots`, where it is not the default.
    pub max_slots: Option<u32>,
    /// `--service-metrics`.
    pub service_metrics: bool,
}

impl AgentOptions {
    /// What most tests want, as a constant for tables.
    pub const USUAL: Self = Self {
        socket_path: SocketPath::Host,
        xdp: Xdp::Native,
        tc: Tc::Tcx,
        log_level: "info",
        packet_log: false,
        nodeport_addresses: None,
        service_device: true,
        max_flows: None,
        max_services: None,
        max_backends: None,
        max_slots: None,
        service_metrics: false,
    };
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self::USUAL
    }
}

/// A running agent. Dropping it kills the process, and leaves what it pinned.
#[derive(Debug)]
pub struct Agent<'a> {
    node: &'a Node,
    program: PathBuf,
    source: Source,
    options: AgentOptions,
    child: Child,
    log: File,
}

/// How long an agent may take until it is ready; far longer than it should on a busy machine.
const READY: Duration = Duration::from_secs(30);

impl<'a> Agent<'a> {
    /// Starts the agent on the lab's manifests, and waits until it is ready.
    pub fn start(lab: &'a Lab, options: AgentOptions) -> Result<Self> {
        Self::start_on(lab, Source::Manifests(lab.manifests.dir().to_owned()), options)
    }

    /// Starts the agent of a node on a source, and waits until it is ready.
    pub fn start_on(node: impl Into<&'a Node>, source: Source, options: AgentOptions) -> Result<Self> {
        let (node, program) = (node.into(), program()?);
        let (child, log) = launch(node, &program, &source, options)?;
        let mut agent = Self { node, program, source, options, child, log };
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts another process of the same agent, after [`Agent::kill`] or [`Agent::stop`], and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// As [`Agent::restart`], but with other options from now on.
    pub fn restart_with(&mut self, options: AgentOptions) -> Result<()> {
        self.launch_with(options)?;
        self.wait_ready()
    }

    /// As [`Agent::restart`], but does not wait: for an agent that has no reason to become ready.
    pub fn launch(&mut self) -> Result<()> {
        (self.child, self.log) = launch(self.node, &self.program, &self.source, self.options)?;
        Ok(())
    }

    /// As [`Agent::launch`], but with other options from now on.
    pub fn launch_with(&mut self, options: AgentOptions) -> Result<()> {
        self.options = options;
        self.launch()
    }

    /// The node that it is for.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// The binary.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill the agent")?;
        self.child.wait().context("cannot wait for the agent")?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).context("cannot signal the agent")?;
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().context("cannot wait for the agent")? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the agent did not end within 10 s of SIGTERM; its log:\n{}", self.log()?)
    }

    /// What this process of the agent has written to standard error and output.
    pub fn log(&self) -> Result<String> {
        let mut file = self.log.try_clone().context("cannot read the agent's log")?;
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut text))
            .context("cannot read the agent's log")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs `sluice <args> --pin-root …` on the node.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        cli(self.node, args)
    }

    /// Runs the command line with `-o json` and parses what it prints.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.cli(&[args, &["-o", "json"]].concat())?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("`sluice {}` ended with {}: {stderr}", args.join(" "), output.status);
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("`sluice {}` printed no JSON", args.join(" ")))
    }

    /// What `sluice status` says of a map: what is in it, counted as people count it, and the room that it has.
    pub fn fill(&self, map: &str) -> Result<(u64, u64)> {
        let status = self.json(&["status"])?;
        let row = status["maps"].as_array().into_iter().flatten().find(|row| row["map"] == map);
        let row = row.with_context(|| format!("no map {map} in {status}"))?;
        let number = |field: &str| row[field].as_u64().with_context(|| format!("no {field} of {map}: {row}"));
        Ok((number("entries")?, number("capacity")?))
    }

    /// Waits until `done`, which is asked every few milliseconds, holds; else fails with `what` and the log.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<Duration> {
        let start = Instant::now();
        while start.elapsed() < READY {
            if done(self)? {
                return Ok(start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("waited {} s in vain until {what}; the agent's log:\n{}", READY.as_secs(), self.log()?)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < READY {
            if let Some(status) = self.child.try_wait().context("cannot wait for the agent")? {
                bail!("the agent ended with {status}; its log:\n{}", self.log()?);
            }
            if self.says_ready()? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the agent was not ready after {} s; its log:\n{}", READY.as_secs(), self.log()?)
    }

    /// By its log, or by its status; of this process, since an agent before it may have left one.
    fn says_ready(&self) -> Result<bool> {
        if self.log()?.lines().any(|line| line.contains("ready") && !line.contains("not ready")) {
            return Ok(true);
        }
        let Ok(status) = self.json(&["status"]) else { return Ok(false) };
        let agent = status.get("agent").unwrap_or(&status);
        let own = agent.get("pid").and_then(Value::as_u64) == Some(self.child.id().into());
        Ok(own && agent.get("ready").and_then(Value::as_bool) == Some(true))
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log().unwrap_or_default());
        }
    }
}

/// The binary `sluice`: `SLUICE_BIN`, or beside the running executable.
pub fn program() -> Result<PathBuf> {
    beside("SLUICE_BIN", "sluice", "cargo xtask build")
}

/// Runs `sluice <args> --pin-root …` on a node. It is killed if it does not end.
pub fn cli<'a>(node: impl Into<&'a Node>, args: &[&str]) -> Result<Output> {
    let mut child = start_cli(node, args)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (done, is_done) = std::sync::mpsc::channel();
    let watchdog = std::thread::spawn(move || {
        let late = is_done.recv_timeout(READY).is_err();
        // The process is waited for only after this thread has ended, so the number is still its own.
        late && kill(pid, Signal::SIGKILL).is_ok()
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = std::thread::scope(|scope| {
        let errors = scope.spawn(|| stderr.map(|mut pipe| pipe.read_to_end(&mut err)));
        let read = stdout.map(|mut pipe| pipe.read_to_end(&mut out));
        [read, errors.join().unwrap_or_default()].into_iter().flatten().find_map(Result::err)
    });
    let _ = done.send(());
    let killed = watchdog.join().unwrap_or(false);
    let status = child.wait().context("cannot wait for `sluice`")?;
    if let Some(error) = read {
        return Err(error).context("cannot read what `sluice` prints");
    }
    if killed {
        bail!("`sluice {}` did not end within {} s", args.join(" "), READY.as_secs());
    }
    Ok(Output { status, stdout: out, stderr: err })
}

/// Starts `sluice <args> --pin-root …` on a node, its output on pipes. It ends with the lab at the latest.
pub fn start_cli<'a>(node: impl Into<&'a Node>, args: &[&str]) -> Result<Child> {
    let (node, mut command) = (node.into(), Command::new(program()?));
    command.args(args).arg("--pin-root").arg(node.pins()).arg("--run-dir").arg(node.run_dir());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = node.spawn(&mut command)?;
    // What has ended already needs no cgroup.
    let _ = fs::write(node.cgroup().join("cgroup.procs"), child.id().to_string());
    Ok(child)
}

fn launch(node: &Node, program: &Path, source: &Source, options: AgentOptions) -> Result<(Child, File)> {
    let path = node.dir().join("agent.log");
    // A file of its own for each process, so that the one before cannot speak for it.
    let _ = fs::remove_file(&path);
    let log = File::options().create_new(true).append(true).read(true).open(&path).context("cannot make a log")?;
    let mut command = Command::new(program);
    command.arg("agent");
    command.arg("--run-dir").arg(node.run_dir()).arg("--pin-root").arg(node.pins());
    command.args(source.arguments()).arg("--cgroup").arg(node.cgroup());
    command.args(["--node-name", node.name(), "--pod-device", "pod-*"]);
    command.args(node.nics().iter().flat_map(|nic| ["--nic", nic])).args(arguments(options));
    command.stdin(Stdio::null());
    command.stdout(log.try_clone().context("cannot share the log")?);
    command.stderr(log.try_clone().context("cannot share the log")?);
    let child = node.spawn(&mut command)?;
    // In the lab's cgroup, so that it ends with the lab also when the test was killed.
    fs::write(node.cgroup().join("cgroup.procs"), child.id().to_string()).context("cannot move the agent")?;
    Ok((child, log))
}

/// Options as they are typed.
fn arguments(options: AgentOptions) -> Vec<String> {
    let socket_path = match options.socket_path {
        SocketPath::All => "all",
        SocketPath::Host => "host",
        SocketPath::Off => "off",
    };
    let xdp = match options.xdp {
        Xdp::Native => "native",
        Xdp::Generic => "generic",
        Xdp::Off => "off",
    };
    let tc = match options.tc {
        Tc::Tcx => "tcx",
        Tc::Clsact => "clsact",
    };
    let packet_log = if options.packet_log { "debug" } else { "off" };
    let mut arguments = Vec::new();
    for (name, value) in [
        ("--socket-path", Some(socket_path.to_owned())),
        ("--xdp", Some(xdp.to_owned())),
        ("--tc", Some(tc.to_owned())),
        ("--log-level", Some(options.log_level.to_owned())),
        ("--packet-log", Some(packet_log.to_owned())),
        ("--nodeport-addresses", options.nodeport_addresses.map(ToOwned::to_owned)),
        ("--service-device", (!options.service_device).then(|| "off".to_owned())),
        ("--max-flows", options.max_flows.map(|n| n.to_string())),
        ("--max-services", options.max_services.map(|n| n.to_string())),
        ("--max-backends", options.max_backends.map(|n| n.to_string())),
        ("--max-slots", options.max_slots.map(|n| n.to_string())),
    ] {
        arguments.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
    }
    arguments.extend(options.service_metrics.then(|| "--service-metrics".to_owned()));
    arguments
}
