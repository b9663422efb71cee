//! What a folder holds: each file as it last made sense.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::info;

use super::catalog::Catalog;
use super::file::{self, Found, Stamp};
use super::kept::Kept;
use super::manifest::{self, Manifest};
use crate::watch::{Message, Problem};

/// The name of a file in the folder.
pub type Name = Arc<OsStr>;

/// How long a file that somebody has open to write is left alone. A writer who takes longer may be one that never
/// closes it.
const WRITER: Duration = Duration::from_secs(5);

/// What a bad file comes to when nobody knows what it last held, and what it held may be in force.
const UNKNOWN: &str =
    "; what it last held is not known, so all that an earlier agent programmed stays until it is mended";

/// A folder of manifests.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<Name, File>,
    /// Files that changed, but have a writer who may not be done.
    waiting: BTreeSet<Name>,
    catalog: Catalog,
    kept: Kept,
    /// Whether `kept` has what the files held, and no more.
    settled: bool,
    /// Why the folder could not be read.
    unreadable: Option<Problem>,
    /// What is wrong with files, of those with which something is.
    problems: BTreeMap<Name, Vec<Problem>>,
    /// What was told last; none before anything was.
    told: Option<Vec<Problem>>,
    /// Whether all that is declared was told once.
    listed: bool,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    held: Held,
    mistakes: Vec<String>,
    /// What its author should know of what it holds.
    notes: Vec<String>,
    /// Why it could not be kept for the next agent.
    unkept: Option<String>,
    /// Since when it waits for its writer.
    waiting: Option<SystemTime>,
}

/// What a file holds, or held when it last made sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Held {
    #[default]
    Unknown,
    Nothing,
    Something,
}

impl Folder {
    /// A folder that has not been read yet; it need not exist.
    pub fn new(path: impl Into<PathBuf>, kept: Kept) -> Self {
        Self {
            path: path.into(),
            files: BTreeMap::new(),
            waiting: BTreeSet::new(),
            catalog: Catalog::default(),
            kept,
            settled: false,
            unreadable: None,
            problems: BTreeMap::new(),
            told: None,
            listed: false,
        }
    }

    /// Whether it is known what all files declare, since each makes sense or once did.
    pub fn is_known(&self) -> bool {
        self.unreadable.is_none() && self.files.values().all(|file| file.held != Held::Unknown)
    }

    /// Looks at every file, and reads those that changed. What cannot be read, or makes no sense, stays what it last
    /// was.
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
        let gone: Vec<_> = self.files.keys().filter(|name| !listed.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
        listed.iter().for_each(|name| self.look(name, now));
        self.settle();
    }

    /// Looks at some files.
    pub fn look_at(&mut self, names: &BTreeSet<Name>, now: SystemTime) {
        // Of a folder that is gone every file seems to be.
        if self.unreadable.is_some() || !self.path.is_dir() {
            return self.scan(now);
        }
        names.iter().for_each(|name| self.look(name, now));
        self.settle();
    }

    /// Files to be looked at again soon: they changed, but somebody has them open and may not be done.
    pub fn waiting(&self) -> &BTreeSet<Name> {
        &self.waiting
    }

    /// What is new since this was last asked.
    pub fn news(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        let problems = self.problems();
        if self.told.as_ref().is_none_or(|told| *told != problems) {
            if self.told.is_some() || !problems.is_empty() {
                messages.push(Message::Problems(problems.clone()));
            }
            self.told = Some(problems);
        }
        let mut events = self.catalog.take_events();
        if !self.listed {
            // A folder that was never there declares nothing: it is not the same as an empty one. Nor is a file that
            // nobody can make sense of the same as none.
            if !self.is_known() {
                return messages;
            }
            events = self.catalog.all();
            self.listed = true;
        }
        if !events.is_empty() {
            messages.push(Message::Events(events));
        }
        messages
    }

    fn problems(&self) -> Vec<Problem> {
        let files = self.problems.values().flatten().cloned();
        self.unreadable.iter().cloned().chain(files).chain(self.catalog.problems()).collect()
    }

