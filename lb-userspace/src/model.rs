//! What people declared, as plain values: Services, EndpointSlices, Nodes.
//!
//! Knows no Kubernetes types, no tables and no I/O. Holds only what a decision needs, since a node keeps every
//! Service of its cluster in memory.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use lb_common::ip::Family;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace; empty for objects without one.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// From its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{}", self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// The protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name, as Kubernetes writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a Service port leads at the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// To this port.
    Number(u16),
    /// To the container port of this name.
    Name(Arc<str>),
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty for the only port of a Service that has none.
    pub name: Arc<str>,
    /// Its number at the virtual IP.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it leads.
    pub target: TargetPort,
    /// Its number at every node, where it has one.
    pub node_port: Option<u16>,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// A virtual IP inside the cluster.
    #[default]
    ClusterIp,
    /// And a port of every node.
    NodePort,
    /// And virtual IPs for the world.
    LoadBalancer,
    /// A DNS alias: nothing for us.
    ExternalName,
}

/// `spec.internalTrafficPolicy` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Those on the client's node.
    Local,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// Its type.
    pub kind: ServiceType,
    /// Its virtual IPs; none where it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Labels of the pods behind it; none where somebody else writes its EndpointSlices.
    pub selector: Vec<(Arc<str>, Arc<str>)>,
    /// Which endpoints serve clients inside the cluster.
    pub internal_policy: TrafficPolicy,
    /// Whether a client stays with its backend (`sessionAffinity: ClientIP`).
    pub affinity: bool,
    /// Whether pods serve before they are ready.
    pub publish_not_ready: bool,
    /// Whether a label hands this Service to another proxy (`service.kubernetes.io/service-proxy-name`).
    pub other_proxy: bool,
    /// Whether the label `service.kubernetes.io/headless` is there.
    pub headless_label: bool,
}

impl Service {
    /// Whether this is a Service that gets into the tables; the contract lists those that do not.
    pub fn is_programmed(&self) -> bool {
        self.kind != ServiceType::ExternalName
            && !self.other_proxy
            && !self.headless_label
            && !self.cluster_ips.is_empty()
    }
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service port that it belongs to.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number at the pod.
    pub port: u16,
}

/// Whom an endpoint should serve, as its slice's author sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Nodes.
    pub nodes: Vec<Arc<str>>,
    /// Zones.
    pub zones: Vec<Arc<str>>,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address; Kubernetes' consumers use the first one only.
    pub address: IpAddr,
    /// It takes new connections.
    pub ready: bool,
    /// It would, were it not for its going away.
    pub serving: bool,
    /// It is going away.
    pub terminating: bool,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// Whom it should serve, where somebody said so.
    pub hints: Option<Box<Hints>>,
}

/// A part of a Service's endpoints, all of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The Service it belongs to, in the same namespace.
    pub service: Arc<str>,
    /// The family of its addresses.
    pub family: Family,
    /// Its ports, for each endpoint alike.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// What made its author write it.
    pub trigger: Trigger,
}

/// When the pod or Service changed because of which a slice was written, as its author says
/// (`endpoints.kubernetes.io/last-change-trigger-time`): what programming latency is counted from.
///
/// It is no part of what a slice says: any two are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trigger(pub Option<SystemTime>);

impl PartialEq for Trigger {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Trigger {}

impl EndpointSlice {
    /// The full name of the Service it belongs to.
    pub fn owner(&self) -> ObjectName {
        ObjectName { namespace: self.name.namespace.clone(), name: self.service.clone() }
    }
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: ObjectName,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Its addresses inside the cluster.
    pub addresses: Vec<IpAddr>,
    /// Its addresses outside of it.
    pub external: Vec<IpAddr>,
    /// Where the addresses of its pods are from.
    pub pod_cidrs: Vec<Cidr>,
    /// Whether it is being deleted, or is to be by the cluster's autoscaler.
    pub leaving: bool,
}

impl Node {
    /// A node of which nothing else is known.
    pub fn new(name: ObjectName) -> Self {
        Self { name, zone: None, addresses: vec![], external: vec![], pod_cidrs: vec![], leaving: false }
    }
}

/// A range that virtual IPs are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name.
    pub name: ObjectName,
    /// One range of each family.
    pub cidrs: Vec<Cidr>,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// Its first address.
    pub first: IpAddr,
    /// How many leading bits all of its addresses share.
    pub len: u8,
}

/// A text is no range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a range of addresses, such as 10.96.0.0/16")]
pub struct NoCidr;

impl FromStr for Cidr {
    type Err = NoCidr;

    fn from_str(text: &str) -> Result<Self, NoCidr> {
        let (first, len) = text.split_once('/').ok_or(NoCidr)?;
        let (first, len): (IpAddr, u8) = (first.parse().map_err(|_| NoCidr)?, len.parse().map_err(|_| NoCidr)?);
        let (bits, width) = match first {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        let own = u32::checked_sub(width, len.into()).ok_or(NoCidr)?;
        // No bit may be set beyond the prefix: Kubernetes refuses such ranges, too.
        (bits.trailing_zeros() >= own).then_some(Self { first, len }).ok_or(NoCidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_no_bits_beyond_its_prefix() {
        for (text, fits) in [
            ("10.96.0.0/16", true),
            ("10.96.0.1/32", true),
            ("0.0.0.0/0", true),
            ("fd00:96::/112", true),
            ("::/0", true),
            ("::1/128", true),
            ("10.96.0.1/16", false),
            ("fd00::1/64", false),
            ("10.96.0.0/33", false),
            ("::/129", false),
            ("::/255", false),
            ("10.96.0.0", false),
            ("10.96.0.0/", false),
            ("web/16", false),
        ] {
            assert_eq!(text.parse::<Cidr>().is_ok(), fits, "{text}");
        }
    }
}
