//! Servers that cannot answer, answer nonsense, or know less than ours: what a real one will not do when it is asked to.
//! Against real ones it is tested with the lab.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::*;
use crate::state::State;
use crate::watch::Message;

/// Longer than any of this takes, shorter than a person waits.
const SOON: Duration = Duration::from_secs(20);

type Answer = Box<dyn Fn(&str) -> (u16, String) + Send>;

/// A server that says what it is told to. A watch that it grants stays open, and hears more.
struct Server {
    url: String,
    answer: Arc<Mutex<Answer>>,
    /// Lines for the watches of paths that begin so.
    more: broadcast::Sender<(&'static str, String)>,
    task: JoinHandle<()>,
}

impl Server {
    async fn new(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Self {
        Self::at("127.0.0.1:0", answer).await
    }

    async fn at(address: &str, answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(answer)));
        let (more, _) = broadcast::channel(16);
        let (script, lines) = (answer.clone(), more.clone());
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                open.spawn(serve(connection, script.clone(), lines.subscribe()));
            }
        });
        Self { url, answer, more, task }
    }

    fn answers(&self, answer: impl Fn(&str) -> (u16, String) + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    fn says(&self, path: &'static str, line: String) {
        self.more.send((path, line)).unwrap();
    }

    /// As if its process were killed: the kernel closes all.
    async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn serve(
    mut connection: TcpStream,
    answer: Arc<Mutex<Answer>>,
    mut more: broadcast::Receiver<(&'static str, String)>,
) {
    let mut request = vec![];
    while !request.ends_with(b"\r\n\r\n") {
        match connection.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap();
    let (status, body) = (answer.lock().unwrap())(path);
    let head = format!("HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n");
    let _ = connection.write_all((head + &body).as_bytes()).await;
    let granted = path.contains("watch=true") && status == 200 && body.ends_with("}\n");
    while granted && let Ok((prefix, line)) = more.recv().await {
        if path.starts_with(prefix) {
            let _ = connection.write_all(line.as_bytes()).await;
        }
    }
}

fn service(name: &str, version: u32, ip: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"ns","resourceVersion":"{version}"}},"spec":{{"clusterIP":"{ip}","ports":[{{"port":80}}]}}}}"#
    )
}

/// The end of a streaming list.
fn bookmark(version: u32) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"kind":"X","apiVersion":"v1","metadata":{{"resourceVersion":"{version}","annotations":{{"k8s.io/initial-events-end":"true"}}}}}}}}"#
    ) + "\n"
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#) + "\n"
}

/// A cluster with this one Service.
fn one(ip: &'static str) -> impl Fn(&str) -> (u16, String) + Send {
    move |path| {
        let listed = match path.starts_with("/api/v1/services") {
            true => event("ADDED", &service("a", 5, ip)),
            false => String::new(),
        };
        (200, listed + &bookmark(9))
    }
}

