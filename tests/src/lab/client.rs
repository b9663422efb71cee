//! The lab's clients: what to ask of whom and how often ([`Load`]), and what came of it ([`Report`]).
//!
//! One exchange is one new connection or one new socket, since that is what a Service balances.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::wire::{Greeting, bulk_header, is_pattern, pattern};

/// What one exchange consists of.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Exchange {
    /// A GET over a new connection.
    Http,
    /// So many bytes there and so many back over a new connection.
    Bulk {
        /// Bytes from the client.
        up: u64,
        /// Bytes to the client.
        down: u64,
    },
    /// One datagram and its answer.
    Udp {
        /// Bytes of payload.
        size: usize,
        /// Whether the socket is connected first; else sendto and recvfrom.
        connected: bool,
    },
    /// So many datagrams, handed to the kernel as one buffer (UDP_SEGMENT, as QUIC servers do), and all answers.
    UdpBurst {
        /// Bytes of payload of each.
        size: u16,
        /// How many.
        segments: u16,
    },
    /// A line and its answer, every 20 ms over one connection, for so long.
    Lines {
        /// Milliseconds.
        for_ms: u64,
    },
    /// A line and its answer, silence for so long, and once more over the same connection.
    Silence {
        /// Milliseconds.
        for_ms: u64,
    },
}

/// Exchanges, one after another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// What to do.
    pub exchange: Exchange,
    /// With whom.
    pub to: SocketAddr,
    /// How many, unless stopped before.
    pub count: usize,
    /// Milliseconds between two.
    pub gap_ms: u64,
    /// Milliseconds after which one has failed.
    pub timeout_ms: u64,
    /// The client's port, for the first exchange; the next ones take the ports after it. Else the kernel chooses.
    pub from_port: Option<u16>,
    /// All UDP exchanges from one socket, and so one flow; else each from one of its own.
    pub one_socket: bool,
}

/// Between two lines of [`Exchange::Lines`].
const LINES: Duration = Duration::from_millis(20);

/// After so many failures in a row a load ends: what is broken would else take minutes to say so.
const GIVE_UP: usize = 10;

/// What a process hears of a socket of datagrams that was closed for it: while it waits, and when it sends.
const CLOSED: [Errno; 2] = [Errno::ECONNABORTED, Errno::EDESTADDRREQ];

impl Load {
    /// So many exchanges, as fast as it goes.
    pub fn new(exchange: Exchange, to: SocketAddr, count: usize) -> Self {
        Self { exchange, to, count, gap_ms: 0, timeout_ms: 2000, from_port: None, one_socket: false }
    }

    /// Exchanges at an even pace until it is stopped.
    pub fn steady(exchange: Exchange, to: SocketAddr, gap_ms: u64) -> Self {
        Self { gap_ms, ..Self::new(exchange, to, 1_000_000) }
    }

    /// From this client port on.
    pub fn from_port(self, port: u16) -> Self {
        Self { from_port: Some(port), ..self }
    }

    /// Does it in the namespace of the calling thread; `each` sees every answer, and ends the load with `false`.
    pub fn run(&self, mut each: impl FnMut(&Answer) -> bool) -> Report {
        let start = Instant::now();
        let (mut answers, mut kept, mut failed_in_row) = (Vec::new(), None, 0);
        for n in 0..self.count {
            let began = Instant::now();
            let port = self.from_port.map_or(0, |first| first.wrapping_add(n as u16));
            let result = self
                .one(port, &mut kept)
                .inspect_err(|error| {
                    // Who is told that his socket was closed for him opens another.
                    if CLOSED.iter().any(|closed| error.raw_os_error() == Some(*closed as i32)) {
                        kept = None;
                    }
                })
                .map_err(|error| (reason(&error), error.kind() == ErrorKind::ConnectionRefused));
            let (result, refused) = match result {
                Ok(seen) => (Ok(seen), false),
                Err((reason, refused)) => (Err(reason), refused),
            };
            let at_ms = began.duration_since(start).as_millis() as u64;
            let answer = Answer { at_ms, took_us: began.elapsed().as_micros() as u64, result, refused };
            let go_on = each(&answer);
            failed_in_row = if answer.result.is_ok() { 0 } else { failed_in_row + 1 };
            answers.push(answer);
            if !go_on || failed_in_row == GIVE_UP {
                break;
            }
            std::thread::sleep(Duration::from_millis(self.gap_ms).saturating_sub(began.elapsed()));
        }
        Report { answers }
    }