    fn look(&mut self, name: &Name, now: SystemTime) {
        let path = self.path.join(&**name);
        let file = self.files.entry(name.clone()).or_default();
        let waited = file.waiting.map(|since| now.duration_since(since).unwrap_or(WRITER));
        let found = file::look(&path, file.stamp, waited.is_none_or(|waited| waited < WRITER));
        if matches!(found, Found::Writing) {
            file.waiting.get_or_insert(now);
            self.waiting.insert(name.clone());
        } else if file.waiting.take().is_some() {
            self.waiting.remove(name);
        }
        match found {
            Found::Same => return,
            Found::Nothing => return self.remove(name),
            Found::Writing => {}
            Found::Text(text, stamp) => {
                let well = file.read(&text, &mut self.catalog, name);
                if well {
                    let unkept = self.kept.keep(name, &text).err();
                    file.unkept = unkept.map(|error| format!("cannot keep a copy for the next agent: {error}"));
                }
                // What could not be kept is read again, until it can.
                file.stamp = (stamp.is_settled(now) && file.unkept.is_none()).then_some(stamp);
            }
            Found::Unreadable(mistake) => {
                file.stamp = None;
                file.mistakes = vec![mistake];
            }
        }
        if file.held == Held::Unknown
            && let Some(manifest) = self.kept.recall(name)
        {
            file.hold(manifest, &mut self.catalog, name);
        }
        match file.problems(name) {
            none if none.is_empty() => drop(self.problems.remove(name)),
            problems => drop(self.problems.insert(name.clone(), problems)),
        }
    }

    fn remove(&mut self, name: &Name) {
        self.files.remove(name);
        self.waiting.remove(name);
        self.problems.remove(name);
        self.catalog.remove(name);
        self.kept.forget(name);
    }

    fn settle(&mut self) {
        if !self.settled && self.is_known() {
            self.kept.complete(self.files.keys());
            self.settled = true;
        }
    }
}

impl File {
    /// Takes a text in; whether it makes sense.
    fn read(&mut self, text: &str, catalog: &mut Catalog, name: &Name) -> bool {
        match manifest::parse(text) {
            Ok(manifest) => {
                if !self.mistakes.is_empty() {
                    info!("{} is well again", name.display());
                }
                self.mistakes.clear();
                self.hold(manifest, catalog, name);
                true
            }
            Err(mistakes) => {
                self.mistakes = mistakes.iter().map(ToString::to_string).collect();
                false
            }
        }
    }

    fn hold(&mut self, manifest: Manifest, catalog: &mut Catalog, name: &Name) {
        self.held = match manifest == Manifest::default() {
            true => Held::Nothing,
            false => Held::Something,
        };
        self.notes = manifest.notes.iter().map(ToString::to_string).collect();
        self.notes.extend(catalog.put(name, manifest.objects));
    }

    fn problems(&self, name: &Name) -> Vec<Problem> {
        let kept = match self.held {
            Held::Unknown => UNKNOWN,
            Held::Nothing => "",
            Held::Something => "; what the file last held stays in force",
        };
        let mistakes = self.mistakes.iter().map(|mistake| format!("{mistake}{kept}"));
        let texts = mistakes.chain(self.unkept.iter().chain(&self.notes).cloned());
        texts.map(|text| Problem::new(name.to_string_lossy(), text)).collect()
    }
}

/// Manifests in a folder.
fn list(folder: &Path) -> io::Result<BTreeSet<Name>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if is_manifest(&name) {
            names.insert(name.into());
        }
    }
    Ok(names)
}

/// Whether a file of this name is read. Names that begin with a dot are editors' and ConfigMaps' own affair.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    let suffix = Path::new(name).extension();
    !hidden && suffix.is_some_and(|suffix| suffix == "yaml" || suffix == "yml" || suffix == "json")
}

#[cfg(test)]
mod tests;
