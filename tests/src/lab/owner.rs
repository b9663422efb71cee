//! Who owns what a lab leaves on the machine, and how it is taken away again.
//!
//! All of a lab can be found by its id alone (`sluice-<pid>-<n>`): namespaces `<id>-…`, the cgroups `<id>` and `<id>-…`,
//! the folder `<id>` with the bpffs in it. So one function removes it, whether the lab ends as it should, on Ctrl-C, or in the
//! next run after a kill -9. A lab of a living process is never touched: it holds a lock on a file in its folder.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const PREFIX: &str = "sluice-";
const NETNS: &str = "/run/netns";
const LOCK: &str = "owner";

/// Ids of the labs of this process, for the signal handler.
static ALIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static SEQUENCE: AtomicU32 = AtomicU32::new(0);

/// The name of one lab, its folder, its cgroup, and the lock that says that its process lives.
#[derive(Debug)]
pub(crate) struct Owner {
    /// `sluice-<pid>-<n>`.
    pub(crate) id: String,
    /// A folder of its own.
    pub(crate) dir: PathBuf,
    /// A cgroup of its own.
    pub(crate) cgroup: PathBuf,
    _lock: File,
}

impl Owner {
    /// Takes a new id and makes its folder and cgroup. The first call in a process removes what dead ones left.
    pub(crate) fn new() -> Result<Self> {
        static SWEPT: OnceLock<()> = OnceLock::new();
        SWEPT.get_or_init(|| {
            remove_leftovers();
        });
        remove_on_signal()?;

        let id = format!("{PREFIX}{}-{}", std::process::id(), SEQUENCE.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&id);
        let cgroup = cgroup_root()?.join(&id);
        ALIVE.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        fs::create_dir(&dir).with_context(|| format!("cannot make the lab's folder {}", dir.display()))?;
        let lock = File::create(dir.join(LOCK)).context("cannot make the lab's lock file")?;
        lock.try_lock().context("cannot lock the lab's lock file")?;
        fs::create_dir(&cgroup).with_context(|| format!("cannot make the cgroup {}", cgroup.display()))?;
        Ok(Self { id, dir, cgroup, _lock: lock })
    }

    /// Mounts its bpffs.
    pub(crate) fn bpffs(&self) -> Result<PathBuf> {
        let bpf = self.dir.join("bpf");
        fs::create_dir(&bpf).context("cannot make the folder for a bpffs")?;
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpffs on {}", bpf.display()))?;
        Ok(bpf)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        remove(&self.id);
        ALIVE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Removes the labs of processes that are gone, and returns their ids.
pub fn remove_leftovers() -> Vec<String> {
    let dead: Vec<String> = found().into_iter().filter(|id| is_dead(id)).collect();
    for id in &dead {
        remove(id);
    }
    dead
}

/// Ids of all labs of which a part is on this machine.
pub fn found() -> BTreeSet<String> {
    let mut places = vec![PathBuf::from(NETNS), std::env::temp_dir()];
    places.extend(cgroup_root());
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    entries.filter_map(|entry| id_of(entry.file_name().to_str()?)).collect()
}

/// `sluice-12-0` for `sluice-12-0-node`; nothing for names that are not a lab's.
fn id_of(name: &str) -> Option<String> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
    let (pid, n) = (parts.next()?, parts.next()?);
    (pid.parse::<u32>().is_ok() && n.parse::<u32>().is_ok()).then(|| format!("{PREFIX}{pid}-{n}"))
}

/// The lock decides where there is one, since a process id can be given anew; else the process id.
fn is_dead(id: &str) -> bool {
    let pid = id.trim_start_matches(PREFIX).split('-').next().unwrap_or_default();
    let no_process = || !Path::new("/proc").join(pid).exists();
    if pid == std::process::id().to_string() {
        return false;
    }
    match File::open(std::env::temp_dir().join(id).join(LOCK)) {
        Ok(lock) => match lock.try_lock() {
            // A lab being born has made its file but not yet locked it: its process lives.
            Ok(()) => no_process() || lock.metadata().and_then(|m| m.modified()).is_ok_and(is_old),
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(_)) => no_process(),
        },
        Err(_) => no_process(),
    }
}

