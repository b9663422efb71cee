use std::os::unix::fs::symlink;

use super::*;
use crate::state::State;

struct World {
    dir: tempfile::TempDir,
    kept: tempfile::TempDir,
    folder: Folder,
    state: State,
    problems: Vec<String>,
}

impl World {
    fn new() -> Self {
        let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut afresh = Kept::new(kept.path());
        afresh.start_afresh();
        let folder = Folder::new(dir.path(), afresh);
        Self { folder, dir, kept, state: State::default(), problems: vec![] }
    }

    /// As the next agent begins.
    fn restart(&mut self) {
        self.folder = Folder::new(self.dir.path(), Kept::new(self.kept.path()));
        (self.state, self.problems) = (State::default(), vec![]);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn look(&mut self) -> (Vec<String>, Vec<String>) {
        self.look_as_of(SystemTime::now())
    }

    fn look_as_of(&mut self, now: SystemTime) -> (Vec<String>, Vec<String>) {
        self.folder.scan(now);
        self.take()
    }

    fn look_at(&mut self, name: &str) -> (Vec<String>, Vec<String>) {
        self.folder.look_at(&[Name::from(OsStr::new(name))].into(), SystemTime::now());
        self.take()
    }

    fn take(&mut self) -> (Vec<String>, Vec<String>) {
        for message in self.folder.news() {
            match message {
                Message::Events(events) => events.into_iter().for_each(|event| self.state.apply(event)),
                Message::Problems(problems) => self.problems = problems.iter().map(ToString::to_string).collect(),
            }
        }
        let objects = self.state.services().map(|s| {
            let ips: Vec<_> = s.cluster_ips.iter().map(ToString::to_string).collect();
            format!("{} {}", s.name, ips.join(","))
        });
        (objects.collect(), self.problems.clone())
    }
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
    )
}

#[test]
fn a_file_that_makes_no_sense_keeps_what_it_last_held() {
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.write("b.yml", &service("b", "10.0.0.2"));
    assert_eq!(world.look(), (vec!["default/a 10.0.0.1".into(), "default/b 10.0.0.2".into()], vec![]));
    world.write("a.yaml", &service("a", "10.0.0"));
    world.write("b.yml", &service("b", "10.0.0.3"));
    let (objects, problems) = world.look();
    assert_eq!(objects, ["default/a 10.0.0.1", "default/b 10.0.0.3"]);
    assert_eq!(
        problems,
        [
            "a.yaml: document 1, line 4: Service default/a: spec.clusterIP: invalid value: string \"10.0.0\", expected an \
          IP address or None; what the file last held stays in force"
        ]
    );
    world.write("a.yaml", &service("a", "10.0.0.9"));
    assert_eq!(world.look(), (vec!["default/a 10.0.0.9".into(), "default/b 10.0.0.3".into()], vec![]));
}

