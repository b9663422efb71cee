//! `v1 Node`, as Kubernetes writes it.

use serde::Deserialize;

use super::fields::{Invalid, Metadata, nullable};
use crate::model;

/// Names the zone of a node.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A Node.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    status: Status,
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
    /// An internal address is none.
    pub fn into_model(self) -> Result<model::Node, Invalid> {
        let internal = self.status.addresses.iter().enumerate().filter(|(_, address)| address.kind == "InternalIP");
        let addresses = internal.map(|(i, Address { address, .. })| {
            let field = || format!("status.addresses[{i}].address");
            address.parse().map_err(|_| Invalid::new(field(), format!("`{address}` is not an IP address")))
        });
        Ok(model::Node {
            name: self.metadata.clusterwide()?,
            zone: self.metadata.labels.get(ZONE).map(|zone| zone.as_str().into()),
            addresses: addresses.collect::<Result<_, _>>()?,
        })
    }
}
