//! `v1 Pod`, as Kubernetes writes it. Only manifests have them: in a cluster, its control plane makes EndpointSlices
//! of pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::fields::{Invalid, Ip, Metadata, Port, ProtocolField, nullable};
use crate::model::{ObjectName, Protocol};

/// What a Service must know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The named ports of its containers.
    pub ports: Vec<(String, Protocol, u16)>,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// It answers.
    pub ready: bool,
    /// It is going away.
    pub terminating: bool,
    /// It has ended and will not come back.
    pub finished: bool,
}

/// A Pod, as it is read.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(default, deserialize_with = "nullable")]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    restart_policy: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    #[serde(default, deserialize_with = "nullable")]
    name: String,
    container_port: Port,
    #[serde(default, deserialize_with = "nullable")]
    protocol: ProtocolField,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<Phase>,
    #[serde(rename = "podIP")]
    pod_ip: Option<Ip>,
    #[serde(rename = "podIPs", default, deserialize_with = "nullable")]
    pod_ips: Vec<PodIp>,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    ip: Ip,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: Truth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Truth {
    True,
    False,
    Unknown,
}

impl Manifest {
    /// The plain value.
    ///
    /// # Errors
    /// It has no name.
    pub fn into_pod(self) -> Result<Pod, Invalid> {
        let Self { metadata, spec, status } = self;
        // Sidecars are init containers that stay (KEP 753).
        let sidecars = spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
        let named = ports.filter(|port| !port.name.is_empty());
        Ok(Pod {
            name: metadata.namespaced()?,
            ports: named.map(|port| (port.name.clone(), port.protocol.into(), port.container_port.0)).collect(),
            node: spec.node_name.as_deref().map(Into::into),
            addresses: match status.pod_ips.is_empty() {
                true => status.pod_ip.iter().map(|ip| ip.0).collect(),
                false => status.pod_ips.iter().map(|pod| pod.ip.0).collect(),
            },
            ready: status.ready(),
            terminating: metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase, Some(Phase::Succeeded | Phase::Failed)),
            labels: metadata.labels,
        })
    }
}

impl Status {
    /// By the condition Ready. A manifest written by hand has no conditions: then by its phase, if it says one.
    fn ready(&self) -> bool {
        match self.conditions.is_empty() {
            true => matches!(self.phase, None | Some(Phase::Running)),
            false => self.conditions.iter().any(|c| c.kind == "Ready" && c.status == Truth::True),
        }
    }
}
