//! `discovery.k8s.io/v1 EndpointSlice`, as Kubernetes writes it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use lb_common::ip::Family;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::fields::{Invalid, Metadata, Port, ProtocolField, nullable, text_field};
use crate::model;

/// Names the Service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Its endpoints are for no virtual IP. The label by which a Service is another proxy's says nothing here: it is the
/// Service that decides.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// An EndpointSlice.
#[derive(Clone, Debug, serde::Deserialize)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Clone, Debug, serde::Deserialize)]
struct SlicePort {
    #[serde(default, deserialize_with = "nullable")]
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    protocol: ProtocolField,
    /// Absent means all ports, which no proxy serves.
    port: Option<Port>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default, deserialize_with = "nullable")]
    addresses: First,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Conditions,
    node_name: Option<NodeName>,
    hints: Option<Hints>,
}

/// The first of an endpoint's addresses, the only one that consumers use; as text, where it is none. A cluster has a
/// hundred thousand of them, so no list is made.
#[derive(Clone, Debug, Default)]
struct First(Option<Result<IpAddr, String>>);

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(field: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = First;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("addresses")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut addresses: S) -> Result<First, S::Error> {
                let first = addresses.next_element::<Address>()?;
                while addresses.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first.map(|address| address.0)))
            }
        }
        field.deserialize_seq(Read)
    }
}

/// An address, or a text that is none.
struct Address(Result<IpAddr, String>);

text_field!(Address(Result<IpAddr, String>), "an address", |text| Some(text.parse().map_err(|_| text.to_owned())));

/// The name of a node.
#[derive(Clone, Debug)]
struct NodeName(Arc<str>);

text_field!(NodeName(Arc<str>), "the name of a node", |text| Some(text.into()));

#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default, deserialize_with = "nullable")]
    for_zones: Vec<Hint>,
    #[serde(default, deserialize_with = "nullable")]
    for_nodes: Vec<Hint>,
}

#[derive(Clone, Debug, serde::Deserialize)]
struct Hint {
    name: String,
}

impl EndpointSlice {
    /// The plain value; none for a slice that is nobody's, for no virtual IP, or holds host names.
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
        let Some(service) = labels.get(SERVICE_NAME).filter(|_| !labels.contains_key(HEADLESS)) else {
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
        let address = match &self.addresses.0 {
            None => return Err("is missing".to_owned()),
            Some(Err(text)) => return Err(format!("`{text}` is not an IP address")),
            Some(Ok(address)) => *address,
        };
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
            node: self.node_name.as_ref().map(|name| name.0.clone()),
            hints: self
                .hints
                .as_ref()
                .map(|hints| Box::new(model::Hints { nodes: all(&hints.for_nodes), zones: all(&hints.for_zones) })),
        })
    }
}
