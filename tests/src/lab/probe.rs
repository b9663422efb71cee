//! Many short questions at once: is this answered, by whom, and as whom did the client come there?
//!
//! A [`Responder`] says at which of its addresses it was reached, and by whom. A [`Prober`] asks, all questions at the
//! same time, and gives up after a moment: most tables of rules have rows where nobody answers.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::place::client_program;
use super::server::{Tasks, bound, tcp_listener};
use super::{Netns, Place};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both, for tables of tests.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As Kubernetes writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Who is asked.
    pub to: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// So many times, one after the other, each from a socket of its own. It ends early when nobody answers.
    pub tries: u16,
    /// Milliseconds after which nobody answers.
    pub patience_ms: u64,
}

/// What came of one try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Someone answered.
    Answered {
        /// At which of its addresses.
        by: SocketAddr,
        /// The client's address as it was seen there.
        client: IpAddr,
    },
    /// The client was told that nobody listens (ECONNREFUSED).
    Refused,
    /// Nothing came back.
    Silent,
    /// Something else, by the name of the error.
    Failed(String),
}

/// Outcomes and how many of each; by their text, so that they have an order.
pub type Outcomes = BTreeMap<Outcome, u32>;

impl Ord for Outcome {
    fn cmp(&self, other: &Self) -> Ordering {
        self.to_string().cmp(&other.to_string())
    }
}

impl PartialOrd for Outcome {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { by, client } => write!(f, "{by} answered {client}"),
            Self::Refused => f.write_str("refused"),
            Self::Silent => f.write_str("silence"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// What a responder says.
#[derive(Serialize, Deserialize)]
struct Said {
    by: SocketAddr,
    client: SocketAddr,
}

/// Questions under way at the same time, of one prober.
const IN_FLIGHT: usize = 128;
/// Longer than anything a responder says.
const LINE: usize = 512;

/// Asks all at once, in the namespace of the calling thread.
fn ask(probes: &[Probe]) -> Result<Vec<Outcomes>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(stream::iter(probes).map(one).buffered(IN_FLIGHT).collect()))
}

async fn one(probe: &Probe) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for _ in 0..probe.tries {
        let attempt = async {
            match probe.protocol {
                Protocol::Tcp => tcp(probe.to).await,
                Protocol::Udp => udp(probe.to).await,
            }
        };
        let outcome = match timeout(Duration::from_millis(probe.patience_ms), attempt).await {
            Err(_) => Outcome::Silent,
            Ok(Ok(said)) => Outcome::Answered { by: said.by, client: said.client.ip() },
            Ok(Err(error)) => match error.kind() {
                ErrorKind::ConnectionRefused => Outcome::Refused,
                kind => Outcome::Failed(kind.to_string()),
            },
        };
        let silent = outcome == Outcome::Silent;
        *outcomes.entry(outcome).or_default() += 1;
        if silent {
            break;
        }
    }
    outcomes
}

async fn tcp(to: SocketAddr) -> io::Result<Said> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let mut stream = socket.connect(to).await?;
    let mut line = String::new();
    tokio::io::BufReader::new(&mut stream).read_line(&mut line).await?;
    // Closed at once and for good: thousands of these would else wait for the end of their time in every namespace.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    Ok(serde_json::from_str(&line)?)
}

async fn udp(to: SocketAddr) -> io::Result<Said> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // Connected, so that it hears of a refusal, and of no answer from elsewhere.
    socket.connect(to).await?;
    // A firewall's refusal may come as an error here, and is said in full by what is received.
    let _ = socket.send(b"?").await;
    let mut line = [0; LINE];
    let n = socket.recv(&mut line).await?;
    Ok(serde_json::from_slice(line.get(..n).unwrap_or_default())?)
}

/// Listens at addresses of one namespace. Dropping it closes every socket.
#[derive(Debug)]
pub struct Responder {
    _tasks: Tasks,
}

