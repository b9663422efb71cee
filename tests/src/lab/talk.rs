//! A conversation: a connection, an association, or a socket of datagrams, with whoever answers at an address. It can be gone on with as
//! long as one likes.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::probe::{LINE, Said};
use super::sctp::Association;
use super::{Outcome, Protocol};

/// Datagrams and refusals that may have come late.
const LATE: usize = 64;

/// How a socket calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Call {
    /// It is connected. So it hears of refusals, and nothing from elsewhere.
    Connected,
    /// Each datagram is sent to the address; a connection is still one.
    EachTime,
}

/// One with a socket of its own.
#[derive(Debug)]
pub(super) struct Talk {
    to: SocketAddr,
    socket: Option<Socket>,
}

#[derive(Debug)]
enum Socket {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket, Call),
    Sctp(Association),
}

impl Talk {
    /// Begins one, from a port or, where that is 0, from one that the kernel chooses; and says what came of it.
    pub(super) async fn begin(
        (from, to): (u16, SocketAddr),
        protocol: Protocol,
        call: Call,
        patience: Duration,
    ) -> (Self, Outcome) {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let from = SocketAddr::new(any, from);
        let mut talk = Self { to, socket: None };
        let begin = async {
            match protocol {
                Protocol::Tcp => {
                    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                    if from.port() != 0 {
                        socket.bind(from)?;
                    }
                    let stream = BufReader::new(socket.connect(to).await?);
                    let Socket::Tcp(stream) = talk.socket.insert(Socket::Tcp(stream)) else { unreachable!() };
                    read(stream).await
                }
                Protocol::Udp => {
                    let socket = UdpSocket::bind(from).await?;
                    if call == Call::Connected {
                        socket.connect(to).await?;
                    }
                    let Socket::Udp(socket, _) = talk.socket.insert(Socket::Udp(socket, call)) else { unreachable!() };
                    datagram(socket, call, to).await
                }
                Protocol::Sctp => {
                    let association = Association::begin(from, to).await?;
                    let kept = talk.socket.insert(Socket::Sctp(association));
                    let Socket::Sctp(association) = kept else { unreachable!() };
                    said(&association.ask().await?)
                }
            }
        };
        let outcome = outcome(timeout(patience, begin).await);
        (talk, outcome)
    }

    /// Asks once more.
    pub(super) async fn go_on(&mut self, patience: Duration) -> Outcome {
        let to = self.to;
        let ask = async {
            match &mut self.socket {
                Some(Socket::Tcp(stream)) => {
                    stream.get_mut().write_all(b"?").await?;
                    read(stream).await
                }
                Some(Socket::Udp(socket, call)) => datagram(socket, *call, to).await,
                Some(Socket::Sctp(association)) => said(&association.ask().await?),
                None => Err(ErrorKind::NotConnected.into()),
            }
        };
        outcome(timeout(patience, ask).await)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        if let Some(Socket::Tcp(stream)) = &self.socket {
            // Closed at once and for good: thousands of these would else wait for the end of their time in every namespace.
            let _ = SockRef::from(stream.get_ref()).set_linger(Some(Duration::ZERO));
        }
    }
}

fn outcome(result: Result<io::Result<Said>, tokio::time::error::Elapsed>) -> Outcome {
    match result {
        Err(_) => Outcome::Silent,
        Ok(Ok(said)) => Outcome::Answered { by: said.by, client: said.client.ip() },
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Outcome::Refused,
        Ok(Err(error)) => Outcome::Failed(match error.raw_os_error() {
            Some(number) => Errno::from_raw(number).desc().to_owned(),
            None => error.to_string(),
        }),
    }
}

fn said(text: &[u8]) -> io::Result<Said> {
    Ok(serde_json::from_slice(text)?)
}

async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Said> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    if line.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(serde_json::from_str(&line)?) }
}

async fn datagram(socket: &UdpSocket, call: Call, to: SocketAddr) -> io::Result<Said> {
    let mut line = [0; LINE];
    // What came late, be it an answer or a refusal, is none to this question.
    for _ in 0..LATE {
        if matches!(socket.try_recv(&mut line), Err(error) if error.kind() == ErrorKind::WouldBlock) {
            break;
        }
    }
    let n = match call {
        Call::Connected => {
            match socket.send(b"?").await {
                // It was closed for its process: it has no peer any more.
                Err(error) if error.raw_os_error() == Some(Errno::EDESTADDRREQ as i32) => return Err(error),
                // A firewall's refusal may come as an error here, and is said in full by what is received.
                _ => socket.recv(&mut line).await?,
            }
        }
        Call::EachTime => {
            socket.send_to(b"?", to).await?;
            let (n, from) = socket.recv_from(&mut line).await?;
            if from != to {
                return Err(io::Error::other(format!("an answer from {from}")));
            }
            n
        }
    };
    said(line.get(..n).unwrap_or_default())
}