    fn one(&self, port: u16, kept: &mut Option<UdpSocket>) -> io::Result<Seen> {
        let timeout = Duration::from_millis(self.timeout_ms);
        match self.exchange {
            Exchange::Http => self.http(port, timeout),
            Exchange::Bulk { up, down } => self.bulk(port, timeout, up, down),
            Exchange::Udp { size, connected } => self.udp(port, timeout, size, connected, kept),
            Exchange::UdpBurst { size, segments } => self.udp_burst(port, timeout, size, segments),
            Exchange::Lines { for_ms } => self.lines(port, timeout, Duration::from_millis(for_ms), LINES),
            Exchange::Silence { for_ms } => {
                let length = Duration::from_millis(for_ms);
                self.lines(port, timeout, length, length)
            }
        }
    }

    fn connect(&self, port: u16, timeout: Duration) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, Some(Protocol::TCP))?;
        if port != 0 {
            // The port may still be in TIME_WAIT from a test before.
            socket.set_reuse_address(true)?;
            socket.bind(&any(self.to, port).into())?;
        }
        socket.connect_timeout(&self.to.into(), timeout)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    }

    fn http(&self, port: u16, timeout: Duration) -> io::Result<Seen> {
        let mut stream = self.connect(port, timeout)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        write!(stream, "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.to)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let body = text.strip_prefix("HTTP/1.1 200 OK\r\n").and_then(|rest| rest.split_once("\r\n\r\n"));
        let (_, body) = body.ok_or_else(|| bad(format!("no HTTP answer: {text:?}")))?;
        Ok(Seen { server: greeting(body)?, peer, local })
    }

    fn bulk(&self, port: u16, timeout: Duration, up: u64, down: u64) -> io::Result<Seen> {
        let mut stream = self.connect(port, timeout)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        stream.write_all(&bulk_header(up, down))?;
        let mut sent = 0;
        while sent < up {
            let n = (up - sent).min(256 * 1024) as usize;
            stream.write_all(&pattern(sent, n))?;
            sent += n as u64;
        }
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let server = greeting(&line)?;
        let mut back = Vec::new();
        reader.read_to_end(&mut back)?;
        if back.len() as u64 != down || !is_pattern(0, &back) {
            return Err(bad(format!("{} of {down} bytes came back, or not the ones sent", back.len())));
        }
        let _ = stream.shutdown(Shutdown::Both);
        Ok(Seen { server, peer, local })
    }

    fn udp(
        &self,
        port: u16,
        timeout: Duration,
        size: usize,
        connected: bool,
        kept: &mut Option<UdpSocket>,
    ) -> io::Result<Seen> {
        let socket = match kept.take() {
            Some(socket) => socket,
            None => {
                let socket = bound(any(self.to, port))?;
                socket.set_read_timeout(Some(timeout))?;
                if connected {
                    socket.connect(self.to)?;
                }
                socket
            }
        };
        // Kept also where this exchange fails.
        let socket = if self.one_socket { &*kept.insert(socket) } else { &socket };
        let mut buffer = vec![0; 65_536];
        let (n, peer) = if connected {
            socket.send(&pattern(0, size))?;
            (socket.recv(&mut buffer)?, socket.peer_addr()?)
        } else {
            socket.send_to(&pattern(0, size), self.to)?;
            socket.recv_from(&mut buffer)?
        };
        Ok(Seen { server: datagram(&buffer[..n], size)?, peer, local: socket.local_addr()? })
    }

    fn udp_burst(&self, port: u16, timeout: Duration, size: u16, segments: u16) -> io::Result<Seen> {
        let socket = bound(any(self.to, port))?;
        socket.set_read_timeout(Some(timeout))?;
        socket.connect(self.to)?;
        setsockopt(&socket, UdpGsoSegment, &i32::from(size))?;
        let size = usize::from(size);
        socket.send(&pattern(0, size).repeat(segments.into()))?;
        let (mut buffer, mut first) = (vec![0; 65_536], None);
        for got in 0..segments {
            let answer = socket.recv(&mut buffer);
            let n = answer.map_err(|e| io::Error::new(e.kind(), format!("{} after {got} answers", reason(&e))))?;
            let now = datagram(&buffer[..n], size)?;
            let server = first.get_or_insert_with(|| now.clone());
            if *server != now {
                return Err(bad(format!("two servers answered one flow: {server:?}, {now:?}")));
            }
        }
        let server = first.ok_or_else(|| bad("a burst of nothing".to_owned()))?;
        Ok(Seen { server, peer: socket.peer_addr()?, local: socket.local_addr()? })
    }

    fn lines(&self, port: u16, timeout: Duration, length: Duration, gap: Duration) -> io::Result<Seen> {
        let stream = self.connect(port, timeout)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        let mut reader = BufReader::new(&stream);
        let (end, mut first) = (Instant::now() + length, None);
        loop {
            (&stream).write_all(b"hello\n")?;
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let now = greeting(&line)?;
            let server = first.get_or_insert_with(|| now.clone());
            if *server != now {
                return Err(bad(format!("the server changed during a connection: {server:?}, {now:?}")));
            }
            if Instant::now() >= end {
                return Ok(Seen { server: now, peer, local });
            }
            std::thread::sleep(gap);
        }
    }
}

