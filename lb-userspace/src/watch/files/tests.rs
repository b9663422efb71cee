//! With a real folder and a real kernel: the only tests here that wait.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::state::State;
use crate::watch::Message;

const SOON: Duration = Duration::from_secs(1);

struct World {
    dir: tempfile::TempDir,
    messages: mpsc::Receiver<Arrived>,
    state: State,
    problems: Vec<String>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("manifests");
        fs::create_dir(&folder).unwrap();
        let messages = watch(&folder, Kept::new(dir.path().join("kept"))).unwrap();
        let mut world = Self { dir, messages, state: State::default(), problems: vec![] };
        world.until(LOOK_ANYWAY, |world| world.state.ready());
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("manifests").join(name)
    }

    fn ips(&self) -> Vec<String> {
        self.state.services().flat_map(|service| &service.cluster_ips).map(ToString::to_string).collect()
    }

    /// Faster than the look that happens anyway: so the kernel's report is what did it.
    fn until(&mut self, patience: Duration, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            match self.messages.try_recv().map(|arrived| arrived.message) {
                Ok(Message::Events(events)) => events.into_iter().for_each(|event| self.state.apply(event)),
                Ok(Message::Problems(all)) => self.problems = all.iter().map(ToString::to_string).collect(),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
            assert!(start.elapsed() < patience, "{:?} {:?}", self.ips(), self.problems);
        }
    }
}

fn service(ip: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n")
}

#[test]
fn changes_on_disk_are_seen_whichever_way_they_are_made() {
    let mut world = World::new();
    fs::write(world.at("a.yaml"), service("10.0.0.1")).unwrap();
    world.until(SOON, |world| world.ips() == ["10.0.0.1"]);
    // In place.
    fs::write(world.at("a.yaml"), service("10.0.0.2")).unwrap();
    world.until(SOON, |world| world.ips() == ["10.0.0.2"]);
    // As editors do it.
    fs::write(world.at("a.yaml~"), service("10.0.0.3")).unwrap();
    fs::rename(world.at("a.yaml~"), world.at("a.yaml")).unwrap();
    world.until(SOON, |world| world.ips() == ["10.0.0.3"]);
    fs::remove_file(world.at("a.yaml")).unwrap();
    world.until(SOON, |world| world.ips().is_empty());
}

#[test]
fn a_folder_that_is_replaced_is_followed() {
    let mut world = World::new();
    fs::write(world.at("a.yaml"), service("10.0.0.1")).unwrap();
    world.until(SOON, |world| world.ips() == ["10.0.0.1"]);
    let other = world.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a.yaml"), service("10.0.0.2")).unwrap();
    fs::rename(world.at(""), world.dir.path().join("old")).unwrap();
    fs::rename(&other, world.dir.path().join("manifests")).unwrap();
    world.until(SOON, |world| world.ips() == ["10.0.0.2"]);
    fs::write(world.at("a.yaml"), service("10.0.0.3")).unwrap();
    world.until(SOON, |world| world.ips() == ["10.0.0.3"]);
}

#[test]
fn a_file_half_written_is_not_taken_for_whole() {
    use std::io::Write;
    let mut world = World::new();
    let whole = format!("{}---\n{}", service("10.0.0.1"), service("10.0.0.2").replace("name: a", "name: b"));
    fs::write(world.at("a.yaml"), &whole).unwrap();
    world.until(SOON, |world| world.ips().len() == 2);
    // The first half would be sound by itself, and take the second Service away.
    let mut file = fs::File::create(world.at("a.yaml")).unwrap();
    let (first, second) = whole.split_once("---").unwrap();
    file.write_all(first.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    assert!(world.messages.try_recv().is_err());
    file.write_all(b"---").unwrap();
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    std::thread::sleep(Duration::from_millis(50));
    assert!(world.messages.try_recv().is_err());
}

/// Does something again and again until it is dropped.
struct Restless(Arc<AtomicBool>);

impl Restless {
    fn new(mut work: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                work();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self(stop)
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_file_that_goes_goes_at_once_whatever_else_is_written() {
    use std::io::Write;
    let mut world = World::new();
    fs::write(world.at("a.yaml"), service("10.0.0.1")).unwrap();
    world.until(SOON, |world| world.ips() == ["10.0.0.1"]);
    let mut beside = fs::File::create(world.dir.path().join("beside.log")).unwrap();
    let mut slow = fs::File::create(world.at("slow.yaml")).unwrap();
    let _writers =
        Restless::new(move || [&mut beside, &mut slow].iter_mut().for_each(|f| f.write_all(b"#\n").unwrap()));
    std::thread::sleep(Duration::from_millis(50));
    fs::remove_file(world.at("a.yaml")).unwrap();
    // It is a few milliseconds; the machine may be busy.
    world.until(Duration::from_millis(400), |world| world.ips().is_empty());
}

#[test]
fn whatever_is_written_there_is_a_look_at_everything_now_and_then() {
    let mut world = World::new();
    let target = world.dir.path().join("target");
    fs::write(&target, service("10.0.0.1")).unwrap();
    std::os::unix::fs::symlink(&target, world.at("link.yaml")).unwrap();
    world.until(SOON, |world| world.ips() == ["10.0.0.1"]);
    let other = world.at("other.yaml");
    let _writer = Restless::new(move || fs::write(&other, "# nothing").unwrap());
    // Of this nobody reports.
    fs::write(&target, service("10.0.0.2")).unwrap();
    world.until(LOOK_ANYWAY + SOON, |world| world.ips() == ["10.0.0.2"]);
}

#[test]
fn a_mistake_is_told_once_and_its_repair_too() {
    let mut world = World::new();
    fs::write(world.at("a.yaml"), service("10.0.0")).unwrap();
    world.until(SOON, |world| world.problems.len() == 1);
    fs::write(world.at("b.txt"), "no manifest").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(world.messages.try_recv().is_err());
    fs::write(world.at("a.yaml"), service("10.0.0.1")).unwrap();
    world.until(SOON, |world| world.problems.is_empty() && world.ips() == ["10.0.0.1"]);
}

#[test]
fn a_folder_that_is_not_there_yet_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("manifests");
    let messages = watch(&folder, Kept::new(dir.path().join("kept"))).unwrap();
    let mut world = World { dir, messages, state: State::default(), problems: vec![] };
    world.until(SOON, |world| world.problems.len() == 1);
    assert!(!world.state.ready());
    fs::create_dir(&folder).unwrap();
    world.until(SOON, |world| world.state.ready() && world.problems.is_empty());
}
