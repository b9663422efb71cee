//! Pages, asked for as a probe asks for them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Netns;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The HTTP status.
    pub code: u16,
    /// Names, in small letters, and values of the headers.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: String,
}

impl Page {
    /// Asks for `path` from inside a namespace.
    pub fn get(ns: &Netns, at: SocketAddr, path: &str) -> Result<Self> {
        let answer = ns.run(|| exchange(at, path)).with_context(|| format!("cannot get {path} from {at}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
        let mut lines = head.lines();
        let code = lines.next().and_then(|line| line.split(' ').nth(1)).context("an answer without a status")?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Ok(Self { code: code.parse()?, headers, body: body.to_owned() })
    }

    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The content as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }
}

fn exchange(at: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // Of HTTP/1.0, so that no answer comes in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