fn status(code: u16) -> (u16, String) {
    (code, format!(r#"{{"kind":"Status","status":"Failure","message":"no","reason":"Some","code":{code}}}"#))
}

struct World {
    feed: Feed,
    state: State,
    problems: BTreeSet<String>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(servers: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("config");
        std::fs::write(
            &kubeconfig,
            "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n\
             contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n",
        )
        .unwrap();
        let servers = servers.iter().map(ToString::to_string).collect();
        let servers = Servers::new(&Access { kubeconfig: Some(kubeconfig), servers }).await.unwrap();
        Self { feed: watch(&servers), state: State::default(), problems: BTreeSet::new(), _folder: folder }
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let wait = async {
            while !done(self) {
                match self.feed.messages.recv().await.expect("it goes on").message {
                    Message::Events(events) => events.into_iter().for_each(|event| self.state.apply(event)),
                    Message::Problems(all) => self.problems = all.iter().map(ToString::to_string).collect(),
                }
            }
        };
        let in_time = timeout(SOON, wait).await.is_ok();
        assert!(in_time, "{what}: {:?}, {:?}, {:?}", self.ips(), self.problems, self.feed.health.borrow());
    }

    fn ips(&self) -> Vec<String> {
        self.state.services().flat_map(|service| &service.cluster_ips).map(ToString::to_string).collect()
    }

    fn says(&self, words: &str) -> bool {
        self.problems.iter().any(|problem| problem.contains(words))
    }
}

#[tokio::test]
async fn nonsense_takes_nothing_away_and_is_over_when_sense_comes() {
    let server = Server::new(one("10.0.0.1")).await;
    let mut world = World::new(&[&server.url]).await;
    world.until("the first list", |world| world.state.ready()).await;
    assert_eq!(world.ips(), ["10.0.0.1"]);
    let address = server.url.trim_start_matches("http://").to_owned();
    server.die().await;
    world.until("nobody listens", |world| world.says("cannot be reached")).await;
    assert!(world.feed.health.borrow().fault.is_some());

    let server = Server::at(&address, |_| (500, "<html>".to_owned())).await;
    world.until("500", |world| world.says("500 Internal Server Error")).await;
    server.answers(|_| (200, "<html>\n<body>all is well</body>\n</html>\n".to_owned()));
    world.until("HTML", |world| world.says("makes no sense")).await;
    server.answers(|_| status(401));
    world.until("unauthorised", |world| world.says("401 no")).await;
    assert_eq!(world.ips(), ["10.0.0.1"], "what was known stays");
    assert!(world.state.ready());

    server.answers(one("10.0.0.2"));
    world.until("sense", |world| world.ips() == ["10.0.0.2"] && world.problems.is_empty()).await;
    let health = world.feed.health.borrow();
    assert_eq!((health.fault.as_ref(), health.recoveries), (None, 1));
}

#[tokio::test]
async fn the_next_server_serves_where_one_cannot() {
    let (first, second) = (Server::new(one("10.0.0.1")).await, Server::new(one("10.0.0.2")).await);
    second.answers(|path| match path {
        // A watch goes on where it was: no list.
        path if path.contains("resourceVersion=9") && path.contains("/services") => {
            (200, event("MODIFIED", &service("a", 10, "10.0.0.3")))
        }
        path if path.contains("resourceVersion=9") => (200, bookmark(10)),
        _ => status(403),
    });
    let mut world = World::new(&["http://127.0.0.1:1", &first.url, &second.url]).await;
    world.until("the first list", |world| world.state.ready()).await;
    assert_eq!(
        (world.ips(), world.feed.health.borrow().source.clone()),
        (vec!["10.0.0.1".to_owned()], first.url.clone())
    );
    first.die().await;
    world.until("the second server's news", |world| world.ips() == ["10.0.0.3"]).await;
    assert!(!world.says("403"), "{:?}", world.problems);
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_asked_for_pages_and_one_without_service_cidrs_is_well() {
    let server = Server::new(|path| match path {
        path if path.contains("servicecidrs") => status(404),
        path if path.contains("sendInitialEvents=true") => status(422),
        path if path.contains("watch=true") => (200, bookmark(9)),
        path if path.contains("continue=next") => {
            (200, format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{}]}}"#, service("b", 6, "10.0.0.2")))
        }
        path if path.contains("/services") => {
            let one = service("a", 5, "10.0.0.1");
            (200, format!(r#"{{"metadata":{{"resourceVersion":"9","continue":"next"}},"items":[{one}]}}"#))
        }
        _ => (200, r#"{"metadata":{"resourceVersion":"9"},"items":[]}"#.to_owned()),
    })
    .await;
    let mut world = World::new(&[&server.url]).await;
    world.until("the first list", |world| world.state.ready()).await;
    assert_eq!(world.ips(), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(world.problems, BTreeSet::new());
}

#[tokio::test]
async fn an_object_that_makes_no_sense_is_refused_alone_and_stays_as_it_was() {
    let bad = |version| service("a", version, "10.0.0.300");
    let server = Server::new(one("10.0.0.1")).await;
    let mut world = World::new(&[&server.url]).await;
    world.until("the first list", |world| world.state.ready()).await;
    server.says("/api/v1/services", event("MODIFIED", &bad(10)) + &event("ADDED", &service("b", 11, "10.0.0.2")));
    world.until("the refusal", |world| world.says("Service ns/a: spec.clusterIP: ") && world.ips().len() == 2).await;
    assert_eq!(world.ips(), ["10.0.0.1", "10.0.0.2"]);

    // The watch is too old: a new list, which has it still, and shows who vanished meanwhile.
    server.answers(move |path| match path.starts_with("/api/v1/services") {
        true => (200, event("ADDED", &bad(10)) + &bookmark(12)),
        false => (200, bookmark(12)),
    });
    server.says("/api/v1/services", event("ERROR", &status(410).1));
    world.until("the next list", |world| world.ips() == ["10.0.0.1"]).await;
    assert!(world.says("Service ns/a: spec.clusterIP: ") && world.problems.len() == 1, "{:?}", world.problems);

    server.says("/api/v1/services", event("DELETED", &bad(13)));
    world.until("its end", |world| world.ips().is_empty() && world.problems.is_empty()).await;
}
