//! Many short questions at once: is this answered, by whom, and as whom did the client come there?
//!
//! A [`Responder`] says at which of its addresses it was reached, and by whom. A [`Prober`](super::Prober) asks, all
//! questions at the same time, and gives up after a moment: most tables of rules have rows where nobody answers.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::server::{Tasks, bound, tcp_listener};
use super::{Netns, sctp};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, in user space.
    Sctp,
}

impl Protocol {
    /// All, for tables of tests.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As Kubernetes writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
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
pub(super) struct Said {
    pub(super) by: SocketAddr,
    pub(super) client: SocketAddr,
}

/// Longer than anything a responder says.
pub(super) const LINE: usize = 512;

/// Listens at addresses of one namespace. Dropping it closes every socket.
#[derive(Debug)]
pub struct Responder {
    _tasks: Tasks,
}

impl Responder {
    /// Listens at all these addresses and ports, for all protocols.
    pub fn start(ns: &Netns, ips: &[IpAddr], ports: &[u16]) -> Result<Self> {
        let at: Vec<_> = ips.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))).collect();
        let (ips, ports) = (ips.to_vec(), ports.to_vec());
        let tasks = Tasks::start(ns, move || {
            for ip in ips {
                sctp::answer(ip, ports.clone(), line)?;
            }
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
    let line = line(by, client)?;
    loop {
        stream.write_all(line.as_bytes()).await?;
        // Until it is asked again. The client closes first.
        if stream.read(&mut [0]).await? == 0 {
            return Ok(());
        }
    }
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
