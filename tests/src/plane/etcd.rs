//! etcd, on the loopback of the control plane's namespace, which nobody else reaches. It never waits for a disk.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Daemon, programs};
use crate::lab::Netns;

/// Where it answers.
pub(super) const URL: &str = "http://127.0.0.1:2379";
const PORT: u16 = 2379;

pub(super) fn daemon(dir: &Path) -> Result<Daemon> {
    let data = dir.join("etcd");
    let arguments = [
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={URL}"),
        format!("--advertise-client-urls={URL}"),
        // It has no peers, but wants a place for them.
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--log-level=warn".to_owned(),
        // The data is gone with the lab, so a crash of the machine may lose it.
        "--unsafe-no-fsync=true".to_owned(),
        // 10,000 Services with their slices, and all revisions between two compactions.
        "--quota-backend-bytes=8589934592".to_owned(),
    ];
    Ok(Daemon::new("etcd", programs::program("etcd")?, arguments, dir))
}

/// Removes all revisions but the newest.
pub(super) fn compact(ns: &Netns) -> Result<()> {
    ns.run(|| {
        let status = post("/v3/maintenance/status", &json!({}))?;
        let revision = status["header"]["revision"].as_str().context("etcd says no revision")?.to_owned();
        post("/v3/kv/compaction", &json!({ "revision": revision, "physical": true })).map(drop)
    })
}

/// One request to etcd's JSON gateway, from the namespace of the calling thread.
fn post(path: &str, body: &Value) -> Result<Value> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).context("cannot connect to etcd")?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let body = body.to_string();
    // HTTP/1.0: the answer ends with the connection, and is in one piece.
    write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("etcd did not answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("etcd's answer is not HTTP")?;
    ensure!(head.contains(" 200 "), "etcd refused {path}: {answer}");
    serde_json::from_str(body).with_context(|| format!("etcd answered {path} with no JSON"))
}
