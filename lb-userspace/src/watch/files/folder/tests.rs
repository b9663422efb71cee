use std::os::unix::fs::symlink;

use super::*;

struct World {
    dir: tempfile::TempDir,
    folder: Folder,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path());
        Self { dir, folder }
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
    file.good = Manifest::default();
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
