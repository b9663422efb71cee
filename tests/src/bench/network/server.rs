//! What the measured clients talk to: plain sockets, a thread each, in the server's pod.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::gettid;
use socket2::{Domain, Protocol, Socket, Type};

use crate::bench::client::MESSAGE;
use crate::bench::cpu::pin;
use crate::lab::Netns;

/// Where questions are answered as long as they come.
pub(super) const ASK: u16 = 7001;
/// The same, for many short connections.
pub(super) const CONNECT: u16 = 7002;
/// Where bytes are taken.
pub(super) const FILL: u16 = 7003;

/// How often a server looks whether it shall end.
const LOOK: Duration = Duration::from_millis(200);
/// A client that is silent for so long has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is done with a connection.
type Serve = fn(TcpStream) -> std::io::Result<()>;

/// Three servers. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    /// Numbers of the threads.
    pub(super) ids: Vec<i32>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Server {
    pub(super) fn start(ns: &Netns) -> Result<Self> {
        let mut server = Self { ids: Vec::new(), stop: Arc::default(), threads: Vec::new() };
        let each: [(u16, Serve); 3] = [(ASK, answer), (CONNECT, answer), (FILL, take)];
        for (port, serve) in each {
            let listener = ns.run(|| listen(port).with_context(|| format!("cannot listen on port {port}")))?;
            let (stop, (id, ids)) = (server.stop.clone(), channel());
            server.threads.push(ns.start(move || {
                pin()?;
                id.send(gettid().as_raw())?;
                accept(&listener, &stop, serve)
            })?);
            server.ids.push(ids.recv().context("a server did not start")?);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listen(port: u16) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    // So that accepting ends now and then.
    socket.set_read_timeout(Some(LOOK))?;
    socket.listen(128)?;
    Ok(socket)
}

/// One connection after the other: there is one client.
fn accept(listener: &Socket, stop: &AtomicBool, serve: Serve) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((socket, _)) => {
                let stream = TcpStream::from(socket);
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                // A client that went away is the client's matter.
                let _ = serve(stream);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("cannot accept a connection"),
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

fn take(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}
