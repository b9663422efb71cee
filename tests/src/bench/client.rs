//! What a client does that is measured. It is a process of its own (`sluice-bench-client`), since a cgroup's hooks see
//! processes, and it does one [`Task`] after the other, so that starting it is in no figure.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::cpu::pin;
use super::report::quantile;
use crate::lab::{Netns, beside};

/// Bytes of a question, and of its answer.
pub(super) const MESSAGE: usize = 64;
/// Bytes that are handed to the kernel at once.
const CHUNK: usize = 128 * 1024;
/// What takes longer is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// One thing to do. Times are in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Task {
    /// Questions over one connection, each after the answer to the one before. Microseconds: p50, p99.
    Ask { to: SocketAddr, count: usize },
    /// Connections one after the other, to each address in turn, with a question each. How many.
    Connect { to: Vec<SocketAddr>, time: u64 },
    /// One connection, filled. Bits.
    Fill { to: SocketAddr, time: u64 },
    /// A UDP socket, connected again and again. Nanoseconds.
    Associate { to: SocketAddr, count: u32 },
    /// UDP sockets, one after the other: each is opened, connected and closed. Nanoseconds.
    Open { to: SocketAddr, count: u32 },
}

impl Task {
    fn run(&self) -> Result<Vec<f64>> {
        match self {
            Self::Ask { to, count } => ask(*to, *count),
            Self::Connect { to, time } => connect(to, Duration::from_millis(*time)),
            Self::Fill { to, time } => fill(*to, Duration::from_millis(*time)),
            Self::Associate { to, count } => associate(*to, *count),
            Self::Open { to, count } => open_each(*to, *count),
        }
    }
}

fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(to: SocketAddr, count: usize) -> Result<Vec<f64>> {
    let mut stream = open(to)?;
    let mut message = [0; MESSAGE];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(vec![quantile(&times, 0.5), quantile(&times, 0.99)])
}

fn connect(to: &[SocketAddr], time: Duration) -> Result<Vec<f64>> {
    let (start, mut done) = (Instant::now(), 0_u32);
    let mut turns = to.iter().cycle();
    while start.elapsed() < time {
        let to = turns.next().context("nobody to connect to")?;
        let mut stream = open(*to)?;
        stream.write_all(&[0; MESSAGE])?;
        // The client closes first: were it the server, it would remember the client's port, and refuse it for a while where
        // it comes again under another name of the server (TIME-WAIT).
        stream.read_exact(&mut [0; MESSAGE])?;
        done += 1;
    }
    Ok(vec![f64::from(done)])
}

fn fill(to: SocketAddr, time: Duration) -> Result<Vec<f64>> {
    let mut stream = open(to)?;
    let (chunk, start, mut sent) = (vec![0; CHUNK], Instant::now(), 0_u64);
    while start.elapsed() < time {
        stream.write_all(&chunk)?;
        sent += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The server closes when it has read all.
    stream.read_to_end(&mut Vec::new())?;
    Ok(vec![sent as f64 * 8.0])
}

fn associate(to: SocketAddr, count: u32) -> Result<Vec<f64>> {
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0))?;
    let start = Instant::now();
    for _ in 0..count {
        socket.connect(to)?;
    }
    Ok(vec![start.elapsed().as_secs_f64() * 1e9 / f64::from(count)])
}

fn open_each(to: SocketAddr, count: u32) -> Result<Vec<f64>> {
    let start = Instant::now();
    for _ in 0..count {
        let domain = socket2::Domain::for_address(to);
        socket2::Socket::new(domain, socket2::Type::DGRAM, None)?.connect(&to.into())?;
    }
    Ok(vec![start.elapsed().as_secs_f64() * 1e9 / f64::from(count)])
}

/// The whole of the client process: tasks come in as lines of JSON; figures go out, or why there are none.
///
/// # Errors
/// A task is none.
pub fn serve() -> Result<()> {
    pin()?;
    for line in io::stdin().lock().lines() {
        let task: Task = serde_json::from_str(&line?).context("standard input has no task")?;
        println!("{}", serde_json::to_string(&task.run().map_err(|error| format!("{error:#}")))?);
    }
    Ok(())
}

/// A client process. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Client {
    child: Child,
    tasks: ChildStdin,
    figures: BufReader<ChildStdout>,
}

impl Client {
    /// Starts one in a namespace, and in a cgroup where one is named.
    pub(super) fn start(ns: &Netns, cgroup: Option<&Path>) -> Result<Self> {
        let program = beside("SLUICE_BENCH_CLIENT", "sluice-bench-client", "cargo build -p sluice-tests")?;
        let mut child = ns.spawn(Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        if let Some(cgroup) = cgroup {
            let joined = fs::write(cgroup.join("cgroup.procs"), child.id().to_string());
            joined.with_context(|| format!("cannot move a client into the cgroup {}", cgroup.display()))?;
        }
        let tasks = child.stdin.take().context("a client without standard input")?;
        let figures = BufReader::new(child.stdout.take().context("a client without standard output")?);
        Ok(Self { child, tasks, figures })
    }

    /// Its number.
    pub(super) fn id(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Has a task done, and waits for its figures.
    pub(super) fn run(&mut self, task: &Task) -> Result<Vec<f64>> {
        writeln!(self.tasks, "{}", serde_json::to_string(task)?).context("a client takes no more tasks")?;
        let mut line = String::new();
        self.figures.read_line(&mut line).context("cannot read from a client")?;
        let done: Result<_, String> = serde_json::from_str(&line).context("a client has ended")?;
        done.map_err(|reason| anyhow!("a client failed: {reason}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
