//! What a folder holds: each file as it last made sense.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::info;

use super::kept::Kept;
use super::manifest::{self, Manifest, Mistake, Object};
use crate::model::{EndpointSlice, Node, ObjectName, Service};
use crate::watch::pod::Pod;
use crate::watch::{Problem, select};

/// Clocks of file systems are coarse: a file that changed so shortly before it was read may change again without its
/// times showing it.
const COARSE: Duration = Duration::from_millis(50);

/// What a bad file comes to when nobody knows what it last held, and what it held may be in force.
const UNKNOWN: &str =
    "; what it last held is not known, so all that an earlier agent programmed stays until it is mended";

/// A folder of manifests.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    kept: Kept,
    /// Whether `kept` has what the files held at the last scan, and no more.
    settled: bool,
    /// Why the folder could not be read.
    unreadable: Option<Problem>,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    /// What it holds, or held last; none where nobody knows.
    good: Option<Manifest>,
    mistakes: Vec<String>,
    /// Why it could not be kept for the next agent.
    unkept: Option<String>,
}

/// Tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What all files together declare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Services, by name.
    pub services: BTreeMap<ObjectName, Service>,
    /// EndpointSlices, by name: written ones, and those made of Pods.
    pub slices: BTreeMap<ObjectName, EndpointSlice>,
    /// Nodes, by name.
    pub nodes: BTreeMap<ObjectName, Node>,
}

impl Folder {
    /// A folder that has not been read yet; it need not exist.
    pub fn new(path: impl Into<PathBuf>, kept: Kept) -> Self {
        Self { path: path.into(), files: BTreeMap::new(), kept, settled: false, unreadable: None }
    }

    /// Whether it is known what all files declare, since each makes sense or once did.
    pub fn is_known(&self) -> bool {
        self.unreadable.is_none() && self.files.values().all(|file| file.good.is_some())
    }

    /// Reads what changed on disk. What cannot be read, or makes no sense, stays what it last was.
    pub fn scan(&mut self, now: SystemTime) {
        let listed = match list(&self.path) {
            Ok(listed) => listed,
            Err(error) => {
                let message = format!("cannot read the folder: {error}; what it last held stays in force");
                self.unreadable = Some(Problem::new(self.path.display().to_string(), message));
                return;
            }
        };
        self.unreadable = None;
        self.files.retain(|path, _| {
            // The list is sorted.
            let stays = listed.binary_search(path).is_ok();
            self.settled &= stays;
            stays
        });
        for path in &listed {
            self.files.entry(path.clone()).or_default().read(path, now, &self.kept);
        }
        if !self.settled && self.is_known() {
            self.kept.complete(&listed);
            self.settled = true;
        }
    }

    /// What all files together declare, and all that is wrong with them.
    pub fn declared(&self) -> (Declared, Vec<Problem>) {
        let mut problems: Vec<_> = self.unreadable.iter().cloned().collect();
        let mut merge = Merge::default();
        for (path, file) in &self.files {
            let about = shown(path);
            let kept = match &file.good {
                None => UNKNOWN,
                Some(good) if *good == Manifest::default() => "",
                Some(_) => "; what the file last held stays in force",
            };
            problems.extend(file.mistakes.iter().map(|text| Problem::new(&*about, format!("{text}{kept}"))));
            problems.extend(file.unkept.iter().map(|text| Problem::new(&*about, text)));
            let Some(good) = &file.good else { continue };
            problems.extend(good.notes.iter().map(|note: &Mistake| Problem::new(&*about, note.to_string())));
            for object in &good.objects {
                merge.add(path, object, &mut problems);
            }
        }
        (merge.finish(), problems)
    }
}

/// Manifests in a folder, sorted. Names that begin with a dot are editors' and ConfigMaps' own affair.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
        if manifest && !hidden && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

impl File {
    fn read(&mut self, path: &Path, now: SystemTime, kept: &Kept) {
        self.look(path, now, kept);
        if self.good.is_none() {
            self.good = kept.recall(path);
        }
    }

    fn look(&mut self, path: &Path, now: SystemTime, kept: &Kept) {
        let stamp = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Stamp::of(&metadata),
            // To open a pipe would wait for a writer for ever.
            Ok(_) => return self.fail(vec!["it is no file".into()]),
            Err(error) => return self.fail(vec![format!("cannot read the file: {error}")]),
        };
        if self.stamp == Some(stamp) {
            return;
        }
        match fs::read_to_string(path) {
            Ok(text) => match manifest::parse(&text) {
                Ok(manifest) => {
                    if !self.mistakes.is_empty() {
                        info!("{} is well again", path.display());
                    }
                    self.mistakes.clear();
                    self.good = Some(manifest);
                    let unkept = kept.keep(path, &text).err();
                    self.unkept = unkept.map(|error| format!("cannot keep a copy for the next agent: {error}"));
                }
                Err(mistakes) => self.mistakes = mistakes.iter().map(ToString::to_string).collect(),
            },
            Err(error) => return self.fail(vec![format!("cannot read the file: {error}")]),
        }
        // What could not be kept is read again, until it can.
        self.stamp = (stamp.is_settled(now) && self.unkept.is_none()).then_some(stamp);
    }

    fn fail(&mut self, mistakes: Vec<String>) {
        self.mistakes = mistakes;
        self.stamp = None;
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a later change is sure to give another stamp.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::new(self.changed.0.try_into().unwrap_or(0), self.changed.1.try_into().unwrap_or(0));
        now.checked_sub(changed).is_some_and(|age| age > COARSE)
    }
}

/// Puts the files' objects together. Where two define the same one, the first has it.
#[derive(Default)]
struct Merge<'a> {
    seen: BTreeMap<(&'static str, &'a ObjectName), &'a Path>,
    declared: Declared,
    /// By namespace, since a Service selects in its own only.
    pods: BTreeMap<&'a str, Vec<&'a Pod>>,
}

impl<'a> Merge<'a> {
    fn add(&mut self, path: &'a Path, object: &'a Object, problems: &mut Vec<Problem>) {
        let (kind, name) = (object.kind(), object.name());
        if let Some(first) = self.seen.get(&(kind, name)) {
            let first = if *first == path { "above".to_owned() } else { format!("in {}", shown(first)) };
            let message = format!("{kind} {name} is defined {first} already; that one counts");
            problems.push(Problem::new(shown(path), message));
            return;
        }
        self.seen.insert((kind, name), path);
        match object {
            Object::Service(service) => drop(self.declared.services.insert(name.clone(), service.clone())),
            Object::EndpointSlice(slice) => drop(self.declared.slices.insert(name.clone(), slice.clone())),
            Object::Node(node) => drop(self.declared.nodes.insert(name.clone(), node.clone())),
            Object::Pod(pod) => self.pods.entry(&pod.name.namespace).or_default().push(pod),
        }
    }

    fn finish(mut self) -> Declared {
        for service in self.declared.services.values() {
            let pods = self.pods.get(&*service.name.namespace).into_iter().flatten().copied();
            for slice in select::slices(service, pods) {
                self.declared.slices.insert(slice.name.clone(), slice);
            }
        }
        self.declared
    }
}

#[cfg(test)]
mod tests;
