//! The API servers behind one door: a request goes to the one in use, and on to the next where that cannot answer. A
//! watch that moves so goes on from the version it has seen, since all servers of a cluster count alike.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use kube::client::Body;
use kube::{Client, Config};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tower::BoxError;
use tower_http::timeout::TimeoutBody;
use tracing::{debug, info};

use super::access::{Access, AccessError, client};
use super::line::Line;

/// Longest wait for the head of an answer, connection and all.
const ANSWER: Duration = Duration::from_secs(10);
/// After how long a silence of all watches the server in use is asked whether it lives.
const PULSE: Duration = Duration::from_secs(10);
/// Longest silence of an answer that goes on: a watch has a bookmark every minute.
const SILENCE: Duration = Duration::from_secs(90);
/// All API servers of a cluster.
pub struct Servers {
    all: Vec<Server>,
    in_use: AtomicUsize,
    /// When a watch last heard anything.
    heard: Mutex<Instant>,
    /// Grows when what goes through the server in use shall go on elsewhere, or anew.
    given_up: watch::Sender<u64>,
}

struct Server {
    url: String,
    client: Client,
}

impl Servers {
    /// Makes the ways to them, and goes none yet.
    ///
    /// # Errors
    /// Addresses or credentials make no sense.
    pub async fn new(access: &Access) -> Result<Arc<Self>, AccessError> {
        let configs = access.configs().await?;
        let all = configs.iter().map(Server::new).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            all,
            in_use: AtomicUsize::new(0),
            heard: Mutex::new(Instant::now()),
            given_up: watch::Sender::default(),
        }))
    }

    /// Address of the server in use.
    pub fn in_use(&self) -> &str {
        &self.all[self.at()].url
    }

    /// A client of whichever server is in use; what becomes of its requests is told to `line`.
    pub(super) fn client(self: &Arc<Self>, line: Option<Arc<Line>>) -> Client {
        Client::new(Door { servers: self.clone(), line }, "default")
    }

    /// Asks in silence whether the server in use still answers: one whose process hangs leaves its connections open, and
    /// says nothing any more.
    pub(super) async fn watch_over(self: Arc<Self>) {
        loop {
            sleep_until(self.heard() + PULSE).await;
            let asked = Instant::now();
            if self.heard() + PULSE > asked {
                continue;
            }
            let Ok(request) = Request::get("/version").body(Body::empty()) else { return };
            let answer = self.ask(request).await;
            // A server under load may find no time for this question, and still tell what is new.
            if answer.is_err() && self.heard() < asked {
                self.given_up.send_modify(|times| *times += 1);
            }
            self.hear();
        }
    }

    fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn at(&self) -> usize {
        self.in_use.load(Ordering::Relaxed) % self.all.len()
    }

    /// Moves on from a server, unless somebody did already.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.all.len();
        let moved = self.in_use.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if moved && next != at {
            self.given_up.send_modify(|times| *times += 1);
            info!("using the API server {} from now on, since {} cannot answer", self.all[next].url, self.all[at].url);
        }
    }

    /// The first answer that a server gives; else why none does.
    async fn ask(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let mut failures = Vec::new();
        for _ in 0..self.all.len() {
            let at = self.at();
            let server = &self.all[at];
            let request = Request::from_parts(head.clone(), Body::from(body.clone()));
            let failure = match timeout(ANSWER, server.client.send(request)).await {
                Ok(Ok(answer)) if !answer.status().is_server_error() => return Ok(answer),
                Ok(Ok(answer)) => format!("{} {}", server.url, answer.status()),
                Ok(Err(error)) => format!("{} cannot be reached: {}", server.url, text_of(&error)),
                Err(_) => format!("{} does not answer within {} seconds", server.url, ANSWER.as_secs()),
            };
            debug!("{failure}");
            failures.push(failure);
            self.leave(at);
        }
        Err(failures.join("; ").into())
    }
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all.iter().map(|server| &server.url)).finish()
    }
}

impl Server {
    fn new(config: &Config) -> Result<Self, AccessError> {
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client =
            client(config).map_err(|error| AccessError::Credentials { server: url.clone(), text: text_of(&error) })?;
        Ok(Self { url, client })
    }
}

/// The body of an answer.
type Answer = UnsyncBoxBody<<Body as http_body::Body>::Data, BoxError>;

/// What a [`Client`] sends its requests through.
#[derive(Clone)]
struct Door {
    servers: Arc<Servers>,
    line: Option<Arc<Line>>,
}

impl Door {
    async fn pass(self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        if let Some(line) = self.line.as_ref().filter(|_| is_watch) {
            line.before_watch().await;
        }
        let mut given_up = self.servers.given_up.subscribe();
        let answer = self.servers.ask(request).await;
        if let Some(line) = &self.line {
            match answer.as_ref().map(|answer| answer.status().is_success()).map_err(ToString::to_string) {
                Ok(true) => line.answered().await,
                // What a refusal means, the one who asked knows best.
                Ok(false) => {}
                Err(why) => line.failed(why).await,
            }
        }
        let answer = answer?.map(|body| TimeoutBody::new(SILENCE, body));
        if !is_watch {
            return Ok(answer.map(BodyExt::boxed_unsync));
        }
        // What was given up before this answer came is not what gave it.
        given_up.mark_unchanged();
        let end = async move { given_up.changed().await.is_ok() };
        // To kube, a watch that ends is one to go on with, from where it was.
        let servers = self.servers.clone();
        let until = |body: TimeoutBody<Body>| {
            body.into_data_stream().inspect_ok(move |_| servers.hear()).take_until(end).map_ok(Frame::data)
        };
        Ok(answer.map(|body| StreamBody::new(until(body)).boxed_unsync()))
    }
}

impl tower::Service<Request<Body>> for Door {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().pass(request).boxed()
    }
}

/// What an error of kube says.
pub(super) fn text_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(error) => chain(&**error),
        error => chain(error),
    }
}

/// An error and its causes, each said once.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
