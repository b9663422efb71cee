//! SCTP in user space, on raw sockets, for kernels that have none: as much of RFC 9260 as questions and answers take. An
//! association is a sound one to netfilter, too: checksums, tags, and the order of its chunks.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use anyhow::Result;
use etherparse::IpNumber;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::packets::sctp::{CHECKSUM, chunk, is_sound, tagged};

/// Longer than any packet here.
const LONGEST: usize = 2048;
/// The parameter of an INIT ACK that is its cookie (RFC 9260, 3.3.3): type, length, and four bytes.
const COOKIE: [u8; 8] = *b"\0\x07\0\x08sour";
/// Of an INIT: Initiate Tag, window, numbers of streams, first TSN.
const INIT: usize = 16;
/// Of DATA: TSN, stream, number in it, protocol.
const DATA: usize = 12;

/// A raw socket at an address.
fn raw(ip: IpAddr) -> io::Result<Socket> {
    let at = SocketAddr::new(ip, 0);
    let protocol = Protocol::from(i32::from(IpNumber::SCTP.0));
    let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// The same, with the calls of one for datagrams.
fn open(ip: IpAddr) -> io::Result<UdpSocket> {
    UdpSocket::from_std(raw(ip)?.into())
}

/// What makes the kernel take SCTP for a protocol that this namespace has: it says nothing to packets for which no one waits,
/// rather than that the protocol is unknown.
#[derive(Debug)]
pub(super) struct Presence {
    _sockets: [Socket; 2],
}

impl Presence {
    /// In the namespace of the calling thread.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { _sockets: [raw(Ipv4Addr::UNSPECIFIED.into())?, raw(Ipv6Addr::UNSPECIFIED.into())?] })
    }
}

/// A packet of one chunk, or the first of several.
struct Packet<'a> {
    /// Source and destination.
    ports: [u16; 2],
    tag: u32,
    chunk: u8,
    value: &'a [u8],
    is_sound: bool,
}

impl<'a> Packet<'a> {
    /// What a raw socket received; of IPv4 that is the IP header as well.
    fn read(bytes: &'a [u8], is_v4: bool) -> Option<Self> {
        let header = if is_v4 { usize::from(bytes.first()? & 15) * 4 } else { 0 };
        let bytes = bytes.get(header..)?;
        let (&[a, b, c, d], rest) = bytes.split_first_chunk()?;
        let (tag, _) = rest.split_first_chunk()?;
        let (&[chunk, _, high, low], value) = bytes.get(CHECKSUM + 4..)?.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes([high, low])).checked_sub(4)?;
        Some(Self {
            ports: [[a, b], [c, d]].map(u16::from_be_bytes),
            tag: u32::from_be_bytes(*tag),
            chunk,
            value: value.get(..len)?,
            is_sound: is_sound(bytes),
        })
    }
}

/// What INIT and INIT ACK begin with.
fn init(tag: u32) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &[0, 1, 0, 0], &[0, 1, 0, 1], &[0, 0, 0, 1]].concat()
}

/// The value of DATA that says so, with blanks in place of padding.
fn message(text: &str) -> Vec<u8> {
    let blanks = " ".repeat(text.len().wrapping_neg() % 4);
    [&[0, 0, 0, 1][..], &[0; 8], text.as_bytes(), blanks.as_bytes()].concat()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// An association with whoever answers at an address. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Association {
    to: SocketAddr,
    port: u16,
    /// Both sides have the same tag, so that who answers need not keep it.
    tag: u32,
    /// Whether the other side knows of it.
    has_begun: bool,
    socket: UdpSocket,
    /// Nobody else has a port of UDP of this number while we have it.
    _held: std::net::UdpSocket,
}

impl Association {
    /// Begins one, from a port or, where that is 0, from one that the kernel chooses.
    ///
    /// # Errors
    /// It is refused, or what comes makes no sense.
    pub(super) async fn begin(from: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let held = std::net::UdpSocket::bind(from)?;
        let port = held.local_addr()?.port();
        let socket = open(from.ip())?;
        // Refusals of others come as well, since a raw socket has no port: with what they quote they can be told apart.
        if to.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        socket.connect(SocketAddr::new(to.ip(), 0)).await?;
        let mut association = Self { to, port, tag: u32::from(port), has_begun: false, socket, _held: held };
        // A firewall's refusal may come as an error here, and is said in full by what is received.
        let _ = association.socket.send(&association.packet(0, chunk::INIT, &init(association.tag))).await;
        let answer = association.receive(chunk::INIT_ACK).await?;
        association.has_begun = true;
        let cookie = answer.get(INIT + 4..).ok_or_else(|| wrong("no cookie"))?;
        association.send(chunk::COOKIE_ECHO, cookie).await?;
        association.receive(chunk::COOKIE_ACK).await?;
        Ok(association)
    }

