//! `v1 Node`, as Kubernetes writes it.

use std::net::IpAddr;

use serde::Deserialize;

use super::fields::{CidrField, Invalid, Metadata, nullable};
use crate::model;

/// Names the zone of a node.
const ZONE: &str = "topology.kubernetes.io/zone";
/// What the cluster's autoscaler taints a node with before it deletes it.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    #[serde(default)]
    pub(super) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<CidrField>,
    #[serde(rename = "podCIDRs", default, deserialize_with = "nullable")]
    pod_cidrs: Vec<CidrField>,
    #[serde(default, deserialize_with = "nullable")]
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Deserialize)]
struct Taint {
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    #[serde(default, deserialize_with = "nullable")]
    addresses: Vec<Address>,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Node {
    /// The plain value.
    ///
    /// # Errors
    /// An address is none.
    pub fn into_model(self) -> Result<model::Node, Invalid> {
        let Self { metadata, spec, status } = self;
        let pod_cidrs = spec.pod_cidrs.iter().chain(spec.pod_cidr.iter().filter(|_| spec.pod_cidrs.is_empty()));
        Ok(model::Node {
            name: metadata.clusterwide()?,
            zone: metadata.labels.get(ZONE).map(|zone| zone.as_str().into()),
            addresses: status.of_kind("InternalIP")?,
            external: status.of_kind("ExternalIP")?,
            pod_cidrs: pod_cidrs.map(|cidr| cidr.0).collect(),
            leaving: metadata.deletion_timestamp.is_some()
                || spec.taints.iter().any(|taint| taint.key == TO_BE_DELETED),
        })
    }
}

impl Status {
    fn of_kind(&self, wanted: &str) -> Result<Vec<IpAddr>, Invalid> {
        let those = self.addresses.iter().enumerate().filter(|(_, address)| address.kind == wanted);
        let parsed = those.map(|(i, Address { address, .. })| {
            let field = || format!("status.addresses[{i}].address");
            address.parse().map_err(|_| Invalid::new(field(), format!("`{address}` is not an IP address")))
        });
        parsed.collect()
    }
}
