//! What an agent leaves in its run folder: a small file that tells the command line how it is, a lock that says that it
//! runs, and for the next agent what manifests last held. All else is read from the kernel.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::bpf::Note;
use crate::watch::Health;

/// Why the run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file.
    #[error("cannot {act} {}: {source}; another folder can be named with --run-dir", path.display())]
    File {
        /// What was to be done.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Two agents would fight for the maps.
    #[error(
        "another agent{} runs with the run folder {}: stop it first, or, for another node, name another folder with --run-dir and other pins with --pin-root",
        pid.map_or(String::new(), |pid| format!(" (process {pid})")), path.display()
    )]
    Running {
        /// The run folder.
        path: PathBuf,
        /// The other agent.
        pid: Option<u32>,
    },
}

/// What an agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its process.
    pub pid: u32,
    /// The node it is for.
    pub node: String,
    /// Second, since 1970, when it started.
    pub started: u64,
    /// Whether the maps are complete.
    pub ready: bool,
    /// Map operations written since it started.
    pub writes: u64,
    /// Map entries that others had changed, and programs that others had detached.
    pub repairs: u64,
    /// Second, since 1970, of its last write to a map.
    pub last_write: Option<u64>,
    /// Services that are declared.
    pub services: usize,
    /// Where it learns what is declared.
    #[serde(default)]
    pub source: SourceReport,
    /// Why this node is not healthy, empty where it is; none where it was not judged yet.
    #[serde(default)]
    pub unhealthy: Option<Vec<String>>,
    /// Why the maps are not as they shall be.
    pub error: Option<String>,
    /// What is wrong with what was declared, or with devices: about what, and what.
    pub problems: Vec<(String, String)>,
    /// Why devices are not attached as asked for, by index.
    pub notes: BTreeMap<u32, Note>,
}

/// What an agent says of its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// A folder, or the server in use.
    pub name: String,
    /// Why it learns nothing.
    pub fault: Option<String>,
    /// Second, since 1970, since when that is so, or all is well.
    pub since: Option<u64>,
    /// How often it was well again after a fault.
    pub recoveries: u64,
}

impl From<&Health> for SourceReport {
    fn from(health: &Health) -> Self {
        let Health { source, fault, since, recoveries } = health.clone();
        Self { name: source, fault, since: since.map(seconds), recoveries }
    }
}

/// Whoever asks whether an agent runs holds the lock for a moment: it is tried again, this often.
const TRIES: u32 = 10;
/// And after this time.
const PAUSE: Duration = Duration::from_millis(20);

/// The run folder.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

/// Held for as long as the agent runs, and given back by the kernel if it is killed.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is held, not used")] File);

impl RunDir {
    /// A folder, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the folder, and takes the lock.
    ///
    /// # Errors
    /// Another agent has it, or the folder cannot be written.
    pub fn lock(&self) -> Result<Lock, ReportError> {
        let fail = |act, path: &Path| {
            let path = path.to_owned();
            move |source| ReportError::File { act, path, source }
        };
        fs::create_dir_all(&self.0).map_err(fail("create", &self.0))?;
        let path = self.lock_path();
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(fail("open", &path))?;
        let mut tries = 0..TRIES;
        let locked = loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if tries.next().is_some() => thread::sleep(PAUSE),
                result => break result,
            }
        };
        match locked {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => {
                Err(ReportError::Running { path: self.0.clone(), pid: self.last().map(|report| report.pid) })
            }
            Err(TryLockError::Error(source)) => Err(fail("lock", &path)(source)),
        }
    }

    /// What the agent says that runs now.
    pub fn running(&self) -> Option<Report> {
        let file = File::open(self.lock_path()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(self.last().unwrap_or_default()),
            _ => None,
        }
    }

    /// What the last agent said, which may run no more.
    pub fn last(&self) -> Option<Report> {
        serde_json::from_str(&fs::read_to_string(self.report_path()).ok()?).ok()
    }

    /// Replaces what was said, in one step.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, report: &Report) -> Result<(), ReportError> {
        let (path, new) = (self.report_path(), self.0.join("agent.json.new"));
        let text = serde_json::to_string_pretty(report).map_err(io::Error::other);
        let written = text.and_then(|text| fs::write(&new, text + "\n")).and_then(|()| fs::rename(&new, &path));
        written.map_err(|source| ReportError::File { act: "write", path, source })
    }

    /// The folder of what manifests last held.
    pub fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    /// Forgets what manifests last held, once it is in force no more.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn forget_manifests(&self) -> Result<(), ReportError> {
        let path = self.manifests();
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ReportError::File { act: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.0.join("agent.lock")
    }

    fn report_path(&self) -> PathBuf {
        self.0.join("agent.json")
    }
}

/// Seconds since 1970.
pub fn clock() -> u64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_of_a_running_agent_only_while_the_lock_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path().join("run"));
        assert_eq!(run.running(), None);
        let lock = run.lock().unwrap();
        assert_eq!(run.running(), Some(Report::default()), "an agent that has said nothing yet");
        let note = Note { xdp: Some("no XDP".to_owned()), ..Note::default() };
        let report = Report { pid: 42, notes: [(3, note)].into(), ..Report::default() };
        run.write(&report).unwrap();
        assert_eq!(run.running(), Some(report.clone()));
        let error = run.lock().unwrap_err().to_string();
        assert!(error.contains("process 42"), "{error}");
        drop(lock);
        assert_eq!(run.running(), None);
        assert_eq!(run.last(), Some(report));
        run.lock().unwrap();
    }

    #[test]
    fn who_asks_for_a_moment_whether_an_agent_runs_keeps_none_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        drop(run.lock().unwrap());
        let asking = File::open(run.lock_path()).unwrap();
        asking.try_lock_shared().unwrap();
        let asked = thread::spawn(move || {
            thread::sleep(PAUSE);
            drop(asking);
        });
        run.lock().unwrap();
        asked.join().unwrap();
    }
}
