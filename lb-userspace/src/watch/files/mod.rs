//! Manifests in a folder: `*.yaml`, `*.yml`, `*.json`, as `kubectl apply` takes them.
//!
//! Changes on disk take effect while it runs. Pods, which in a cluster the control plane turns into EndpointSlices,
//! are turned into them here.

mod catalog;
mod eyes;
mod file;
mod folder;
mod kept;
mod lease;
mod manifest;
mod selection;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tracing::debug;

pub use folder::{Folder, Name};
pub use kept::Kept;
pub use manifest::{Manifest, Mistake, Object, parse};

use super::Arrived;
use eyes::{Eyes, Seen, identity};

/// How often to look at everything even when the kernel reported nothing: some file systems report nothing, and nobody
/// reports what happens to the target of a link.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// After such a look comes a pause this many times as long, so that a large folder costs no more than a small one …
const SHARE: u32 = 50;
/// … but not a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often to look at a file whose writer was not done: a lease tells that there is one, nobody tells that he left.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Messages that may wait for the reconciler.
const QUEUE: usize = 16;

/// Watches a folder from a thread of its own, for as long as anybody listens.
///
/// # Errors
/// No thread can be started, or there is no directory to which a relative path could belong.
pub fn watch(folder: impl AsRef<Path>, kept: Kept) -> std::io::Result<mpsc::Receiver<Arrived>> {
    let folder = std::path::absolute(folder)?;
    let (messages, receiver) = mpsc::channel(QUEUE);
    std::thread::Builder::new().name("sluice-files".into()).spawn(move || Source::new(folder, kept, messages).run())?;
    Ok(receiver)
}

struct Source {
    path: PathBuf,
    folder: Folder,
    /// When to look at everything.
    due: Instant,
    messages: mpsc::Sender<Arrived>,
}

impl Source {
    fn new(path: PathBuf, kept: Kept, messages: mpsc::Sender<Arrived>) -> Self {
        Self { folder: Folder::new(&path, kept), path, due: Instant::now(), messages }
    }

    fn run(mut self) {
        loop {
            let watched = identity(&self.path);
            let eyes = Eyes::open(&self.path);
            // What happened before the eyes were open is seen by this look.
            self.due = Instant::now();
            let mut seen = Seen::default();
            loop {
                if !self.look(seen) {
                    return;
                }
                if identity(&self.path) != watched {
                    debug!("{} is another folder now", self.path.display());
                    break;
                }
                let again = Instant::now() + LOOK_AGAIN;
                seen = eyes.wait(if self.folder.waiting().is_empty() { self.due } else { self.due.min(again) });
            }
        }
    }

    /// Looks where something was seen, or everywhere when that is due, and tells what is new; `false` when nobody
    /// listens any more.
    fn look(&mut self, seen: Seen) -> bool {
        let began = Instant::now();
        if seen.all || began >= self.due {
            self.folder.scan(SystemTime::now());
            self.due = Instant::now() + (began.elapsed() * SHARE).clamp(LOOK_ANYWAY, LONGEST_PAUSE);
        } else {
            let mut names = seen.files;
            names.extend(self.folder.waiting().iter().cloned());
            self.folder.look_at(&names, SystemTime::now());
        }
        let news = self.folder.news();
        news.into_iter().all(|message| self.messages.blocking_send(message.now()).is_ok()) && !self.messages.is_closed()
    }
}

#[cfg(test)]
mod tests;