impl Responder {
    /// Listens at all these addresses and ports, for both protocols.
    pub fn start(ns: &Netns, ips: &[IpAddr], ports: &[u16]) -> Result<Self> {
        let at: Vec<_> = ips.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))).collect();
        let tasks = Tasks::start(ns, move || {
            for at in at {
                let listener = tcp_listener(at)?;
                tokio::spawn(async move {
                    while let Ok((stream, client)) = listener.accept().await {
                        tokio::spawn(tell(stream, at, client));
                    }
                });
                let socket = bound(at, socket2::Type::DGRAM, socket2::Protocol::UDP)?;
                tokio::spawn(tell_all(UdpSocket::from_std(socket.into())?, at));
            }
            Ok(())
        })?;
        Ok(Self { _tasks: tasks })
    }
}

async fn tell(mut stream: TcpStream, by: SocketAddr, client: SocketAddr) -> io::Result<()> {
    stream.write_all(line(by, client)?.as_bytes()).await?;
    // The client closes first.
    stream.read(&mut [0]).await.map(drop)
}

async fn tell_all(socket: UdpSocket, by: SocketAddr) -> io::Result<()> {
    let mut buffer = [0; LINE];
    loop {
        // An error may be of an answer before.
        let Ok((_, client)) = socket.recv_from(&mut buffer).await else { continue };
        let _ = socket.send_to(line(by, client)?.as_bytes(), client).await;
    }
}

fn line(by: SocketAddr, client: SocketAddr) -> io::Result<String> {
    Ok(serde_json::to_string(&Said { by, client })? + "\n")
}

/// Asks from one place, as often as one likes.
#[derive(Debug)]
pub struct Prober<'a> {
    ns: &'a Netns,
    process: Option<Mutex<Process>>,
}

/// One in a cgroup, which holds processes only. It ends with its standard input.
#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl<'a> Prober<'a> {
    /// At a place.
    pub fn new(place: Place<'a>) -> Result<Self> {
        let Some(cgroup) = place.cgroup else { return Ok(Self { ns: place.ns, process: None }) };
        let mut command = Command::new(client_program()?);
        command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = place.ns.spawn(&mut command)?;
        let joined = fs::write(cgroup.join("cgroup.procs"), child.id().to_string());
        joined.with_context(|| format!("cannot move a prober into the cgroup {}", cgroup.display()))?;
        let input = child.stdin.take().context("a prober without standard input")?;
        let output = BufReader::new(child.stdout.take().context("a prober without standard output")?);
        Ok(Self { ns: place.ns, process: Some(Mutex::new(Process { child, input, output })) })
    }

    /// Asks all at once.
    pub fn ask(&self, probes: &[Probe]) -> Result<Vec<Outcomes>> {
        let Some(process) = &self.process else { return self.ns.run(|| ask(probes)) };
        let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
        let questions = serde_json::to_string(probes)? + "\n";
        process.input.write_all(questions.as_bytes()).context("a prober takes no questions")?;
        let mut line = String::new();
        process.output.read_line(&mut line).context("a prober says nothing")?;
        // Keys of JSON are texts, so outcomes come as pairs.
        let answers: Vec<Vec<(Outcome, u32)>> = serde_json::from_str(&line).context("a prober says nonsense")?;
        ensure!(answers.len() == probes.len(), "{} answers to {} questions", answers.len(), probes.len());
        Ok(answers.into_iter().map(|pairs| pairs.into_iter().collect()).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The argument by which the program `sluice-lab-client` becomes a prober.
pub const SERVE: &str = "probes";

/// What a prober's process does: reads questions, a line each time, and answers them, until there are no more.
pub fn serve() -> Result<()> {
    for line in io::stdin().lock().lines() {
        let probes: Vec<Probe> = serde_json::from_str(&line.context("cannot read questions")?)?;
        let answers: Vec<Vec<_>> = ask(&probes)?.into_iter().map(|outcomes| outcomes.into_iter().collect()).collect();
        println!("{}", serde_json::to_string(&answers)?);
    }
    Ok(())
}
