//! The pod of the DaemonSet, as its manifest describes it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use sluice_tests::lab::Lab;

/// A file of the checkout.
pub(crate) fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// All documents of a YAML text.
pub(crate) fn documents(yaml: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).context("this is no YAML")?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

/// A pod of the manifests.
pub(crate) struct Pod(Value);

impl Pod {
    /// The agent's.
    pub(crate) fn agent() -> Result<Self> {
        Self::read("deploy/kustomize/daemonset.yaml")
    }

    /// The one that takes Sluice away.
    pub(crate) fn uninstall() -> Result<Self> {
        Self::read("deploy/uninstall.yaml")
    }

    fn read(path: &str) -> Result<Self> {
        let text = std::fs::read_to_string(file(path)).with_context(|| format!("cannot read {path}"))?;
        let [daemon_set] = &documents(&text)?[..] else { anyhow::bail!("{path} is not one document") };
        Ok(Self(daemon_set["spec"]["template"]["spec"].clone()))
    }

    /// The container that runs `sluice`.
    fn container(&self) -> &Value {
        let init = &self.0["initContainers"][0];
        if init.is_null() { &self.0["containers"][0] } else { init }
    }

    /// What it may do beyond a process without any right, without the prefix `CAP_`.
    pub(crate) fn capabilities(&self) -> Vec<String> {
        let capabilities = &self.container()["securityContext"]["capabilities"];
        assert_eq!(capabilities["drop"], serde_json::json!(["ALL"]));
        texts(&capabilities["add"])
    }

    /// The arguments after the entry point.
    pub(crate) fn arguments(&self) -> Vec<String> {
        texts(&self.container()["args"])
    }

    /// What the kubelet asks: the kind of probe, path and port.
    pub(crate) fn probes(&self) -> Result<Vec<(&'static str, String, u16)>> {
        let probe = |kind| {
            let get = &self.container()[kind]["httpGet"];
            let path = get["path"].as_str().with_context(|| format!("no {kind}"))?;
            let port = get["port"].as_u64().and_then(|port| u16::try_from(port).ok()).context("no port")?;
            Ok((kind, path.to_owned(), port))
        };
        ["livenessProbe", "readinessProbe"].into_iter().map(probe).collect()
    }

    /// Where in the container which folder of the lab stands for the node's, and whether it can be written.
    pub(crate) fn mounts(&self, lab: &Lab) -> Result<Vec<(PathBuf, String, bool)>> {
        let mounts = self.container()["volumeMounts"].as_array().context("no mounts")?;
        mounts.iter().map(|mount| self.mount(mount, lab)).collect()
    }

    fn mount(&self, mount: &Value, lab: &Lab) -> Result<(PathBuf, String, bool)> {
        let volumes = self.0["volumes"].as_array().context("no volumes")?;
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).context("a mount of no volume")?;
        let on_node = match volume["hostPath"]["path"].as_str() {
            Some("/sys/fs/bpf") => lab.bpffs(),
            Some("/run/sluice") => lab.run_dir(),
            Some("/sys/fs/cgroup") => lab.cgroup().to_owned(),
            other => anyhow::bail!("the lab has no {other:?}"),
        };
        let inside = mount["mountPath"].as_str().context("a mount without a path")?;
        Ok((on_node, inside.to_owned(), mount["readOnly"] != true))
    }

    /// Whether it has what the lab's container runtime is told: the node's network, a root that nobody writes, the
    /// runtime's seccomp profile, and no way to more rights.
    pub(crate) fn is_confined(&self) -> bool {
        let context = &self.container()["securityContext"];
        self.0["hostNetwork"] == true
            && self.0["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
            && context["readOnlyRootFilesystem"] == true
            && context["allowPrivilegeEscalation"] == false
            && context["privileged"].is_null()
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
