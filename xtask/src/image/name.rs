//! The name of an image, as containerd and the kubelet compare it: whole, with registry and tag.
use std::{fmt, str::FromStr};

/// `registry/path:tag`.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    whole: String,
    /// Where the tag begins in it.
    tag_at: usize,
}

impl Name {
    /// Of this machine, until somebody names a registry: the archive goes straight to nodes.
    pub(super) fn of_version(version: &str) -> Self {
        format!("localhost/sluice:{version}").parse().expect("a version is a valid tag")
    }

    /// What follows the colon.
    pub(super) fn tag(&self) -> &str {
        &self.whole[self.tag_at..]
    }
}

impl FromStr for Name {
    type Err = String;

    /// A short name (`sluice:dev`) would fail late: `ctr` imports it as it stands, but the kubelet completes it with the
    /// registry of Docker before it asks. So it is refused here.
    fn from_str(whole: &str) -> Result<Self, String> {
        let (registry, rest) = whole.split_once('/').ok_or("a registry must come first, as in localhost/sluice:dev")?;
        if !(registry == "localhost" || registry.contains(['.', ':'])) {
            return Err(format!("{registry:?} is not a registry: it is neither localhost nor has a dot or a port"));
        }
        let (path, tag) = rest.rsplit_once(':').ok_or("a tag must come last, as in localhost/sluice:dev")?;
        let in_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        if path.is_empty() || !path.chars().all(in_path) {
            return Err(format!("{path:?} may hold lower case letters, digits and ._-/ only"));
        }
        let in_tag = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if tag.is_empty() || tag.len() > 128 || tag.starts_with(['.', '-']) || !tag.chars().all(in_tag) {
            return Err(format!("{tag:?} is not a tag: letters, digits and ._- only, 128 at most"));
        }
        Ok(Self { whole: whole.to_owned(), tag_at: whole.len() - tag.len() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_name_is_taken() {
        for (name, tag) in [
            ("example.com/lb/sluice:0.1.0", Some("0.1.0")),
            ("localhost/sluice:dev", Some("dev")),
            ("registry:5000/sluice:a_B-1", Some("a_B-1")),
            ("sluice:dev", None),
            ("library/sluice:dev", None),
            ("example.com/lb/sluice", None),
            ("registry:5000/sluice", None),
            ("example.com/Sluice:dev", None),
            ("example.com/sluice:", None),
            ("example.com/sluice:-x", None),
            ("example.com/:dev", None),
            ("example.com/sluice@sha256:00", None),
        ] {
            let parsed = name.parse::<Name>();
            assert_eq!(parsed.as_ref().ok().map(Name::tag), tag, "{name}: {parsed:?}");
        }
    }
}