fn is_old(time: std::time::SystemTime) -> bool {
    time.elapsed().is_ok_and(|age| age > Duration::from_secs(60))
}

/// Takes away all that belongs to one lab. What is gone already is no error: two runs may clean at once.
fn remove(id: &str) {
    let names_in = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_own = |name: &String| id_of(name).as_deref() == Some(id);
    if let Ok(root) = cgroup_root() {
        for name in names_in(&root).filter_map(|name| name.into_string().ok()).filter(is_own) {
            remove_cgroup(&root.join(name));
        }
    }
    for name in names_in(Path::new(NETNS)).filter_map(|name| name.into_string().ok()).filter(is_own) {
        remove_netns(&name);
    }
    let dir = std::env::temp_dir().join(id);
    let bpf = dir.join("bpf");
    // Lazily: a program that still reads a pinned map must not keep the mount. A folder that still has a mount in it
    // must not be deleted recursively.
    while umount2(&bpf, MntFlags::MNT_DETACH).is_ok() {}
    let _ = fs::remove_dir(&bpf);
    if !bpf.exists() {
        let _ = fs::remove_dir_all(&dir);
    }
}

/// Removes one namespace by name.
pub(crate) fn remove_netns(name: &str) {
    // What iproute2 would do; without a process per namespace.
    let path = Path::new(NETNS).join(name);
    while umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
    let _ = fs::remove_file(&path);
}

/// Ends the processes in a lab's cgroup (only ones that the lab started can be there), then removes it.
pub(crate) fn remove_cgroup(cgroup: &Path) {
    if !cgroup.exists() {
        return;
    }
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir(cgroup).is_err() && cgroup.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where cgroup2 is mounted.
pub(crate) fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let found = fields.find_map(|mut f| {
        let (place, kind) = (f.nth(1)?, f.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    found.context("this machine has no cgroup2 mount (expected one in /proc/mounts)")
}

/// On Ctrl-C and SIGTERM: remove this process's labs, then end with the status a shell expects.
fn remove_on_signal() -> Result<()> {
    static SET: OnceLock<bool> = OnceLock::new();
    let set = *SET.get_or_init(|| {
        ctrlc::set_handler(|| {
            eprintln!("\ninterrupted: removing the lab");
            for id in ALIVE.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                remove(id);
            }
            std::process::exit(130);
        })
        .is_ok()
    });
    if !set {
        bail!("cannot set a handler for Ctrl-C, so the lab could not clean up: another one is set");
    }
    Ok(())
}

/// Runs `ip` with a batch of commands on its standard input, in the namespace of the calling thread.
pub(crate) fn ip_batch(commands: &str) -> Result<()> {
    use std::io::Write;
    use std::process::Stdio;

    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `ip` (package iproute2)")?;
    let mut stdin = child.stdin.take().context("no pipe to `ip`")?;
    stdin.write_all(commands.as_bytes()).context("`ip` took no commands")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for `ip`")?;
    if !output.status.success() {
        bail!("`ip -batch` failed: {}\ncommands:\n{commands}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_are_recognised() {
        for (name, id) in [
            ("sluice-12-0-node", Some("sluice-12-0")),
            ("sluice-12-3", Some("sluice-12-3")),
            ("sluice-12-3-pod-web-1", Some("sluice-12-3")),
            ("sluice-lab-node", None),
            ("sluice-12", None),
            ("other-12-0-node", None),
        ] {
            assert_eq!(id_of(name).as_deref(), id, "{name}");
        }
    }

    #[test]
    fn a_lab_of_this_process_is_not_a_leftover() {
        assert!(!is_dead(&format!("{PREFIX}{}-77", std::process::id())));
        assert!(is_dead(&format!("{PREFIX}{}-0", u32::MAX)));
    }
}
