//! A Service.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::ip::Family;

use super::{Cidr, ObjectName};

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

/// `spec.internalTrafficPolicy` or `spec.externalTrafficPolicy` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Those on the node that the client's packets come to.
    Local,
}

/// Who may call a load balancer's address (`spec.loadBalancerSourceRanges`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRanges {
    /// Clients in these.
    pub ranges: Vec<Cidr>,
    /// Some range could not be read, so that nobody knows of which family it is.
    pub unreadable: bool,
}

impl SourceRanges {
    /// Whom a family's addresses admit; `None` for everybody: no range is of this family, or one holds all of it. A range
    /// that cannot be read opens nothing.
    pub fn of(&self, family: Family) -> Option<impl Iterator<Item = Cidr> + use<'_>> {
        let is_v6 = family == Family::V6;
        let of = move || self.ranges.iter().copied().filter(move |range| range.first.is_ipv6() == is_v6);
        let limited = (of().next().is_some() || self.unreadable) && of().all(|range| range.len > 0);
        limited.then(of)
    }
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
    /// Addresses that lead to this cluster, as its author says (`spec.externalIPs`).
    pub external_ips: Vec<IpAddr>,
    /// Addresses of load balancers that leave them to the nodes (`status.loadBalancer.ingress` of the mode `VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may call these.
    pub source_ranges: SourceRanges,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Labels of the pods behind it; none where somebody else writes its EndpointSlices.
    pub selector: Vec<(Arc<str>, Arc<str>)>,
    /// Which endpoints serve clients of its virtual IPs.
    pub internal_policy: TrafficPolicy,
    /// Which endpoints serve clients from outside of the cluster, at all its other addresses.
    pub external_policy: TrafficPolicy,
    /// Where each node tells load balancers whether it has endpoints (`spec.healthCheckNodePort`).
    pub health_check_port: Option<u16>,
    /// For how many seconds since its last connection a client stays with its backend (`sessionAffinity: ClientIP`).
    pub affinity: Option<u32>,
    /// Whether pods serve before they are ready.
    pub publish_not_ready: bool,
    /// Whether a label hands this Service to another proxy (`service.kubernetes.io/service-proxy-name`).
    pub other_proxy: bool,
    /// Whether the label `service.kubernetes.io/headless` is there.
    pub headless_label: bool,
    /// What of it makes no sense and is left out, in words.
    pub left_out: Vec<Arc<str>>,
}

impl Service {
    /// A Service of which nothing else is known.
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            kind: ServiceType::default(),
            cluster_ips: vec![],
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: SourceRanges::default(),
            ports: vec![],
            selector: vec![],
            internal_policy: TrafficPolicy::default(),
            external_policy: TrafficPolicy::default(),
            health_check_port: None,
            affinity: None,
            publish_not_ready: false,
            other_proxy: false,
            headless_label: false,
            left_out: vec![],
        }
    }

    /// Whether this is a Service that gets into the tables; the contract lists those that do not.
    pub fn is_programmed(&self) -> bool {
        self.kind != ServiceType::ExternalName
            && !self.other_proxy
            && !self.headless_label
            && !self.cluster_ips.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ranges_limit_the_families_that_they_are_of() {
        let rows = [
            ("", false, None, None),
            ("10.0.0.0/8 192.0.2.1/32", false, Some("10.0.0.0/8 192.0.2.1/32"), None),
            ("fd00::/8", false, None, Some("fd00::/8")),
            ("10.0.0.0/8 0.0.0.0/0 fd00::/8", false, None, Some("fd00::/8")),
            ("10.0.0.0/8", true, Some("10.0.0.0/8"), Some("")),
            ("::/0", true, Some(""), None),
        ];
        for (ranges, unreadable, v4, v6) in rows {
            let ranges = ranges.split_whitespace().map(|range| range.parse().unwrap()).collect();
            let all = SourceRanges { ranges, unreadable };
            let shown = |family| Some(all.of(family)?.map(|range| range.to_string()).collect::<Vec<_>>().join(" "));
            assert_eq!((shown(Family::V4).as_deref(), shown(Family::V6).as_deref()), (v4, v6), "{all:?}");
        }
    }
}
