//! One object of a manifest, of whatever kind, through serde.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::endpoint_slice::EndpointSlice;
use super::node::Node;
use super::pod;
use super::service::Service;
use super::service_cidr::ServiceCidr;

/// What an object is: all that is read of it in a first pass. The second one then knows which type to expect, so
/// that an error names the very field, which serde's own ways to choose a type cannot do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    pub(super) api_version: Option<String>,
    pub(super) kind: Option<String>,
    #[serde(default)]
    metadata: Option<HeadMetadata>,
    #[serde(default)]
    pub(super) items: Option<Vec<Head>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct HeadMetadata {
    name: Option<String>,
    namespace: Option<String>,
}

/// The kinds that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Pod,
    Node,
    ServiceCidr,
    List,
    Other,
}

impl Head {
    pub(super) fn kind(&self) -> Kind {
        match (self.api_version.as_deref().unwrap_or_default(), self.kind.as_deref().unwrap_or_default()) {
            ("v1", "Service") => Kind::Service,
            ("discovery.k8s.io/v1", "EndpointSlice") => Kind::EndpointSlice,
            ("v1", "Pod") => Kind::Pod,
            ("v1", "Node") => Kind::Node,
            ("networking.k8s.io/v1", "ServiceCIDR") => Kind::ServiceCidr,
            ("v1", "List" | "ServiceList" | "PodList" | "NodeList") => Kind::List,
            ("discovery.k8s.io/v1", "EndpointSliceList") | ("networking.k8s.io/v1", "ServiceCIDRList") => Kind::List,
            _ => Kind::Other,
        }
    }

    /// As people call it: `Service default/web`.
    pub(super) fn title(&self) -> Option<String> {
        let kind = self.kind.as_deref()?;
        let Some(HeadMetadata { name: Some(name), namespace }) = &self.metadata else { return Some(kind.to_owned()) };
        Some(match (self.kind(), namespace) {
            (Kind::Node | Kind::ServiceCidr, _) => format!("{kind} {name}"),
            (_, namespace) => format!("{kind} {}/{name}", namespace.as_deref().unwrap_or("default")),
        })
    }
}

/// An object as it was read.
#[derive(Debug)]
pub(super) enum Raw {
    Service(Service),
    EndpointSlice(EndpointSlice),
    Pod(pod::Manifest),
    Node(Node),
    ServiceCidr(ServiceCidr),
    List(Vec<Raw>),
    Other,
}

/// Reads an object whose head is known.
pub(super) struct Expect<'a>(pub(super) &'a Head);

impl<'de> DeserializeSeed<'de> for Expect<'_> {
    type Value = Raw;

    fn deserialize<D: Deserializer<'de>>(self, object: D) -> Result<Raw, D::Error> {
        Ok(match self.0.kind() {
            Kind::Service => Raw::Service(Service::deserialize(object)?),
            Kind::EndpointSlice => Raw::EndpointSlice(EndpointSlice::deserialize(object)?),
            Kind::Pod => Raw::Pod(pod::Manifest::deserialize(object)?),
            Kind::Node => Raw::Node(Node::deserialize(object)?),
            Kind::ServiceCidr => Raw::ServiceCidr(ServiceCidr::deserialize(object)?),
            Kind::List => Raw::List(object.deserialize_map(self)?),
            Kind::Other => IgnoredAny::deserialize(object).map(|_| Raw::Other)?,
        })
    }
}

impl<'de> Visitor<'de> for Expect<'_> {
    type Value = Vec<Raw>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Vec<Raw>, M::Error> {
        let mut raws = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match (&*key, &self.0.items) {
                ("items", Some(heads)) => raws = map.next_value_seed(Items(heads))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(raws)
    }
}

struct Items<'a>(&'a [Head]);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Vec<Raw>;

    fn deserialize<D: Deserializer<'de>>(self, items: D) -> Result<Vec<Raw>, D::Error> {
        items.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Vec<Raw>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Vec<Raw>, S::Error> {
        let mut raws = Vec::new();
        for head in self.0 {
            raws.extend(items.next_element_seed(Expect(head))?);
        }
        // The end of the list must be asked for, too.
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(raws)
    }
}
