//! Field types that Kubernetes' objects share. Each refuses a wrong value where it is read, so that the error knows
//! its line and its path.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::model::{Cidr, ObjectName, Protocol};

/// A field whose value contradicts another's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// Its path, such as `spec.ports[0].port`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Invalid {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// `metadata` of an object.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    name: Option<Name>,
    namespace: Option<Name>,
    /// What a watch goes on from.
    pub(super) resource_version: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) deletion_timestamp: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) annotations: Annotations,
}

/// Those annotations that matter.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub(super) struct Annotations {
    /// Of an EndpointSlice: when happened what made its author write it.
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub(super) last_change_trigger: Option<String>,
}

impl Metadata {
    /// The name of an object that lives in a namespace: `default`, where none is given.
    pub(super) fn namespaced(&self) -> Result<ObjectName, Invalid> {
        let namespace = self.namespace.as_ref().map_or("default", |name| &name.0);
        Ok(ObjectName::new(namespace, self.name()?))
    }

    /// Name and namespace, as they are written.
    pub(super) fn names(&self) -> (Option<&str>, Option<&str>) {
        (self.name.as_ref().map(|name| &*name.0), self.namespace.as_ref().map(|name| &*name.0))
    }

    /// The name of an object without a namespace.
    pub(super) fn clusterwide(&self) -> Result<ObjectName, Invalid> {
        Ok(ObjectName::new("", self.name()?))
    }

    fn name(&self) -> Result<&str, Invalid> {
        self.name.as_ref().map(|name| &*name.0).ok_or_else(|| Invalid::new("metadata.name", "is missing"))
    }
}

/// An absent field, as people also write it: `ports:` or `ports: null`.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(field: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(field)?.unwrap_or_default())
}

/// An address as Kubernetes once let it pass: numbers of IPv4 may begin with zeros, which mean nothing.
pub(super) fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let clean = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u8>().ok())?;
    let bytes: Vec<_> = text.split('.').map(clean).collect::<Option<_>>()?;
    Some(<[u8; 4]>::try_from(bytes).ok()?.into())
}

/// A range as Kubernetes once let it pass: as [`sloppy_ip`], and bits beyond the prefix mean nothing.
pub(super) fn sloppy_cidr(text: &str) -> Option<Cidr> {
    let (ip, len) = text.split_once('/')?;
    let digits = len.bytes().all(|b| b.is_ascii_digit());
    Cidr::around(sloppy_ip(ip)?, len.parse().ok().filter(|_| digits)?)
}

macro_rules! text_field {
    ($name:ident($inner:ty), $expecting:literal, $parse:expr) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(field: D) -> Result<Self, D::Error> {
                struct Read;
                impl serde::de::Visitor<'_> for Read {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        let parse: fn(&str) -> Option<$inner> = $parse;
                        parse(text).map($name).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
                    }
                }
                field.deserialize_str(Read)
            }
        }
    };
}

pub(super) use text_field;

/// A name of an object (RFC 1123 subdomain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

text_field!(Name(String), "a name of 1 to 253 small letters, digits, '-' and '.'", |text| {
    let fits = (1..=253).contains(&text.len());
    let clean = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    (fits && clean).then(|| text.to_owned())
});

/// An IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ip(pub(super) IpAddr);

text_field!(Ip(IpAddr), "an IP address", |text| text.parse().ok());

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CidrField(pub(super) Cidr);

text_field!(CidrField(Cidr), "a range of addresses, such as 10.96.0.0/16", |text| text.parse().ok());

/// A virtual IP: `None` for a headless Service, empty where none was given yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClusterIp(pub(super) Option<IpAddr>);

text_field!(ClusterIp(Option<IpAddr>), "an IP address or None", |text| match text {
    "None" | "" => Some(None),
    text => Some(Some(text.parse().ok()?)),
});

/// A port number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port(pub(super) u16);

/// A port number, or the name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortOrName {
    Port(u16),
    Name(String),
}

/// Reads both: Kubernetes tells them apart by their type.
struct PortVisitor {
    names: bool,
}

impl Visitor<'_> for PortVisitor {
    type Value = PortOrName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.names {
            true => "a port from 1 to 65535, or a port's name",
            false => "a port from 1 to 65535",
        })
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<PortOrName, E> {
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(PortOrName::Port(port)),
            _ => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<PortOrName, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(-1))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PortOrName, E> {
        match self.names && text.bytes().any(|b| b.is_ascii_lowercase()) {
            true => Ok(PortOrName::Name(text.to_owned())),
            false => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(field: D) -> Result<Self, D::Error> {
        match field.deserialize_any(PortVisitor { names: false })? {
            PortOrName::Port(port) => Ok(Self(port)),
            PortOrName::Name(_) => Err(de::Error::custom("a port has no name here")),
        }
    }
}

impl<'de> Deserialize<'de> for PortOrName {
    fn deserialize<D: Deserializer<'de>>(field: D) -> Result<Self, D::Error> {
        field.deserialize_any(PortVisitor { names: true })
    }
}

/// `protocol` of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum ProtocolField {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl From<ProtocolField> for Protocol {
    fn from(field: ProtocolField) -> Self {
        match field {
            ProtocolField::Tcp => Self::Tcp,
            ProtocolField::Udp => Self::Udp,
            ProtocolField::Sctp => Self::Sctp,
        }
    }
}
