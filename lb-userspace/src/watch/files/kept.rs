//! What each file last held when it made sense, kept for the next agent: a file that broke while none ran takes
//! nothing away either. One copy a file, under the file's own name, in a folder of the agent's.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

use super::folder::Name;
use super::manifest::{self, Manifest};

/// Says that every file that ever held something has a copy. No manifest's name begins with a dot.
const COMPLETE: &str = ".complete";

/// Copies of files, beyond the life of an agent.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    complete: bool,
}

impl Kept {
    /// Copies in a folder, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self { complete: folder.join(COMPLETE).exists(), folder }
    }

    /// Whether a file without a copy never held anything. Where it is not so, nobody knows what such a file held.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Nothing is in force that came from a file.
    pub fn start_afresh(&mut self) {
        self.complete = true;
    }

    /// What a file held when it last made sense; none where nobody knows.
    pub(super) fn recall(&self, name: &OsStr) -> Option<Manifest> {
        match fs::read_to_string(self.folder.join(name)) {
            Ok(text) => manifest::parse(&text).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.complete.then(Manifest::default),
            Err(_) => None,
        }
    }

    /// Keeps the text of a file that makes sense.
    pub(super) fn keep(&self, name: &OsStr, text: &str) -> io::Result<()> {
        let copy = self.folder.join(name);
        match fs::read(&copy).is_ok_and(|kept| kept == text.as_bytes()) {
            true => Ok(()),
            false => self.replace(&copy, text),
        }
    }

    /// A file is gone.
    pub(super) fn forget(&self, name: &OsStr) {
        match fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("cannot remove the copy of {} from {}: {error}", name.display(), self.folder.display());
            }
            _ => {}
        }
    }

    /// All files that are there have their copies or never held anything: these, and no others, are kept.
    pub(super) fn complete<'a>(&mut self, listed: impl Iterator<Item = &'a Name>) {
        if let Err(error) = self.prune(&listed.map(|name| &**name).collect()) {
            warn!("cannot remove copies of manifests from {}: {error}", self.folder.display());
        }
        self.complete = true;
        let mark = self.folder.join(COMPLETE);
        if !mark.exists()
            && let Err(error) = self.replace(&mark, "")
        {
            warn!("cannot keep copies of manifests in {}: {error}", self.folder.display());
        }
    }

    /// Whoever is killed meanwhile leaves the old text or the new one.
    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        // An agent that moves to another address has two sources for a moment.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.folder)?;
        let new = self.folder.join(format!(".new-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&new, text).and_then(|()| fs::rename(&new, path))
    }

    fn prune(&self, listed: &HashSet<&OsStr>) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name();
            if name != COMPLETE && !listed.contains(&*name) {
                fs::remove_file(self.folder.join(name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n";

    fn held(kept: &Kept, name: &str) -> Option<usize> {
        kept.recall(OsStr::new(name)).map(|manifest| manifest.objects.len())
    }

    #[test]
    fn a_file_without_a_copy_is_unknown_until_all_have_been_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("copies");
        let mut kept = Kept::new(&folder);
        kept.keep(OsStr::new("a.yaml"), TEXT).unwrap();
        assert_eq!((held(&kept, "a.yaml"), held(&kept, "b.yaml")), (Some(1), None));
        kept.complete([Name::from(OsStr::new("a.yaml"))].iter());
        let kept = Kept::new(&folder);
        assert_eq!((held(&kept, "a.yaml"), held(&kept, "b.yaml")), (Some(1), Some(0)));
    }

    #[test]
    fn copies_of_files_that_are_gone_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::new(folder.path());
        let names = ["a.yaml", "b.yaml"].map(|name| Name::from(OsStr::new(name)));
        names.iter().for_each(|name| kept.keep(name, TEXT).unwrap());
        fs::write(folder.path().join(".new-7"), "half a tex").unwrap();
        kept.complete(names[1..].iter());
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [COMPLETE, "b.yaml"]);
    }

    #[test]
    fn a_copy_that_makes_no_sense_is_no_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::new(folder.path());
        kept.start_afresh();
        fs::write(folder.path().join("a.yaml"), "kind: [").unwrap();
        assert_eq!(held(&kept, "a.yaml"), None);
    }
}
