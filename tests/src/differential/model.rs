//! What a random cluster declares: plain values, and the objects of Kubernetes that say the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Backend, Kind};
use crate::lab::{FAMILIES, Family, Protocol};

/// A traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Cluster,
    Local,
}

/// How a Service is offered; each way includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl Type {
    const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) node_port: u16,
}

/// A Service with its slices. Its name, families and number stay; all else may change.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// Its addresses end in it, and its name.
    pub(super) number: u16,
    /// Family of the first ClusterIP, and whether there is another.
    pub(super) family: Family,
    pub(super) dual: bool,
    pub(super) kind: Type,
    pub(super) ports: Vec<Port>,
    pub(super) internal: Policy,
    pub(super) external: Policy,
    /// Seconds of session affinity.
    pub(super) affinity: Option<u32>,
    pub(super) external_ips: bool,
    /// `ipMode: Proxy` of the load balancer's addresses.
    pub(super) proxy_mode: bool,
    pub(super) source_ranges: Vec<&'static str>,
    /// The label by which it is not for every proxy.
    pub(super) label: Option<&'static str>,
    pub(super) slices: Vec<Slice>,
    /// How often it got other slices. New ones get new names, and stand beside the old ones for a moment: who is an endpoint
    /// before and after is one all the time.
    pub(super) edition: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) family: Family,
    /// For each port of the Service, the endpoints' port; a slice may lack one.
    pub(super) targets: Vec<Option<u16>>,
    pub(super) endpoints: Vec<Endpoint>,
    /// A label that a Service may have: its endpoints may be for no virtual IP.
    pub(super) label: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) backend: usize,
    /// Each may be left out.
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
    pub(super) zone_hint: Option<&'static str>,
    pub(super) node_hint: Option<&'static str>,
}

/// Labels of a Service, and of a slice, that say whom they are for.
pub(super) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Names of nodes and zones, as the world has them.
pub(super) const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
pub(super) const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-b"];

impl Service {
    pub(super) fn name(&self) -> String {
        format!("service-{}", self.number)
    }

    /// The families it has.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> {
        let (own, dual) = (self.family, self.dual);
        FAMILIES.into_iter().filter(move |family| dual || *family == own)
    }

    pub(super) fn cluster_ip(&self, family: Family) -> IpAddr {
        let n = self.number;
        family.pick([10, 97, (n >> 8) as u8, n as u8].into(), [0xfd00, 0x96, 0, 0, 0, 0, 1, n].into())
    }

    /// Addresses that its load balancer has given it.
    pub(super) fn load_balancer_ip(&self, family: Family) -> IpAddr {
        let n = self.number;
        family.pick([198, 18, (n >> 8) as u8, n as u8].into(), [0xfd00, 0x203, 0, 0, 0, 0, 0, n].into())
    }

    pub(super) fn external_ip(&self, family: Family) -> IpAddr {
        let n = self.number;
        family.pick([198, 19, (n >> 8) as u8, n as u8].into(), [0xfd00, 0x198, 0, 0, 0, 0, 0, n].into())
    }

    /// The Service and its slices.
    pub(super) fn objects(&self, backends: &[Backend]) -> Vec<Value> {
        let slices = self.slices.iter().enumerate().map(|(at, slice)| self.slice(at, slice, backends));
        [self.service()].into_iter().chain(slices).collect()
    }

    fn service(&self) -> Value {
        let families: Vec<_> = match (self.family, self.dual) {
            (first, false) => vec![first],
            (Family::V4, true) => FAMILIES.to_vec(),
            (Family::V6, true) => FAMILIES.into_iter().rev().collect(),
        };
        let ips: Vec<_> = families.iter().map(|family| self.cluster_ip(*family)).collect();
        let mut spec = json!({
            "type": self.kind.name(),
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ipFamilies": families.iter().map(|family| family_name(*family)).collect::<Vec<_>>(),
            "ipFamilyPolicy": if self.dual { "RequireDualStack" } else { "SingleStack" },
            "internalTrafficPolicy": policy_name(self.internal),
            "sessionAffinity": if self.affinity.is_some() { "ClientIP" } else { "None" },
            "ports": self.ports.iter().enumerate().map(|(at, port)| self.port(at, port)).collect::<Vec<_>>(),
        });
        if let Some(seconds) = self.affinity {
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
        }
        if self.external_ips {
            spec["externalIPs"] = families.iter().map(|family| json!(self.external_ip(*family))).collect();
        }
        if self.external_ips || self.kind > Type::ClusterIp {
            spec["externalTrafficPolicy"] = json!(policy_name(self.external));
        }
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": self.name(), "labels": {} },
            "spec": spec,
        });
        if let Some(label) = self.label {
            service["metadata"]["labels"][label] = json!("other");
        }
        if self.kind == Type::LoadBalancer {
            if !self.source_ranges.is_empty() {
                service["spec"]["loadBalancerSourceRanges"] = json!(self.source_ranges);
            }
            let mode = if self.proxy_mode { "Proxy" } else { "VIP" };
            let ingress = families.iter().map(|family| json!({ "ip": self.load_balancer_ip(*family), "ipMode": mode }));
            service["status"] = json!({ "loadBalancer": { "ingress": ingress.collect::<Vec<_>>() } });
        }
        service
    }

    fn port(&self, at: usize, port: &Port) -> Value {
        let mut value = json!({ "name": port_name(at), "protocol": port.protocol.name(), "port": port.port });
        if self.kind > Type::ClusterIp {
            value["nodePort"] = json!(port.node_port);
        }
        value
    }

    fn slice(&self, at: usize, slice: &Slice, backends: &[Backend]) -> Value {
        let targets = slice.targets.iter().enumerate().zip(&self.ports);
        let ports = targets.filter_map(|((at, target), port)| {
            Some(json!({ "name": port_name(at), "protocol": port.protocol.name(), "port": (*target)? }))
        });
        let mut object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                // A slice stays with its family.
                "name": format!("{}-{}-{at}-{}", self.name(), self.edition, family_name(slice.family).to_lowercase()),
                "labels": { "kubernetes.io/service-name": self.name() },
            },
            "addressType": family_name(slice.family),
            "ports": ports.collect::<Vec<_>>(),
            "endpoints": slice.endpoints.iter().map(|e| e.object(slice.family, backends)).collect::<Vec<_>>(),
        });
        if let Some(label) = slice.label {
            object["metadata"]["labels"][label] = json!("other");
        }
        object
    }
}

impl Endpoint {
    fn object(&self, family: Family, backends: &[Backend]) -> Value {
        let backend = &backends[self.backend];
        let said = [("ready", self.ready), ("serving", self.serving), ("terminating", self.terminating)];
        let conditions: BTreeMap<_, _> = said.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let mut object = json!({
            "addresses": [backend.ip(family)], "conditions": conditions,
            "nodeName": NODES[backend.node], "zone": ZONES[backend.node],
        });
        if let Some(zone) = self.zone_hint {
            object["hints"]["forZones"] = json!([{ "name": zone }]);
        }
        if let Some(node) = self.node_hint {
            object["hints"]["forNodes"] = json!([{ "name": node }]);
        }
        object
    }
}

/// What an object is called.
pub(super) fn key(object: &Value) -> (Kind, String) {
    let kind = if object["kind"] == "Service" { Kind::Service } else { Kind::EndpointSlice };
    (kind, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
}

fn port_name(at: usize) -> String {
    format!("port-{at}")
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

const fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Cluster => "Cluster",
        Policy::Local => "Local",
    }
}
