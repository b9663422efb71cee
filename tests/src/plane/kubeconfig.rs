//! Kubeconfigs: where the API server is, and who asks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Authority, Identity, Plane};

/// A user by certificate.
pub(super) fn certificate(identity: &Identity) -> Value {
    json!({ "client-certificate": identity.certificate, "client-key": identity.key })
}

/// Writes a kubeconfig, in the JSON that YAML includes.
pub(super) fn write(path: &Path, authority: &Authority, url: &str, user: &Value) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "lab",
            "cluster": { "server": url, "certificate-authority": authority.certificate() },
        }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "user" } }],
        "current-context": "lab",
    });
    fs::write(path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

impl Plane<'_> {
    /// A kubeconfig of one who may do everything, at the first API server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.admin.clone()
    }

    /// A kubeconfig with a token of a ServiceAccount, given as `namespace/name`, at the first API server.
    pub fn kubeconfig_for(&self, account: &str) -> Result<PathBuf> {
        let (namespace, name) = account.split_once('/').context("a ServiceAccount is namespace/name")?;
        let token = self.kubectl(&["create", "token", name, "--namespace", namespace])?;
        let path = self.dir.join(format!("{namespace}-{name}.json"));
        write(&path, &self.authority, &Self::url(0), &json!({ "token": token.trim() }))?;
        Ok(path)
    }
}