    /// Asks, and takes what is said.
    ///
    /// # Errors
    /// The association ends, or what comes makes no sense.
    pub(super) async fn ask(&mut self) -> io::Result<Vec<u8>> {
        // What came late is no answer to this question.
        while self.socket.try_recv(&mut [0; LONGEST]).is_ok() {}
        self.send(chunk::DATA, &message("?")).await?;
        let answer = self.receive(chunk::DATA).await?;
        answer.get(DATA..).map(<[u8]>::to_vec).ok_or_else(|| wrong("no data"))
    }

    fn packet(&self, tag: u32, chunk: u8, value: &[u8]) -> Vec<u8> {
        tagged(self.port, self.to.port(), tag, chunk, value)
    }

    async fn send(&self, chunk: u8, value: &[u8]) -> io::Result<usize> {
        self.socket.send(&self.packet(self.tag, chunk, value)).await
    }

    /// The value of the next chunk of this type.
    async fn receive(&self, chunk: u8) -> io::Result<Vec<u8>> {
        let (to, port) = (self.to, self.port);
        let mut buffer = [0; LONGEST];
        loop {
            let n = match self.socket.recv(&mut buffer).await {
                Ok(n) => n,
                Err(error) if error.kind() != ErrorKind::ConnectionRefused => return Err(error),
                Err(error) if is_about(&self.socket, [port, to.port()]) => return Err(error),
                Err(_) => continue,
            };
            let got = Packet::read(&buffer[..n], to.is_ipv4()).filter(|got| got.ports == [to.port(), port]);
            match got {
                Some(got) if !got.is_sound || got.tag != self.tag => return Err(wrong("a checksum or a tag")),
                Some(got) if got.chunk == chunk::ABORT => return Err(ErrorKind::ConnectionReset.into()),
                Some(got) if got.chunk == chunk => return Ok(got.value.to_vec()),
                _ => {}
            }
        }
    }
}

impl Drop for Association {
    fn drop(&mut self) {
        // One that was refused is of no association, and invalid to netfilter.
        if self.has_begun {
            let _ = self.socket.try_send(&self.packet(self.tag, chunk::ABORT, &[]));
        }
    }
}

/// Whether one of the errors that wait at a socket quotes a packet of these ports.
fn is_about(socket: &UdpSocket, ports: [u16; 2]) -> bool {
    let mut quote = [0; LONGEST];
    let wanted = ports.map(u16::to_be_bytes).concat();
    while let Ok(n) = recv(socket.as_raw_fd(), &mut quote, MsgFlags::MSG_ERRQUEUE) {
        if quote[..n].starts_with(&wanted) {
            return true;
        }
    }
    false
}

/// Answers at some ports of an address, with what is to be said to a client. Nothing is kept of it.
///
/// # Errors
/// There is no such address here.
pub(super) fn answer(
    ip: IpAddr,
    ports: Vec<u16>,
    say: impl Fn(SocketAddr, SocketAddr) -> io::Result<String> + Send + 'static,
) -> Result<()> {
    let socket = open(ip)?;
    tokio::spawn(async move {
        let mut buffer = [0; LONGEST];
        loop {
            // An error may be of an answer before.
            let Ok((n, from)) = socket.recv_from(&mut buffer).await else { continue };
            let Some(got) = Packet::read(&buffer[..n], ip.is_ipv4()) else { continue };
            let [sport, dport] = got.ports;
            if !got.is_sound || !ports.contains(&dport) {
                continue;
            }
            let (tag, chunk, value) = match got.chunk {
                chunk::INIT if got.tag == 0 => {
                    let tag = number(got.value).unwrap_or_default();
                    (tag, chunk::INIT_ACK, [init(tag), COOKIE.to_vec()].concat())
                }
                chunk::COOKIE_ECHO => (got.tag, chunk::COOKIE_ACK, Vec::new()),
                chunk::DATA => {
                    let Ok(text) = say(SocketAddr::new(ip, dport), SocketAddr::new(from.ip(), sport)) else { continue };
                    (got.tag, chunk::DATA, message(&text))
                }
                _ => continue,
            };
            let _ = socket.send_to(&tagged(dport, sport, tag, chunk, &value), from).await;
        }
    });
    Ok(())
}
