//! Manifests in a folder: `*.yaml`, `*.yml`, `*.json`, as `kubectl apply` takes them.
//!
//! Changes on disk take effect while it runs. Pods, which in a cluster the control plane turns into EndpointSlices,
//! are turned into them here.

mod changes;
mod folder;
mod kept;
mod manifest;
mod writers;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::{debug, warn};

pub use folder::{Declared, Folder};
pub use kept::Kept;
pub use manifest::{Manifest, Mistake, Object, parse};

use super::Arrived;
use changes::Published;
use writers::Writers;

/// How often to look even when the kernel reported nothing: some file systems report nothing, and nobody reports
/// what happens to the target of a link.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// Messages that may wait for the reconciler.
const QUEUE: usize = 16;

/// Watches a folder from a thread of its own, for as long as anybody listens.
///
/// # Errors
/// No thread can be started.
pub fn watch(folder: impl Into<PathBuf>, kept: Kept) -> std::io::Result<mpsc::Receiver<Arrived>> {
    let folder = folder.into();
    let (messages, receiver) = mpsc::channel(QUEUE);
    std::thread::Builder::new().name("sluice-files".into()).spawn(move || Source::new(folder, kept, messages).run())?;
    Ok(receiver)
}

struct Source {
    path: PathBuf,
    folder: Folder,
    published: Published,
    messages: mpsc::Sender<Arrived>,
}

impl Source {
    fn new(path: PathBuf, kept: Kept, messages: mpsc::Sender<Arrived>) -> Self {
        Self { folder: Folder::new(&path, kept), path, published: Published::default(), messages }
    }

    fn run(mut self) {
        loop {
            let (reports, eyes) = open_eyes(&self.path);
            // What happened before the eyes were open is seen by this look.
            if !self.look() {
                return;
            }
            let seen = identity(&self.path);
            loop {
                if !wait(&reports) || !self.look() {
                    match self.messages.is_closed() {
                        true => return,
                        false => break,
                    }
                }
                if identity(&self.path) != seen {
                    debug!("{} is another folder now", self.path.display());
                    break;
                }
            }
            drop(eyes);
        }
    }

    /// Looks at the folder and tells what is new; `false` when nobody listens any more.
    fn look(&mut self) -> bool {
        self.folder.scan(SystemTime::now());
        let (declared, problems) = self.folder.declared();
        // A folder that was never there declares nothing: it is not the same as an empty one. Nor is a file that nobody
        // can make sense of the same as none.
        let known = self.folder.is_known() || self.published.any();
        let news = self.published.news(known.then_some(declared), problems);
        news.into_iter().all(|message| self.messages.blocking_send(message.now()).is_ok()) && !self.messages.is_closed()
    }
}

/// Waits for a reason to look. `false` when there will be none any more.
fn wait(reports: &Receiver<notify::Result<notify::Event>>) -> bool {
    let mut writers = Writers::default();
    let mut timeout = LOOK_ANYWAY;
    loop {
        match reports.recv_timeout(timeout) {
            Ok(Ok(event)) => writers.note(&event, Instant::now()),
            Ok(Err(error)) => {
                debug!("the folder's watch failed: {error}");
                return true;
            }
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(LOOK_ANYWAY);
                return true;
            }
        }
        if let Some(patience) = writers.patience(Instant::now()) {
            timeout = patience;
        }
    }
}

/// Has the kernel report changes in the folder, and in its parent, where the folder itself may come and go.
fn open_eyes(path: &Path) -> (Receiver<notify::Result<notify::Event>>, Option<RecommendedWatcher>) {
    let (sender, reports) = channel();
    let mut eyes = match notify::recommended_watcher(sender) {
        Ok(eyes) => eyes,
        Err(error) => {
            warn!("changes in {} are seen only every {LOOK_ANYWAY:?}: {error}", path.display());
            return (reports, None);
        }
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for place in [path, parent] {
        if let Err(error) = eyes.watch(place, RecursiveMode::NonRecursive) {
            debug!("cannot watch {}: {error}", place.display());
        }
    }
    (reports, Some(eyes))
}

/// Which folder a path leads to: it may be another one from one moment to the next.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests;
