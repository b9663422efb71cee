//! Scripts: one file is one test. Manifests go in, and the maps, as a person would write them down, come out.
//!
//! A script is a list of steps, each a line that begins with `#=`:
//!
//! ```text
//! #= put shop.yaml      what follows, up to the next step, is this manifest now
//! #= remove shop.yaml
//! #= wait 2             seconds
//! #= restart            another agent takes over
//! #= expect             what follows is what the maps hold
//! #= problems           what follows is what is wrong
//! ```
//! With `SLUICE_REWRITE=1` in the environment what is expected is rewritten to what is there: read the diff before
//! you commit it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use lb_common::mem::{Image, Of};
use lb_common::tables::{Kind, Table, backend, frontend};
use lb_userspace::reconcile::Engine;
use lb_userspace::store::{MemoryStore, Store};
use lb_userspace::watch::files::{Folder, Kept};

use crate::oracle::shown;
use crate::world::{options, settle};

struct Script {
    folder: tempfile::TempDir,
    kept: tempfile::TempDir,
    files: Folder,
    engine: Engine<MemoryStore>,
    now: Instant,
}

impl Script {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let kept = tempfile::tempdir().expect("a temporary folder");
        let now = Instant::now();
        let engine = Engine::new(MemoryStore::default(), options(), now);
        let mut afresh = Kept::new(kept.path());
        afresh.start_afresh();
        Self { files: Folder::new(folder.path(), afresh), folder, kept, engine, now }
    }

    /// Does a step; what it shows, where it shows something.
    fn step(&mut self, words: &[&str], body: &str) -> Option<String> {
        match words {
            ["put", file] => fs::write(self.folder.path().join(file), body).expect("a file"),
            ["remove", file] => fs::remove_file(self.folder.path().join(file)).expect("it was there"),
            ["wait", seconds] => {
                self.now += Duration::from_secs(seconds.parse().expect("seconds"));
                let now = self.now;
                self.engine.work(|| now);
            }
            ["restart"] => {
                let store = std::mem::take(self.engine.store());
                self.engine = Engine::new(store, options(), self.now);
                self.files = Folder::new(self.folder.path(), Kept::new(self.kept.path()));
            }
            ["lose", "copies"] => self.kept = tempfile::tempdir().expect("a temporary folder"),
            ["expect"] => {
                self.sync();
                return Some(show(&self.engine.store().read().expect("memory can be read")));
            }
            ["problems"] => {
                self.sync();
                return Some(self.engine.status().problems.iter().map(|problem| format!("{problem}\n")).collect());
            }
            _ => panic!("what is the step {words:?}?"),
        }
        None
    }

    fn sync(&mut self) {
        self.files.scan(SystemTime::now());
        for message in self.files.news() {
            self.engine.receive(message, self.now);
        }
        if !self.files.is_known() {
            return;
        }
        self.now = settle(&mut self.engine, self.now);
    }
}

/// The maps as tables.
fn show(image: &Image) -> String {
    let mut text = String::new();
    family::<lb_common::ip::V4>(image, &mut text);
    family::<lb_common::ip::V6>(image, &mut text);
    for (at, slots) in &image.runs {
        let mut ids = slots.ids().to_vec();
        ids.sort_unstable();
        writeln!(text, "table     {:<28} {ids:?}", format!("{at}+{}", slots.len())).expect("text");
    }
    for (id, name) in &image.names {
        writeln!(text, "name      {id:<28} {}", shown(name)).expect("text");
    }
    text
}

