//! One file: whether it changed, whether somebody writes in it, and its text.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::lease::has_writer;

/// Clocks of file systems are coarse: a file that changed so shortly before it was read may change again without its
/// times showing it.
const COARSE: Duration = Duration::from_millis(50);

/// What came of looking at a file.
#[derive(Debug)]
pub(super) enum Found {
    /// There is none of this name.
    Nothing,
    /// It is what it was.
    Same,
    /// Somebody has it open and may not be done.
    Writing,
    /// It is another, and reads so.
    Text(String, Stamp),
    /// It cannot be read.
    Unreadable(String),
}

/// Tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Looks at a file that last had the stamp `before`. With `patient`, one that has a writer is not read.
pub(super) fn look(path: &Path, before: Option<Stamp>, patient: bool) -> Found {
    let unreadable = |error: io::Error| Found::Unreadable(format!("cannot read the file: {error}"));
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Found::Nothing,
        // To open a pipe would wait for a writer for ever.
        Ok(metadata) if !metadata.is_file() => return Found::Unreadable("it is no file".into()),
        Ok(metadata) if before == Some(Stamp::of(&metadata)) => return Found::Same,
        Ok(_) => {}
        // A link that leads nowhere is there.
        Err(_) if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) => {
            return Found::Nothing;
        }
        Err(error) => return unreadable(error),
    }
    let read = || {
        let mut file = File::open(path)?;
        if patient && has_writer(&file) {
            return Ok(Found::Writing);
        }
        let stamp = Stamp::of(&file.metadata()?);
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(Found::Text(text, stamp))
    };
    read().unwrap_or_else(unreadable)
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a later change is sure to give another stamp.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::new(self.changed.0.try_into().unwrap_or(0), self.changed.1.try_into().unwrap_or(0));
        now.checked_sub(changed).is_some_and(|age| age > COARSE)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_stamp_is_trusted_only_once_its_time_has_passed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(&fs::metadata(file.path()).unwrap());
        let changed = SystemTime::UNIX_EPOCH + Duration::new(stamp.changed.0.unsigned_abs(), 0);
        assert!(!stamp.is_settled(changed));
        assert!(stamp.is_settled(changed + Duration::from_secs(2)));
    }

    #[test]
    fn whoever_reads_waits_for_a_writer_unless_impatient() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"half").unwrap();
        assert!(matches!(look(file.path(), None, true), Found::Writing));
        assert!(matches!(look(file.path(), None, false), Found::Text(text, _) if text == "half"));
        let path = file.into_temp_path();
        assert!(matches!(look(&path, None, true), Found::Text(text, _) if text == "half"));
    }
}
