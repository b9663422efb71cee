//! Small HTTP servers, each at an address of its own: whoever wants one keeps a [`Server`], and ends it by dropping it.
//! Knows nothing of what it serves.
//!
//! They listen where strangers may reach them, so that connections are few and short; and a port that is taken, as by an
//! agent that is about to end, is tried again and never an error of the agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// Connections at one time. Another has to wait.
const CONNECTIONS: usize = 32;
/// Longest that a connection may take. Each serves one request.
const LONGEST: Duration = Duration::from_secs(10);
/// First wait before a port is tried again.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// A server, until it is dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    task: JoinHandle<()>,
    problem: watch::Receiver<Option<String>>,
}

impl Server {
    /// Serves `router` at `address`, as soon as this can be had; `name` is what people call it.
    pub fn start(name: impl Into<String>, address: SocketAddr, router: Router) -> Self {
        let (name, (say, problem)) = (name.into(), watch::channel(None));
        let called = name.clone();
        let task = tokio::spawn(async move {
            let listener = listen(&called, address, &say).await;
            accept(&listener, router, LONGEST).await;
        });
        Self { name, task, problem }
    }

    /// Why it does not serve yet, if something is in the way.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(name: &str, address: SocketAddr, say: &watch::Sender<Option<String>>) -> TcpListener {
    let mut wait = FIRST_RETRY;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                say.send_replace(None);
                info!("{name}: listening at {}", listener.local_addr().unwrap_or(address));
                return listener;
            }
            Err(error) => {
                let problem = format!("cannot listen at {address}: {error}; trying again");
                if say.borrow().as_ref() != Some(&problem) {
                    warn!("{name}: {problem}");
                    say.send_replace(Some(problem));
                }
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_RETRY);
    }
}

async fn accept(listener: &TcpListener, router: Router, longest: Duration) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    let _ = timeout(longest, answer(stream, router)).await;
                    drop(place);
                });
            }
            Err(error) => {
                // As when no file descriptor is free: to try at once would only take a core.
                debug!("cannot accept a connection: {error}");
                sleep(FIRST_RETRY).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).keep_alive(false);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await {
        debug!("a connection broke: {error}");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn router() -> Router {
        Router::new().route("/", get(|| async { "well" }))
    }

    async fn ask(address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !done().await {
            assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_said_and_served_once_it_is_free() {
        let taken = TcpListener::bind(LOCAL).await.unwrap();
        let address = taken.local_addr().unwrap();
        let server = Server::start("test", address, router());
        until("it says why", async || server.problem().is_some()).await;
        let problem = server.problem().unwrap();
        assert!(problem.contains(&address.to_string()) && problem.contains("in use"), "{problem}");
        drop(taken);
        until("it serves", async || ask(address).await.is_ok_and(|answer| answer.ends_with("well"))).await;
        assert_eq!(server.problem(), None);
        drop(server);
        until("the port is free", async || TcpListener::bind(address).await.is_ok()).await;
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_others_out_for_ever() {
        const SHORT: Duration = Duration::from_millis(500);
        let listener = TcpListener::bind(LOCAL).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { accept(&listener, router(), SHORT).await });
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let start = Instant::now();
        assert!(ask(address).await.unwrap().ends_with("well"));
        assert!(start.elapsed() > SHORT / 2, "there were places left");
        server.abort();
    }
}