/// How long a port may still be held by the copy of a closed socket in a process that another test has just forked.
const HELD: Duration = Duration::from_millis(500);

/// A socket of datagrams at an address.
fn bound(at: SocketAddr) -> io::Result<UdpSocket> {
    let began = Instant::now();
    loop {
        match UdpSocket::bind(at) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < HELD => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn any(to: SocketAddr, port: u16) -> SocketAddr {
    let ip = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(ip, port)
}

fn bad(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

fn greeting(line: &str) -> io::Result<Greeting> {
    let greeting: Greeting = serde_json::from_str(line).map_err(|e| bad(format!("{e}: {line:?}")))?;
    if greeting.intact { Ok(greeting) } else { Err(bad("the server got other bytes than were sent".to_owned())) }
}

/// What the server says in a datagram that answers one of `size` bytes.
fn datagram(answer: &[u8], size: usize) -> io::Result<Greeting> {
    let line = answer.split_inclusive(|&b| b == b'\n').next().unwrap_or_default();
    let server = greeting(&String::from_utf8_lossy(line))?;
    let n = answer.len();
    if n != size.max(line.len()) || !is_pattern(0, answer.get(line.len()..).unwrap_or_default()) {
        return Err(bad(format!("an answer of {n} bytes to {size}, or not the right ones")));
    }
    Ok(server)
}

/// "timed out" has two spellings in errno; people need one.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// What both ends saw in one exchange.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// What the server said.
    pub server: Greeting,
    /// With whom the client thinks it spoke: getpeername, or recvfrom.
    pub peer: SocketAddr,
    /// The client's own address (the unspecified one on a UDP socket that is not connected).
    pub local: SocketAddr,
}

/// One exchange.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// When it began, after the load's begin.
    pub at_ms: u64,
    /// How long it took.
    pub took_us: u64,
    /// What was seen, or why it failed.
    pub result: Result<Seen, String>,
    /// It failed because the peer refused (ECONNREFUSED).
    pub refused: bool,
}

/// All exchanges of a load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// In order.
    pub answers: Vec<Answer>,
}

impl Report {
    /// What was seen in the exchanges that succeeded.
    pub fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.answers.iter().filter_map(|answer| answer.result.as_ref().ok())
    }

    /// Time and reason of each failure, for people.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.answers.iter().filter_map(|a| Some((a.at_ms, a.took_us, a.result.as_ref().err()?)));
        failed.map(|(at, took, why)| format!("at {at} ms, after {took} µs: {why}")).collect()
    }

    /// Answers by pod.
    pub fn by_pod(&self) -> BTreeMap<String, usize> {
        let mut pods = BTreeMap::new();
        for seen in self.seen() {
            *pods.entry(seen.server.pod.clone()).or_default() += 1;
        }
        pods
    }

    /// Answers by the address of the pod (TCP only).
    pub fn by_address(&self) -> BTreeMap<IpAddr, usize> {
        let mut addresses = BTreeMap::new();
        for seen in self.seen() {
            *addresses.entry(seen.server.address).or_default() += 1;
        }
        addresses
    }

    /// Pearson's chi-square of the answers against an even spread over `pods`.
    pub fn unevenness(&self, pods: usize) -> f64 {
        let counts = self.by_pod();
        let even = self.seen().count() as f64 / pods as f64;
        let missing = pods.saturating_sub(counts.len()) as f64 * even;
        missing + counts.values().map(|&n| (n as f64 - even).powi(2) / even).sum::<f64>()
    }
}
