//! `networking.k8s.io/v1 ServiceCIDR`, as Kubernetes writes it.

use serde::Deserialize;

use super::fields::{CidrField, Invalid, Metadata, nullable};
use crate::model;

/// A ServiceCIDR.
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceCidr {
    #[serde(default)]
    pub(super) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Spec {
    #[serde(default, deserialize_with = "nullable")]
    cidrs: Vec<CidrField>,
}

impl ServiceCidr {
    /// The plain value.
    ///
    /// # Errors
    /// It has no name.
    pub fn into_model(self) -> Result<model::ServiceCidr, Invalid> {
        let cidrs = self.spec.cidrs.iter().map(|cidr| cidr.0).collect();
        Ok(model::ServiceCidr { name: self.metadata.clusterwide()?, cidrs })
    }
}
