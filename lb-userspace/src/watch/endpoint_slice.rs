//! `discovery.k8s.io/v1 EndpointSlice`, as Kubernetes writes it.

use std::time::SystemTime;

use jiff::Timestamp;
use lb_common::ip::Family;
use serde::Deserialize;

use super::fields::{Invalid, Metadata, Port, ProtocolField, nullable};
use crate::model;

/// Names the Service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// As at Services: who bears one of these is not for us.
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// An EndpointSlice.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    #[serde(default)]
    pub(super) metadata: Metadata,
    address_type: AddressType,
    #[serde(default, deserialize_with = "nullable")]
    ports: Vec<SlicePort>,
    #[serde(default, deserialize_with = "nullable")]
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Clone, Debug, Deserialize)]
struct SlicePort {
    #[serde(default, deserialize_with = "nullable")]
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    protocol: ProtocolField,
    /// Absent means all ports, which no proxy serves.
    port: Option<Port>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default, deserialize_with = "nullable")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Conditions,
    node_name: Option<String>,
    hints: Option<Hints>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default, deserialize_with = "nullable")]
    for_zones: Vec<Hint>,
    #[serde(default, deserialize_with = "nullable")]
    for_nodes: Vec<Hint>,
}

#[derive(Clone, Debug, Deserialize)]
struct Hint {
    name: String,
}

impl EndpointSlice {
    /// The plain value; none for a slice that is nobody's, another proxy's, or holds host names.
    ///
    /// # Errors
    /// Its fields contradict each other.
    pub fn into_model(self) -> Result<Option<model::EndpointSlice>, Invalid> {
        let name = self.metadata.namespaced()?;
        let labels = &self.metadata.labels;
        let family = match self.address_type {
            AddressType::IPv4 => Family::V4,
            AddressType::IPv6 => Family::V6,
            AddressType::Fqdn => return Ok(None),
        };
        let Some(service) = labels.get(SERVICE_NAME).filter(|_| !NOT_OURS.iter().any(|key| labels.contains_key(*key)))
        else {
            return Ok(None);
        };
        let ports = self.ports.iter().filter_map(|port| {
            let number = port.port?.0;
            Some(model::EndpointPort { name: (*port.name).into(), protocol: port.protocol.into(), port: number })
        });
        let endpoints = self.endpoints.iter().enumerate().map(|(i, endpoint)| {
            endpoint.model(family).map_err(|message| Invalid::new(format!("endpoints[{i}].addresses[0]"), message))
        });
        Ok(Some(model::EndpointSlice {
            service: service.as_str().into(),
            family,
            ports: ports.collect(),
            endpoints: endpoints.collect::<Result<_, _>>()?,
            trigger: trigger(&self.metadata),
            name,
        }))
    }
}

/// A time that nobody can read makes no slice worse.
fn trigger(metadata: &Metadata) -> model::Trigger {
    let time = metadata.annotations.last_change_trigger.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    model::Trigger(time.map(SystemTime::from))
}

impl Endpoint {
    fn model(&self, family: Family) -> Result<model::Endpoint, String> {
        let text = self.addresses.first().ok_or("is missing")?;
        let address: std::net::IpAddr = text.parse().map_err(|_| format!("`{text}` is not an IP address"))?;
        if address.is_ipv4() != (family == Family::V4) {
            return Err(format!("{address} is not of the slice's addressType"));
        }
        let Conditions { ready, serving, terminating } = self.conditions;
        let all = |hints: &[Hint]| hints.iter().map(|hint| hint.name.as_str().into()).collect();
        Ok(model::Endpoint {
            address,
            // What the API's documentation tells consumers to make of an absent condition.
            ready: ready.unwrap_or(true),
            serving: serving.unwrap_or(true),
            terminating: terminating.unwrap_or(false),
            node: self.node_name.as_deref().map(Into::into),
            hints: self
                .hints
                .as_ref()
                .map(|hints| Box::new(model::Hints { nodes: all(&hints.for_nodes), zones: all(&hints.for_zones) })),
        })
    }
}
