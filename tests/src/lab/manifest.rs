//! The folder of manifests that the agent reads, and short ways to write what Kubernetes would hold.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::probe::Protocol;
use super::wire::{BULK_PORT, ECHO_PORT, HTTP_PORT, UDP_PORT};

/// A folder of manifests; files appear, change and vanish in one step.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    draft: PathBuf,
}

impl Manifests {
    pub(crate) fn new(lab: &Path) -> Result<Self> {
        let dir = lab.join("manifests");
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, draft: lab.join("draft") })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the file `name`, whole or not at all.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(&self.draft, text).context("cannot write a manifest")?;
        fs::rename(&self.draft, self.dir.join(name)).with_context(|| format!("cannot put the manifest {name}"))
    }

    /// Deletes the file `name`.
    pub fn delete(&self, name: &str) -> Result<()> {
        fs::remove_file(self.dir.join(name)).with_context(|| format!("cannot delete the manifest {name}"))
    }
}

/// A Service with a ClusterIP for each address of `ips`, IPv4 first, and the ports of the lab's servers:
/// `http` 80, `dns` 53/UDP, `bulk` 9000, `echo` 7 with targets by name and by number.
pub fn service(name: &str, ips: &[IpAddr]) -> String {
    let mut text = String::new();
    let families: Vec<_> = ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let policy = if ips.len() > 1 { "PreferDualStack" } else { "SingleStack" };
    let first = ips.first().map(ToString::to_string).unwrap_or_default();
    let _ = write!(
        text,
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: default
spec:
  type: ClusterIP
  clusterIP: \"{first}\"
  clusterIPs: {ips:?}
  ipFamilies: {families:?}
  ipFamilyPolicy: {policy}
  selector:
    app: {name}
  ports:
  - name: http
    protocol: TCP
    port: 80
    targetPort: http
  - name: dns
    protocol: UDP
    port: 53
    targetPort: {UDP_PORT}
  - name: bulk
    protocol: TCP
    port: {BULK_PORT}
    targetPort: {BULK_PORT}
  - name: echo
    protocol: TCP
    port: 7
    targetPort: {ECHO_PORT}
",
        ips = ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
    );
    text
}

/// A running and ready Pod with the label `app`.
pub fn pod(name: &str, app: &str, ips: &[IpAddr]) -> String {
    pod_in_state(name, app, ips, true, false)
}

/// A Pod that may be not ready, or terminating.
pub fn pod_in_state(name: &str, app: &str, ips: &[IpAddr], ready: bool, terminating: bool) -> String {
    let mut text = format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: default\n");
    if terminating {
        text.push_str("  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n  deletionGracePeriodSeconds: 30\n");
    }
    let status = if ready { "True" } else { "False" };
    let _ = write!(
        text,
        "  labels:
    app: {app}
spec:
  nodeName: node
  containers:
  - name: server
    image: example.org/server:1
    ports:
    - name: http
      containerPort: {HTTP_PORT}
      protocol: TCP
status:
  phase: Running
  conditions:
  - type: Ready
    status: \"{status}\"
  podIP: \"{first}\"
  podIPs:
",
        first = ips.first().map(ToString::to_string).unwrap_or_default(),
    );
    for ip in ips {
        let _ = writeln!(text, "  - ip: \"{ip}\"");
    }
    text
}

/// An EndpointSlice of one family for a Service's port `http`, for Services without a selector.
pub fn endpoint_slice(name: &str, service: &str, ips: &[IpAddr]) -> String {
    let family = if ips.iter().all(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" };
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: default
  labels:
    kubernetes.io/service-name: {service}
addressType: {family}
ports:
- name: http
  protocol: TCP
  port: {HTTP_PORT}
endpoints:
"
    );
    for ip in ips {
        let _ =
            writeln!(text, "- addresses: [\"{ip}\"]\n  conditions: {{ready: true, serving: true, terminating: false}}");
    }
    text
}

/// A port of [`service_at`].
#[derive(Clone, Copy, Debug)]
pub struct ServedPort {
    /// Its name.
    pub name: &'static str,
    /// Of the protocol.
    pub protocol: Protocol,
    /// At the ClusterIP.
    pub port: u16,
    /// At the backend.
    pub target: u16,
    /// At the nodes.
    pub node_port: u16,
}

/// A Service `name` of the type NodePort with the ClusterIPs number `n`, and its one backend, which is said to be on `node`:
/// where that is another than the agent's, packets to it leave at once.
pub fn service_at(name: &str, n: u8, node: &str, backend: [IpAddr; 2], ports: &[ServedPort]) -> String {
    let ips = super::cluster_ips(n);
    let rows = |row: fn(&ServedPort) -> Value| ports.iter().map(row).collect::<Vec<_>>();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "type": "NodePort", "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": rows(|port| json!({ "name": port.name, "protocol": port.protocol.name(), "port": port.port,
                                         "targetPort": port.target, "nodePort": port.node_port })),
        },
    });
    let slices = backend.map(|ip| {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": format!("{name}-{family}").to_lowercase(), "namespace": "default",
                          "labels": { "kubernetes.io/service-name": name } },
            "addressType": family,
            "endpoints": [{ "addresses": [ip], "nodeName": node, "conditions": { "ready": true } }],
            "ports": rows(|port| json!({ "name": port.name, "protocol": port.protocol.name(), "port": port.target })),
        })
    });
    let items: Vec<_> = [service].into_iter().chain(slices).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}
