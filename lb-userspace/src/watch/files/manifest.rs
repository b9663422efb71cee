//! The text of one file, to objects or to an error that says where.

use std::fmt;

use serde::de::DeserializeSeed;
use serde_path_to_error::Track;
use tracing::debug;

use crate::model::{EndpointSlice, Node, ObjectName, Service, ServiceCidr};
use crate::watch::fields::Invalid;
use crate::watch::object::{Expect, Head, Kind, Raw};
use crate::watch::pod::Pod;

/// An object of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Pod.
    Pod(Pod),
    /// A Node.
    Node(Node),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::Pod(_) => "Pod",
            Self::Node(_) => "Node",
            Self::ServiceCidr(_) => "ServiceCIDR",
        }
    }

    /// Its name.
    pub fn name(&self) -> &ObjectName {
        match self {
            Self::Service(service) => &service.name,
            Self::EndpointSlice(slice) => &slice.name,
            Self::Pod(pod) => &pod.name,
            Self::Node(node) => &node.name,
            Self::ServiceCidr(range) => &range.name,
        }
    }
}

/// The objects of a file, and what its author should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Its objects.
    pub objects: Vec<Object>,
    /// Objects that are sound but do nothing.
    pub notes: Vec<Mistake>,
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Which document of the file, from 1.
    pub document: usize,
    /// Which line of the file, from 1.
    pub line: usize,
    /// Which object: `Service default/web`.
    pub object: Option<String>,
    /// Which field: `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}, line {}: ", self.document, self.line)?;
        for part in [&self.object, &self.field].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Reads the text of a file, YAML or JSON.
///
/// # Errors
/// What is wrong with it, of every document that has something wrong.
pub fn parse(text: &str) -> Result<Manifest, Vec<Mistake>> {
    let mut manifest = Manifest::default();
    let mut mistakes = Vec::new();
    for document in documents(text) {
        if let Err(mistake) = document.parse(&mut manifest) {
            mistakes.push(mistake);
        }
    }
    match mistakes.is_empty() {
        true => Ok(manifest),
        false => Err(mistakes),
    }
}

struct Document<'a> {
    number: usize,
    /// Lines of the file before it.
    before: usize,
    text: &'a str,
}

/// Splits a file at lines that begin with `---`, as kubectl does. Documents of nothing but comments do not count.
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut before, mut offset) = (0, 0, 0);
    let blank = |text: &str| text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let mut push = |text, before| {
        if !blank(text) {
            let number = documents.len() + 1;
            documents.push(Document { number, before, text });
        }
    };
    for (i, line) in text.split_inclusive('\n').enumerate() {
        offset += line.len();
        if line.starts_with("---") {
            push(&text[start..offset - line.len()], before);
            (start, before) = (offset, i + 1);
        }
    }
    push(&text[start..], before);
    documents
}

impl Document<'_> {
    fn parse(&self, manifest: &mut Manifest) -> Result<(), Mistake> {
        let first = |message: &str| self.mistake(None, None, message);
        let head: Head = serde_saphyr::with_deserializer_from_str_with_options(self.text, options(), |de| {
            serde::Deserialize::deserialize(de)
        })
        .map_err(|error| self.broken(None, None, &error))?;
        if head.kind.is_none() {
            return Err(first("kind is missing"));
        }
        if head.api_version.is_none() {
            return Err(self.mistake(head.title(), None, "apiVersion is missing"));
        }
        let mut track = Track::new();
        let raw = serde_saphyr::with_deserializer_from_str_with_options(self.text, options(), |de| {
            Expect(&head).deserialize(serde_path_to_error::Deserializer::new(de, &mut track))
        });
        let raw = raw.map_err(|error| {
            let path = track.path().to_string();
            let object = head_at(&head, &path).title();
            self.broken(object, Some(path).filter(|path| path != "."), &error)
        })?;
        self.take(&head, raw, "", manifest)
    }

    fn take(&self, head: &Head, raw: Raw, path: &str, manifest: &mut Manifest) -> Result<(), Mistake> {
        let invalid = |Invalid { field, message }| self.mistake(head.title(), Some(format!("{path}{field}")), &message);
        match raw {
            Raw::Service(service) => {
                let awaits = service.awaits_cluster_ip();
                let service = service.into_model().map_err(invalid)?;
                if awaits {
                    let message = "is missing: a manifest must give it, since nobody else does; not programmed";
                    manifest.notes.push(self.mistake(head.title(), Some(format!("{path}spec.clusterIP")), message));
                }
                manifest.objects.push(Object::Service(service));
            }
            Raw::EndpointSlice(slice) => match slice.into_model().map_err(invalid)? {
                Some(slice) => manifest.objects.push(Object::EndpointSlice(slice)),
                None => debug!("{} belongs to no Service of ours", head.title().unwrap_or_default()),
            },
            Raw::Pod(pod) => manifest.objects.push(Object::Pod(pod.into_pod().map_err(invalid)?)),
            Raw::Node(node) => manifest.objects.push(Object::Node(node.into_model().map_err(invalid)?)),
            Raw::ServiceCidr(range) => manifest.objects.push(Object::ServiceCidr(range.into_model().map_err(invalid)?)),
            Raw::List(raws) => {
                let heads = head.items.iter().flatten();
                for (i, (head, raw)) in heads.zip(raws).enumerate() {
                    self.take(head, raw, &format!("{path}items[{i}]."), manifest)?;
                }
            }
            Raw::Other => debug!("{} is of no interest", head.title().unwrap_or_default()),
        }
        Ok(())
    }

    fn mistake(&self, object: Option<String>, field: Option<String>, message: &str) -> Mistake {
        let skipped = self.text.lines().take_while(|line| line.trim().is_empty()).count();
        let line = self.before + skipped + 1;
        Mistake { document: self.number, line, object, field, message: message.to_owned() }
    }

    fn broken(&self, object: Option<String>, field: Option<String>, error: &serde_saphyr::Error) -> Mistake {
        let error = error.without_snippet();
        let line = error.location().map(|location| self.before + location.line() as usize);
        let mistake = self.mistake(object, field, &plain(&error.to_string()));
        Mistake { line: line.unwrap_or(mistake.line), ..mistake }
    }
}

/// The head of the object that a path leads into.
fn head_at<'a>(head: &'a Head, path: &str) -> &'a Head {
    if head.kind() != Kind::List {
        return head;
    }
    let item = path.strip_prefix("items[").and_then(|rest| {
        let (index, _) = rest.split_once(']')?;
        head.items.as_ref()?.get(index.parse::<usize>().ok()?)
    });
    item.unwrap_or(head)
}

/// As Kubernetes reads YAML: `version: 1` is no text, `yes` is no truth.
fn options() -> serde_saphyr::Options {
    // A List of a whole cluster is one document. Depth and aliases, which make a small file large, stay limited.
    let budget = serde_saphyr::budget! { max_events: 100_000_000, max_nodes: 50_000_000 };
    serde_saphyr::options! { with_snippet: false, no_schema: true, strict_booleans: true, budget: budget }
}

/// A message without the line, which counts from the document's start, and without advice to programmers.
fn plain(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    message.trim_end_matches(", set DuplicateKeyPolicy in Options if acceptable").to_owned()
}

#[cfg(test)]
mod tests;
