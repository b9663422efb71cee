//! An OCI image layout (image-spec v1.1) with one image of one layer, in a tar.
//!
//! The same input gives the same bytes on every machine: no times, no owners, one order.
use std::io::{self, Write};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::name::Name;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What the labels say of this image.
pub(super) struct Labels<'a> {
    pub(super) version: &'a str,
    /// The commit, where that is known.
    pub(super) revision: Option<String>,
}

/// A finished archive.
pub(super) struct Archive {
    pub(super) bytes: Vec<u8>,
    /// Of the manifest: what names this image for ever.
    pub(super) digest: String,
}

impl Archive {
    /// Packs the binary as `/sluice`.
    pub(super) fn new(binary: &[u8], architecture: &str, name: &Name, labels: &Labels<'_>) -> Result<Self> {
        let mut layout = Layout::default();
        let files = tar(&[("sluice", 0o755, binary)])?;
        let layer = layout.blob(LAYER, gzip(&files)?);
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                // BPF wants capabilities, and those want root.
                "User": "0",
                // So that `kubectl exec … -- sluice status` finds it.
                "Env": ["PATH=/"],
                "Entrypoint": ["/sluice"],
                "Labels": labels_of(labels),
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(&files)]},
        });
        let config = layout.json(CONFIG, &config)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
            "annotations": labels_of(labels),
        });
        let mut manifest = layout.json(MANIFEST, &manifest)?;
        let manifest_digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        // containerd takes the first as the image's name; skopeo and others choose by the second.
        manifest["annotations"] = json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag(),
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
        Ok(Self { bytes: layout.archive(&index)?, digest: manifest_digest })
    }
}

fn labels_of(labels: &Labels<'_>) -> Value {
    let mut all = json!({
        "org.opencontainers.image.title": "sluice",
        "org.opencontainers.image.description": "A Kubernetes Service load balancer in eBPF",
        "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
        // The programs for the kernel are embedded, and under its licence too.
        "org.opencontainers.image.licenses": "(Apache-2.0 OR MIT) AND GPL-2.0-only",
        "org.opencontainers.image.version": labels.version,
    });
    if let Some(revision) = &labels.revision {
        all["org.opencontainers.image.revision"] = json!(revision);
    }
    all
}

/// Blobs, each under its digest.
#[derive(Default)]
struct Layout {
    blobs: Vec<(String, Vec<u8>)>,
}

impl Layout {
    /// Keeps a blob, and returns its descriptor.
    fn blob(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = digest(&content);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": content.len()});
        self.blobs.push((digest.replacen("sha256:", "blobs/sha256/", 1), content));
        descriptor
    }

    fn json(&mut self, media_type: &str, content: &Value) -> Result<Value> {
        Ok(self.blob(media_type, serde_json::to_vec(content).context("cannot write JSON")?))
    }

    fn archive(mut self, index: &Value) -> Result<Vec<u8>> {
        self.blobs.push(("index.json".into(), serde_json::to_vec(index).context("cannot write JSON")?));
        self.blobs.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        self.blobs.sort();
        let files: Vec<_> = self.blobs.iter().map(|(path, content)| (&**path, 0o644, &**content)).collect();
        tar(&files)
    }
}

/// A tar of files, of root and of 1970.
fn tar(files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        header.set_size(content.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, path, *content).with_context(|| format!("cannot pack {path}"))?;
    }
    tar.into_inner().context("cannot end a tar")
}

/// Neither name nor time goes in.
fn gzip(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    gzip.write_all(content)?;
    gzip.finish()
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(revision: &str) -> Archive {
        let labels = Labels { version: "1.2.3", revision: Some(revision.into()) };
        Archive::new(b"binary", "arm64", &"localhost/sluice:dev".parse().unwrap(), &labels).unwrap()
    }

    #[test]
    fn a_digest_is_that_of_fips_180() {
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(b"abc"), abc);
    }

    #[test]
    fn the_same_input_gives_the_same_archive_and_another_one_another() {
        let (one, same, other) = (archive("a"), archive("a"), archive("b"));
        assert_eq!((&one.bytes, &one.digest), (&same.bytes, &same.digest));
        assert_ne!(one.digest, other.digest);
    }

    #[test]
    fn nothing_in_the_archive_has_a_time_or_an_owner() {
        let one = archive("a");
        let mut reader = tar::Archive::new(&*one.bytes);
        let mut paths = Vec::new();
        for entry in reader.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            paths.push(entry.path().unwrap().into_owned());
        }
        assert_eq!(paths.len(), 5, "three blobs, index.json, oci-layout: {paths:?}");
        assert!(paths.is_sorted());
    }
}
