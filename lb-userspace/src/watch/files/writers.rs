//! When to look at a folder in which somebody writes: not in the middle of a file, but not never. Pure.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind};

/// How long it must be quiet: one command often makes several changes.
const QUIET: Duration = Duration::from_millis(5);
/// Longest wait, while changes go on.
const LONGEST: Duration = Duration::from_millis(100);
/// Longest wait for somebody who has opened a file, emptied it and not finished writing.
const LONGEST_WRITE: Duration = Duration::from_millis(500);

/// Files that are being written, by what the kernel reports.
#[derive(Debug, Default)]
pub(super) struct Writers {
    open: HashSet<PathBuf>,
    first: Option<Instant>,
}

impl Writers {
    /// Takes in a report.
    pub(super) fn note(&mut self, event: &Event, now: Instant) {
        match event.kind {
            // Reading is no news; and this program reads, too.
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                event.paths.iter().for_each(|path| {
                    self.open.remove(path);
                });
            }
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => self.open.extend(event.paths.iter().cloned()),
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                event.paths.iter().for_each(|path| {
                    self.open.remove(path);
                });
            }
            _ => {}
        }
        self.first.get_or_insert(now);
    }

    /// How much longer to wait for another report; none where there is nothing to wait for in particular.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        let waited = now - self.first?;
        Some(match self.open.is_empty() {
            true => QUIET.min(LONGEST.saturating_sub(waited)),
            false => LONGEST_WRITE.saturating_sub(waited),
        })
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, RemoveKind};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn event(kind: EventKind) -> Event {
        Event::new(kind).add_path("a.yaml".into())
    }

    fn after(kinds: &[EventKind]) -> Option<Duration> {
        let now = Instant::now();
        let mut writers = Writers::default();
        kinds.iter().for_each(|kind| writers.note(&event(*kind), now));
        writers.patience(now)
    }

    const CREATE: EventKind = EventKind::Create(CreateKind::File);
    const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSE: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const OPEN: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));

    #[test]
    fn a_file_is_looked_at_once_its_writer_is_done() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[OPEN]), None);
        assert_eq!(after(&[CREATE, WRITE]), Some(500 * MS));
        assert_eq!(after(&[CREATE, WRITE, CLOSE]), Some(5 * MS));
        assert_eq!(after(&[WRITE, EventKind::Remove(RemoveKind::File)]), Some(5 * MS));
    }

    #[test]
    fn a_storm_is_not_waited_out() {
        let start = Instant::now();
        let mut writers = Writers::default();
        writers.note(&event(CLOSE), start);
        assert_eq!(writers.patience(start + 98 * MS), Some(2 * MS));
        assert_eq!(writers.patience(start + 200 * MS), Some(Duration::ZERO));
    }
}
