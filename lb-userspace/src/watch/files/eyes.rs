//! What the kernel reports of a folder, and which of it can matter.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tracing::{debug, warn};

use super::folder::{Name, is_manifest};

/// How long it must be quiet: one command often makes several changes.
const QUIET: Duration = Duration::from_millis(5);
/// Longest wait, while changes go on.
const LONGEST: Duration = Duration::from_millis(20);
/// The link by which Kubernetes exchanges all files of a mounted ConfigMap at once.
const CONFIG_MAP: &str = "..data";

/// Where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Everywhere.
    pub(super) all: bool,
    /// At these files.
    pub(super) files: BTreeSet<Name>,
}

impl Seen {
    const ALL: Self = Self { all: true, files: BTreeSet::new() };

    /// What a report says of a folder. That somebody writes in a file is no news: when he is done, he closes it.
    fn of(folder: &Path, event: &Event) -> Self {
        let mut seen = Self { all: event.need_rescan(), ..Self::default() };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)) => return seen,
            _ => {}
        }
        for path in &event.paths {
            match path.file_name() {
                _ if path == folder => seen.all = true,
                Some(name) if path.parent() == Some(folder) => seen.note(name),
                _ => {}
            }
        }
        seen
    }

    fn note(&mut self, name: &OsStr) {
        match name == CONFIG_MAP {
            true => self.all = true,
            false if is_manifest(name) => drop(self.files.insert(name.into())),
            false => {}
        }
    }

    fn is_empty(&self) -> bool {
        !self.all && self.files.is_empty()
    }

    fn add(&mut self, mut more: Self) {
        self.all |= more.all;
        self.files.append(&mut more.files);
    }
}

/// Reports of the folder, and of its entry in its parent: the folder itself may come and go.
pub(super) struct Eyes {
    reports: Receiver<Seen>,
    _watcher: Option<RecommendedWatcher>,
}

impl Eyes {
    /// Opens them; what cannot be watched is left to the look that happens anyway.
    pub(super) fn open(folder: &Path) -> Self {
        let (sender, reports) = channel();
        let place = folder.to_path_buf();
        let handler = move |report: notify::Result<Event>| {
            let seen = match &report {
                Ok(event) => Seen::of(&place, event),
                Err(error) => {
                    debug!("the folder's watch failed: {error}");
                    Seen::ALL
                }
            };
            if !seen.is_empty() {
                // Nobody listens any more only when the eyes are being closed.
                let _ = sender.send(seen);
            }
        };
        match notify::recommended_watcher(handler) {
            Ok(mut watcher) => {
                for place in [Some(folder), folder.parent()].into_iter().flatten() {
                    if let Err(error) = watcher.watch(place, RecursiveMode::NonRecursive) {
                        debug!("cannot watch {}: {error}", place.display());
                    }
                }
                Self { reports, _watcher: Some(watcher) }
            }
            Err(error) => {
                warn!("changes in {} are seen only now and then: {error}", folder.display());
                Self { reports, _watcher: None }
            }
        }
    }

    /// Waits for something to look at, until `due` at the latest. Changes that come in one go are told together.
    pub(super) fn wait(&self, due: Instant) -> Seen {
        let mut seen = match self.reports.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(seen) => seen,
            Err(RecvTimeoutError::Timeout) => return Seen::default(),
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                return Seen::default();
            }
        };
        let latest = Instant::now() + LONGEST;
        while let Ok(more) = self.reports.recv_timeout(QUIET.min(latest.saturating_duration_since(Instant::now()))) {
            seen.add(more);
            if Instant::now() >= latest {
                break;
            }
        }
        seen
    }
}

/// Which folder a path leads to: it may be another one from one moment to the next.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind, RenameMode};

    use super::*;

    const CREATE: EventKind = EventKind::Create(CreateKind::File);
    const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSE: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const READ: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Read));
    const OPEN: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));
    const REMOVE: EventKind = EventKind::Remove(RemoveKind::File);
    const RENAME: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const MODE: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));

    fn seen(kind: EventKind, path: &str) -> Seen {
        Seen::of(Path::new("/etc/sluice"), &Event::new(kind).add_path(path.into()))
    }

    #[test]
    fn a_file_is_looked_at_when_its_writer_is_done_and_not_before() {
        let file = Seen { all: false, files: [Name::from(OsStr::new("a.yaml"))].into() };
        for kind in [CREATE, CLOSE, REMOVE, RENAME, MODE] {
            assert_eq!(seen(kind, "/etc/sluice/a.yaml"), file, "{kind:?}");
        }
        for kind in [OPEN, READ, WRITE] {
            assert!(seen(kind, "/etc/sluice/a.yaml").is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn what_lies_beside_the_folder_or_is_no_manifest_is_no_news() {
        for path in ["/etc/a.yaml", "/etc", "/etc/sluice/a.log", "/etc/sluice/.a.yaml", "/etc/sluice/..tmp"] {
            for kind in [CREATE, CLOSE, REMOVE, RENAME] {
                assert!(seen(kind, path).is_empty(), "{kind:?} {path}");
            }
        }
    }

    #[test]
    fn another_folder_or_lost_reports_mean_everything() {
        assert!(seen(RENAME, "/etc/sluice").all);
        assert!(seen(REMOVE, "/etc/sluice").all);
        assert!(seen(RENAME, "/etc/sluice/..data").all);
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(Seen::of(Path::new("/etc/sluice"), &lost), Seen::ALL);
    }
}