fn family<A: Of>(image: &Image, text: &mut String) {
    for (key, frontend) in &A::side(image).frontends {
        let what = format!("{:?} {:?}/{}", key.addr, key.port, key.proto);
        let table = |table: Table| format!("{}+{}", table.at, table.len);
        let mut line = format!("frontend  {what:<28} name {} table {}", frontend.service, table(frontend.inside));
        if frontend.outside != frontend.inside {
            write!(line, " outside {}", table(frontend.outside)).expect("text");
        }
        if frontend.kind() != Kind::ClusterIp {
            write!(line, " {}", frontend.kind().name()).expect("text");
        }
        let flags = [
            (frontend::ELSEWHERE_INSIDE, " drops-inside"),
            (frontend::ELSEWHERE_OUTSIDE, " drops-outside"),
            (frontend::SOURCE_RANGES, " ranges"),
            (frontend::OWN_ADDRESS, " own"),
            (frontend::LOCAL, " Local"),
        ];
        line.extend(flags.iter().filter(|(bit, _)| frontend.flags & bit != 0).map(|(_, word)| *word));
        if frontend.affinity > 0 {
            write!(line, " stays {}", frontend.affinity).expect("text");
        }
        writeln!(text, "{line}").expect("text");
    }
    for (id, backend) in &A::side(image).backends {
        let local = if backend.flags & backend::LOCAL != 0 { " local" } else { "" };
        writeln!(text, "backend   {id:<28} {:?} {:?}{local}", backend.addr, backend.port).expect("text");
    }
    for (range, len) in &A::side(image).ranges {
        let range_of = format!("{:?}/{}", range.addr, len - 32);
        writeln!(text, "range     {range_of:<28} name {}", range.service).expect("text");
    }
}

/// Plays a script; the script as it should read.
fn play(text: &str) -> String {
    let mut script = Script::new();
    let mut played = String::new();
    let (head, steps) = text.split_at(text.find("#=").unwrap_or(text.len()));
    played.push_str(head);
    for step in steps.split_inclusive("\n#=").map(|step| step.trim_end_matches("#=")) {
        let (line, body) = step.trim_start_matches("#=").split_once('\n').expect("a step is a line");
        let words: Vec<_> = line.split_whitespace().collect();
        writeln!(played, "#={line}").expect("text");
        match script.step(&words, body) {
            None => played.push_str(body),
            Some(shown) => writeln!(played, "{shown}").expect("text"),
        }
    }
    format!("{}\n", played.trim_end())
}

/// Both, line by line, with what differs marked.
fn compared(wanted: &str, found: &str) -> String {
    let (wanted, found): (Vec<_>, Vec<_>) = (wanted.lines().collect(), found.lines().collect());
    let mut text = String::new();
    let (mut w, mut f) = (0, 0);
    while w < wanted.len() || f < found.len() {
        if wanted.get(w) == found.get(f) {
            writeln!(text, "  {}", wanted[w]).expect("text");
            (w, f) = (w + 1, f + 1);
            continue;
        }
        // The next line that stands in both.
        let meet = (w..wanted.len()).find_map(|i| Some((i, (f..found.len()).find(|j| found[*j] == wanted[i])?)));
        let (to_w, to_f) = meet.unwrap_or((wanted.len(), found.len()));
        wanted[w..to_w].iter().for_each(|line| writeln!(text, "- {line}").expect("text"));
        found[f..to_f].iter().for_each(|line| writeln!(text, "+ {line}").expect("text"));
        (w, f) = (to_w, to_f);
    }
    text
}

#[test]
fn every_script_comes_out_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = fs::read_dir(&folder).expect("the scripts").map(|e| e.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "there is no script in {}", folder.display());
    let mut failures = String::new();
    for path in paths {
        let wanted = fs::read_to_string(&path).expect("a script");
        let found = play(&wanted);
        if wanted == found {
            continue;
        }
        if std::env::var_os("SLUICE_REWRITE").is_some() {
            fs::write(&path, &found).expect("the script can be rewritten");
        } else {
            write!(failures, "\n{}\n{}", path.display(), compared(&wanted, &found)).expect("text");
        }
    }
    assert!(failures.is_empty(), "{failures}\n- is expected, + is there; SLUICE_REWRITE=1 writes down what is there");
}