#[test]
fn a_file_that_broke_while_nobody_looked_keeps_what_it_last_held() {
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.write("b.yaml", &service("b", "10.0.0.2"));
    world.look();
    world.write("a.yaml", &service("a", "10.0.0.3"));
    world.look();
    world.write("a.yaml", "kind: [");
    world.write("new.yaml", "kind: [");
    fs::remove_file(world.dir.path().join("b.yaml")).unwrap();
    // Twice: who falls back must not forget.
    for _ in 0..2 {
        world.restart();
        let (objects, problems) = world.look();
        assert!(world.folder.is_known());
        assert_eq!(objects, ["default/a 10.0.0.3"]);
        let kept = problems.iter().filter(|problem| problem.ends_with("; what the file last held stays in force"));
        assert_eq!((kept.count(), problems.len()), (1, 2), "{problems:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_not_taken_for_empty() {
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.look();
    fs::remove_file(world.dir.path().join("a.yaml")).unwrap();
    symlink("nowhere", world.dir.path().join("a.yaml")).unwrap();
    world.restart();
    assert_eq!(world.look().0, ["default/a 10.0.0.1"]);
}

#[test]
fn without_copies_a_broken_file_makes_everything_unknown_until_it_is_mended() {
    let mut world = World::new();
    world.kept = tempfile::tempdir().unwrap();
    world.restart();
    world.write("a.yaml", "kind: [");
    world.write("b.yaml", &service("b", "10.0.0.2"));
    for _ in 0..2 {
        let (_, problems) = world.look();
        assert!(!world.folder.is_known());
        assert!(problems[0].ends_with(UNKNOWN), "{problems:?}");
        // Nobody has known more since.
        world.restart();
    }
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.look();
    assert!(world.folder.is_known());
    world.write("a.yaml", "kind: [");
    world.restart();
    assert_eq!(world.look().0, ["default/a 10.0.0.1", "default/b 10.0.0.2"]);
}

#[test]
fn a_copy_that_cannot_be_made_is_told_and_tried_again() {
    let mut world = World::new();
    let blocked = world.kept.path().join("no folder");
    fs::write(&blocked, "").unwrap();
    let mut kept = Kept::new(&blocked);
    kept.start_afresh();
    world.folder = Folder::new(world.dir.path(), kept);
    world.write("a.yaml", &service("a", "10.0.0.1"));
    let (objects, problems) = world.look();
    assert_eq!(objects, ["default/a 10.0.0.1"]);
    assert!(problems[0].starts_with("a.yaml: cannot keep a copy"), "{problems:?}");
    fs::remove_file(&blocked).unwrap();
    assert_eq!(world.look().1, [""; 0]);
}

#[test]
fn a_file_that_goes_takes_its_objects_along() {
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.look();
    fs::remove_file(world.dir.path().join("a.yaml")).unwrap();
    assert_eq!(world.look(), (vec![], vec![]));
}

#[test]
fn of_two_definitions_the_first_by_path_counts_and_both_are_named() {
    let mut world = World::new();
    world.write("b.yaml", &service("a", "10.0.0.2"));
    world.write("a.yaml", &service("a", "10.0.0.1"));
    let (objects, problems) = world.look();
    assert_eq!(objects, ["default/a 10.0.0.1"]);
    assert_eq!(problems, ["b.yaml: Service default/a is defined in a.yaml already; that one counts"]);
    world.write("a.yaml", "");
    assert_eq!(world.look(), (vec!["default/a 10.0.0.2".into()], vec![]));
}

#[test]
fn only_manifests_are_read() {
    let mut world = World::new();
    world.write("notes.txt", "not yaml: [");
    world.write(".a.yaml.swp", "[");
    world.write(".hidden.yaml", "[");
    fs::create_dir(world.dir.path().join("folder.yaml")).unwrap();
    assert_eq!(world.look(), (vec![], vec![]));
}

#[test]
fn a_folder_that_is_gone_keeps_what_it_last_held() {
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.look();
    fs::remove_dir_all(world.dir.path()).unwrap();
    let (objects, problems) = world.look();
    assert_eq!(objects, ["default/a 10.0.0.1"]);
    assert!(problems[0].contains("cannot read the folder"), "{problems:?}");
    fs::create_dir(world.dir.path()).unwrap();
    assert_eq!(world.look(), (vec![], vec![]));
}

#[test]
fn links_are_followed_as_in_a_mounted_config_map() {
    let mut world = World::new();
    let at = |name: &str| world.dir.path().join(name);
    fs::create_dir(at("..1")).unwrap();
    fs::create_dir(at("..2")).unwrap();
    fs::write(at("..1/a.yaml"), service("a", "10.0.0.1")).unwrap();
    fs::write(at("..2/a.yaml"), service("a", "10.0.0.2")).unwrap();
    symlink("..1", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let (tmp, data) = (at("..tmp"), at("..data"));
    assert_eq!(world.look().0, ["default/a 10.0.0.1"]);
    symlink("..2", &tmp).unwrap();
    fs::rename(tmp, data).unwrap();
    assert_eq!(world.look().0, ["default/a 10.0.0.2"]);
}

#[test]
fn a_file_rewritten_in_the_same_instant_with_the_same_size_is_seen() {
    let mut world = World::new();
    for i in 1..=9 {
        world.write("a.yaml", &service("a", &format!("10.0.0.{i}")));
        assert_eq!(world.look().0, [format!("default/a 10.0.0.{i}")]);
    }
}

#[test]
fn a_file_that_did_not_change_is_not_read_again() {
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.look_as_of(SystemTime::now() + Duration::from_secs(1));
    let name = Name::from(OsStr::new("a.yaml"));
    world.folder.catalog.put(&name, vec![]);
    assert!(world.look().0.is_empty(), "it was read again");
}

#[test]
fn a_file_that_changed_as_it_was_read_is_read_again() {
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.look();
    world.folder.catalog.put(&Name::from(OsStr::new("a.yaml")), vec![]);
    assert_eq!(world.look().0, ["default/a 10.0.0.1"]);
}

#[test]
fn a_file_with_a_writer_stays_as_it_was_and_keeps_nobody_waiting() {
    use std::io::Write;
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.write(&format!("{name}.yaml"), &service(name, "10.0.0.1"));
    }
    world.look();
    let mut file = fs::File::create(world.dir.path().join("a.yaml")).unwrap();
    world.write("b.yaml", &service("b", "10.0.0.2"));
    fs::remove_file(world.dir.path().join("c.yaml")).unwrap();
    assert_eq!(world.look(), (vec!["default/a 10.0.0.1".into(), "default/b 10.0.0.2".into()], vec![]));
    assert_eq!(world.folder.waiting().len(), 1);
    file.write_all(service("a", "10.0.0.3").as_bytes()).unwrap();
    assert_eq!(world.look_at("a.yaml").0[0], "default/a 10.0.0.1");
    drop(file);
    assert_eq!(world.look_at("a.yaml").0[0], "default/a 10.0.0.3");
    assert!(world.folder.waiting().is_empty());
}

#[test]
fn a_writer_who_never_leaves_is_not_waited_for_for_ever() {
    use std::io::Write;
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.look();
    let mut file = fs::File::create(world.dir.path().join("a.yaml")).unwrap();
    for ip in ["10.0.0.2", "10.0.0.3"] {
        let now = SystemTime::now();
        file.set_len(0).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file.write_all(service("a", ip).as_bytes()).unwrap();
        assert_ne!(world.look_as_of(now).0, [format!("default/a {ip}")]);
        assert_ne!(world.look_as_of(now + WRITER - Duration::from_millis(1)).0, [format!("default/a {ip}")]);
        assert_eq!(world.look_as_of(now + WRITER).0, [format!("default/a {ip}")], "its time is over");
    }
}

#[test]
fn a_file_half_written_as_the_agent_starts_is_what_it_last_was() {
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.look();
    let file = fs::File::create(world.dir.path().join("a.yaml")).unwrap();
    world.restart();
    assert_eq!(world.look().0, ["default/a 10.0.0.1"]);
    drop(file);
    assert_eq!(world.look().0, [""; 0]);
}

#[test]
fn of_a_folder_that_is_gone_no_file_is_taken_for_removed() {
    let mut world = World::new();
    world.write("a.yaml", &service("a", "10.0.0.1"));
    world.look();
    fs::remove_dir_all(world.dir.path()).unwrap();
    let (objects, problems) = world.look_at("a.yaml");
    assert_eq!((objects.len(), problems.len()), (1, 1));
}

#[test]
fn a_pipe_stops_nothing() {
    let mut world = World::new();
    world.write("b.yaml", &service("b", "10.0.0.2"));
    let pipe = world.dir.path().join("a.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (services, problems) = world.look();
    assert_eq!(services, ["default/b 10.0.0.2"]);
    assert!(problems.iter().any(|problem| problem.contains("it is no file")), "{problems:?}");
}
