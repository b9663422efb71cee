//! `v1 Service`, as Kubernetes writes it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::external::{Affinity, AffinityConfig, External, Policy, Status};
use super::fields::{ClusterIp, Invalid, Metadata, Port, PortOrName, ProtocolField, nullable};
use crate::model::{self, ServiceType, TargetPort};

/// Who else may serve it (KEP 2447).
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Nobody shall.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Longest name of a Service and of its namespace (RFC 1123 label).
const LABEL: usize = 63;

/// A Service.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
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
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    kind: Type,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<ClusterIp>,
    #[serde(rename = "clusterIPs", default, deserialize_with = "nullable")]
    cluster_ips: Vec<ClusterIp>,
    #[serde(default, deserialize_with = "nullable")]
    ports: Vec<ServicePort>,
    #[serde(default, deserialize_with = "nullable")]
    selector: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    internal_traffic_policy: Policy,
    #[serde(default, deserialize_with = "nullable")]
    session_affinity: Affinity,
    #[serde(default, deserialize_with = "nullable")]
    session_affinity_config: AffinityConfig,
    #[serde(rename = "externalIPs", default, deserialize_with = "nullable")]
    external_ips: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    external_traffic_policy: Policy,
    #[serde(default, deserialize_with = "nullable")]
    load_balancer_source_ranges: Vec<String>,
    health_check_node_port: Option<Port>,
    #[serde(default, deserialize_with = "nullable")]
    publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
    #[serde(default, deserialize_with = "nullable")]
    name: String,
    port: Port,
    #[serde(default, deserialize_with = "nullable")]
    protocol: ProtocolField,
    target_port: Option<PortOrName>,
    node_port: Option<Port>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum Type {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalName,
}

impl Service {
    /// The plain value.
    ///
    /// # Errors
    /// Its fields contradict each other.
    pub fn into_model(self) -> Result<model::Service, Invalid> {
        let Self { metadata, spec, status } = self;
        let name = metadata.namespaced()?;
        if name.name.len() > LABEL || name.namespace.len() > LABEL {
            return Err(Invalid::new("metadata.name", "is longer than 63 characters"));
        }
        let kind = match spec.kind {
            Type::ClusterIP => ServiceType::ClusterIp,
            Type::NodePort => ServiceType::NodePort,
            Type::LoadBalancer => ServiceType::LoadBalancer,
            Type::ExternalName => ServiceType::ExternalName,
        };
        let mut service = model::Service {
            kind,
            cluster_ips: spec.cluster_ips()?,
            ports: spec.ports()?,
            internal_policy: spec.internal_traffic_policy.into(),
            affinity: spec.session_affinity_config.seconds(spec.session_affinity)?,
            selector: spec.selector.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            publish_not_ready: spec.publish_not_ready_addresses,
            other_proxy: metadata.labels.contains_key(PROXY_NAME),
            headless_label: metadata.labels.contains_key(HEADLESS),
            ..model::Service::new(name)
        };
        let external = External {
            ips: spec.external_ips,
            source_ranges: spec.load_balancer_source_ranges,
            policy: spec.external_traffic_policy,
            health_check_port: spec.health_check_node_port,
        };
        external.add_to(&mut service);
        status.add_to(&mut service);
        Ok(service)
    }

    /// Whether it asks for a virtual IP and leaves the choice to someone.
    pub fn awaits_cluster_ip(&self) -> bool {
        let given = self.spec.cluster_ip.is_some() || !self.spec.cluster_ips.is_empty();
        !given && !matches!(self.spec.kind, Type::ExternalName)
    }
}

impl Spec {
    fn cluster_ips(&self) -> Result<Vec<std::net::IpAddr>, Invalid> {
        if let (Some(one), Some(first)) = (self.cluster_ip, self.cluster_ips.first())
            && one != *first
        {
            return Err(Invalid::new("spec.clusterIPs[0]", "is not the same as spec.clusterIP"));
        }
        if self.cluster_ips.len() > 2 {
            return Err(Invalid::new("spec.clusterIPs", "holds more than one address of each family"));
        }
        let listed = self.cluster_ips.iter().chain(self.cluster_ip.iter().filter(|_| self.cluster_ips.is_empty()));
        let ips: Vec<_> = listed.filter_map(|ip| ip.0).collect();
        match ips[..] {
            [a, b] if a.is_ipv4() == b.is_ipv4() => {
                Err(Invalid::new("spec.clusterIPs[1]", "is of the same family as spec.clusterIPs[0]"))
            }
            _ => Ok(ips),
        }
    }

    fn ports(&self) -> Result<Vec<model::ServicePort>, Invalid> {
        for (i, port) in self.ports.iter().enumerate() {
            let field = |field: &str| format!("spec.ports[{i}]{field}");
            if port.name.is_empty() && self.ports.len() > 1 {
                return Err(Invalid::new(field(".name"), "is missing: a Service with several ports names them"));
            }
            if port.name.len() > LABEL {
                return Err(Invalid::new(field(".name"), "is longer than 63 characters"));
            }
            for (j, other) in self.ports[..i].iter().enumerate() {
                if other.name == port.name {
                    return Err(Invalid::new(field(".name"), format!("is the name of spec.ports[{j}], too")));
                }
                if other.port == port.port && other.protocol == port.protocol {
                    return Err(Invalid::new(field(""), format!("has port and protocol of spec.ports[{j}]")));
                }
                if port.node_port.is_some() && (other.node_port, other.protocol) == (port.node_port, port.protocol) {
                    return Err(Invalid::new(field(".nodePort"), format!("is that of spec.ports[{j}], too")));
                }
            }
        }
        Ok(self.ports.iter().map(ServicePort::model).collect())
    }
}

impl ServicePort {
    fn model(&self) -> model::ServicePort {
        model::ServicePort {
            name: self.name.as_str().into(),
            port: self.port.0,
            protocol: self.protocol.into(),
            target: match &self.target_port {
                None => TargetPort::Number(self.port.0),
                Some(PortOrName::Port(port)) => TargetPort::Number(*port),
                Some(PortOrName::Name(name)) => TargetPort::Name(name.as_str().into()),
            },
            node_port: self.node_port.map(|port| port.0),
        }
    }
}
