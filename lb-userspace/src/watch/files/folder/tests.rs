use std::os::unix::fs::symlink;

use super::*;

struct World {
    dir: tempfile::TempDir,
    kept: tempfile::TempDir,
    folder: Folder,
}

impl World {
    fn new() -> Self {
        let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut afresh = Kept::new(kept.path());
        afresh.start_afresh();
        Self { folder: Folder::new(dir.path(), afresh), dir, kept }
    }

    /// As the next agent begins.
    fn restart(&mut self) {
        self.folder = Folder::new(self.dir.path(), Kept::new(self.kept.path()));
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn look(&mut self) -> (Vec<String>, Vec<String>) {
        self.folder.scan(SystemTime::now());
        let (declared, problems) = self.folder.declared();
        let objects = declared.services.values().map(|s| {
            let ips: Vec<_> = s.cluster_ips.iter().map(ToString::to_string).collect();
            format!("{} {}", s.name, ips.join(","))
        });
        (objects.collect(), problems.iter().map(ToString::to_string).collect())
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
    world.folder.scan(SystemTime::now() + Duration::from_secs(1));
    let path = world.dir.path().join("a.yaml");
    let file = world.folder.files.get_mut(&path).unwrap();
    file.good = Some(Manifest::default());
    assert!(world.look().0.is_empty(), "it was read again");
}

#[test]
fn a_stamp_is_trusted_only_once_its_time_has_passed() {
    let mut world = World::new();
    world.write("a.yaml", "");
    let stamp = Stamp::of(&fs::metadata(world.dir.path().join("a.yaml")).unwrap());
    let changed = SystemTime::UNIX_EPOCH + Duration::new(stamp.changed.0.unsigned_abs(), 0);
    assert!(!stamp.is_settled(changed));
    assert!(stamp.is_settled(changed + Duration::from_secs(2)));
    world.look();
    let path = world.dir.path().join("a.yaml");
    assert_eq!(world.folder.files[&path].stamp, None);
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
