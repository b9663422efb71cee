//! The servers of a pod: HTTP (hyper), UDP, bulk TCP and line echo, over IPv4 and IPv6, on one thread.

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

use super::Netns;
use super::wire::{BULK_PORT, ECHO_PORT, Greeting, HTTP_PORT, UDP_PORT, is_pattern, parse_bulk_header, pattern};

/// Piece of a bulk transfer.
const CHUNK: usize = 64 * 1024;

/// The servers of one pod. Dropping it closes every socket, as the end of a process does.
#[derive(Debug)]
pub struct Server {
    _tasks: Tasks,
}

impl Server {
    /// Starts all servers inside `ns`; they answer as `name`. On return they listen.
    pub fn start(ns: &Netns, name: &str) -> Result<Self> {
        let name: Arc<str> = name.into();
        Ok(Self { _tasks: Tasks::start(ns, move || listen(&name))? })
    }
}

/// A thread in a namespace with a runtime for tasks. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Tasks {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Tasks {
    /// Runs `begin` there, which spawns the tasks, and waits for its end.
    pub(super) fn start(ns: &Netns, begin: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = ns.start(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let result = begin();
                let failed = result.is_err();
                let _ = ready.send(result);
                if !failed {
                    let _ = stopped.await;
                }
            });
            Ok(())
        })?;
        is_ready.recv_timeout(Duration::from_secs(10)).map_err(|_| anyhow!("the servers of a pod did not start"))??;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Binds all sockets, and leaves their service to tasks.
fn listen(name: &Arc<str>) -> Result<()> {
    for any in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
        let http = tcp_listener(SocketAddr::new(any, HTTP_PORT))?;
        tokio::spawn(accept(http, name.clone(), serve_http));
        let bulk = tcp_listener(SocketAddr::new(any, BULK_PORT))?;
        tokio::spawn(accept(bulk, name.clone(), async |stream, name| drop(serve_bulk(stream, name).await)));
        let echo = tcp_listener(SocketAddr::new(any, ECHO_PORT))?;
        tokio::spawn(accept(echo, name.clone(), async |stream, name| drop(serve_lines(stream, name).await)));
        let udp = bound(SocketAddr::new(any, UDP_PORT), Type::DGRAM, Protocol::UDP)?;
        tokio::spawn(serve_udp(UdpSocket::from_std(udp.into())?, name.clone()));
    }
    Ok(())
}

pub(super) fn bound(addr: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into()).with_context(|| format!("cannot listen on {addr}"))?;
    Ok(socket)
}

pub(super) fn tcp_listener(addr: SocketAddr) -> Result<TcpListener> {
    let socket = bound(addr, Type::STREAM, Protocol::TCP)?;
    socket.listen(1024)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn accept<F>(listener: TcpListener, name: Arc<str>, serve: impl Fn(TcpStream, Arc<str>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, name.clone()));
            }
            // Such as too many open files: try again, but do not spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve_http(stream: TcpStream, name: Arc<str>) {
    let (Ok(client), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |_: Request<Incoming>| {
        let greeting = Greeting { pod: name.to_string(), address: local.ip(), client, intact: true };
        let mut response = Response::new(Full::new(Bytes::from(greeting.line())));
        let json = hyper::header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // A client that went away is the client's matter.
    let _ = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer).await;
}

async fn serve_bulk(mut stream: TcpStream, name: Arc<str>) -> Result<()> {
    let (client, address) = (stream.peer_addr()?, stream.local_addr()?.ip());
    let mut header = [0; 16];
    stream.read_exact(&mut header).await?;
    let (up, down) = parse_bulk_header(header);

    let (mut got, mut intact, mut buffer) = (0, true, vec![0; CHUNK]);
    while got < up {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        intact &= is_pattern(got, &buffer[..n]);
        got += n as u64;
    }
    let greeting = Greeting { pod: name.to_string(), address, client, intact: intact && got == up };
    stream.write_all(greeting.line().as_bytes()).await?;
    let mut sent = 0;
    while sent < down {
        let n = CHUNK.min(usize::try_from(down - sent).unwrap_or(CHUNK));
        stream.write_all(&pattern(sent, n)).await?;
        sent += n as u64;
    }
    stream.shutdown().await?;
    Ok(())
}

async fn serve_lines(stream: TcpStream, name: Arc<str>) -> Result<()> {
    let (client, address) = (stream.peer_addr()?, stream.local_addr()?.ip());
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let greeting = Greeting { pod: name.to_string(), address, client, intact: line == "hello" };
        write.write_all(greeting.line().as_bytes()).await?;
    }
    Ok(())
}

/// An answer is as long as the question, or as long as the greeting where that is longer.
async fn serve_udp(socket: UdpSocket, name: Arc<str>) {
    let mut buffer = vec![0; 65_536];
    let Ok(address) = socket.local_addr().map(|local| local.ip()) else { return };
    loop {
        let Ok((n, client)) = socket.recv_from(&mut buffer).await else { continue };
        let intact = is_pattern(0, &buffer[..n]);
        let mut answer = Greeting { pod: name.to_string(), address, client, intact }.line().into_bytes();
        answer.extend(pattern(0, n.saturating_sub(answer.len())));
        let _ = socket.send_to(&answer, client).await;
    }
}
