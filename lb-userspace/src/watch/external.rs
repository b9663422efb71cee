//! What of a Service faces clients outside of the cluster: addresses, who may call them, and how they are treated.
//!
//! The API server checks some of these fields less than others, and old objects keep what it once let pass. So what makes
//! no sense here is left out and told, and takes the rest of the Service not with it: as kube-proxy does it.

use std::net::IpAddr;

use serde::Deserialize;

use super::fields::{Invalid, Port, nullable, sloppy_cidr, sloppy_ip};
use crate::model::{Service, ServiceType, TrafficPolicy};

/// Seconds that `sessionAffinity: ClientIP` lasts unless it is said (`DefaultClientIPServiceAffinitySeconds`).
const AFFINITY_SECONDS: u32 = 10_800;
/// The most that can be said (`MaxClientIPServiceAffinitySeconds`).
const MAX_AFFINITY_SECONDS: u32 = 86_400;

/// `internalTrafficPolicy`, `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum Policy {
    #[default]
    Cluster,
    Local,
}

impl From<Policy> for TrafficPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Cluster => Self::Cluster,
            Policy::Local => Self::Local,
        }
    }
}

/// `sessionAffinity`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum Affinity {
    #[default]
    None,
    ClientIP,
}

/// `sessionAffinityConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AffinityConfig {
    #[serde(rename = "clientIP", default, deserialize_with = "nullable")]
    client_ip: ClientIp,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<u32>,
}

impl AffinityConfig {
    /// For how long a client stays with its backend; none where it need not.
    pub(super) fn seconds(&self, affinity: Affinity) -> Result<Option<u32>, Invalid> {
        let seconds = self.client_ip.timeout_seconds.unwrap_or(AFFINITY_SECONDS);
        match affinity {
            Affinity::None => Ok(None),
            Affinity::ClientIP if (1..=MAX_AFFINITY_SECONDS).contains(&seconds) => Ok(Some(seconds)),
            Affinity::ClientIP => Err(Invalid::new(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                format!("is {seconds}, not from 1 to {MAX_AFFINITY_SECONDS}"),
            )),
        }
    }
}

/// Fields of `spec`.
pub(super) struct External {
    pub(super) ips: Vec<String>,
    pub(super) source_ranges: Vec<String>,
    pub(super) policy: Policy,
    pub(super) health_check_port: Option<Port>,
}

impl External {
    /// Fills in what these fields say.
    pub(super) fn add_to(self, service: &mut Service) {
        for (i, text) in self.ips.iter().enumerate() {
            let ip = ip(service, text, || format!("spec.externalIPs[{i}]"));
            service.external_ips.extend(ip);
        }
        for (i, text) in self.source_ranges.iter().enumerate() {
            match sloppy_cidr(text.trim()) {
                Some(range) => service.source_ranges.ranges.push(range),
                // As kube-proxy takes it: no range at all.
                None if text.trim().is_empty() => {}
                None => {
                    service.source_ranges.unreadable = true;
                    let text = format!("spec.loadBalancerSourceRanges[{i}]: `{text}` is not a range of addresses");
                    service.left_out.push(text.into());
                }
            }
        }
        // The field may outlive the type that had a use for it.
        let accessible = match service.kind {
            ServiceType::NodePort | ServiceType::LoadBalancer => true,
            ServiceType::ClusterIp => !self.ips.is_empty(),
            ServiceType::ExternalName => false,
        };
        if accessible {
            service.external_policy = self.policy.into();
        }
        if service.kind == ServiceType::LoadBalancer && service.external_policy == TrafficPolicy::Local {
            service.health_check_port = self.health_check_port.map(|port| port.0);
        }
    }
}

/// `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(default, deserialize_with = "nullable")]
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct LoadBalancer {
    #[serde(default, deserialize_with = "nullable")]
    ingress: Vec<Ingress>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ingress {
    #[serde(default, deserialize_with = "nullable")]
    ip: String,
    ip_mode: Option<String>,
}

impl Status {
    /// Fills in the addresses that are left to the nodes; those of the mode `Proxy` (KEP 1860) are not.
    pub(super) fn add_to(self, service: &mut Service) {
        for (i, Ingress { ip: text, ip_mode }) in self.load_balancer.ingress.iter().enumerate() {
            if ip_mode.as_deref().is_none_or(|mode| mode == "VIP") {
                let ip = ip(service, text, || format!("status.loadBalancer.ingress[{i}].ip"));
                service.load_balancer_ips.extend(ip);
            }
        }
    }
}

/// An address; one that is none is noted, and an empty text is nothing at all.
fn ip(service: &mut Service, text: &str, field: impl Fn() -> String) -> Option<IpAddr> {
    let ip = sloppy_ip(text);
    if ip.is_none() && !text.trim().is_empty() {
        service.left_out.push(format!("{}: `{text}` is not an IP address", field()).into());
    }
    ip
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::ServiceManifest;

    fn read(spec: &str, status: &str) -> Result<Service, String> {
        let text = format!("metadata: {{name: a, namespace: ns}}\nspec: {spec}\nstatus: {status}\n");
        let manifest: ServiceManifest = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
        manifest.into_model().map_err(|error| error.to_string())
    }

    fn shown<T: ToString>(all: &[T]) -> String {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn addresses_and_ranges_are_taken_as_old_objects_have_them_and_the_rest_is_left_out() {
        let spec = r#"{type: LoadBalancer, externalIPs: [192.0.2.1, "", "192.000.002.009", nonsense, "2001:db8::1"],
            loadBalancerSourceRanges: [" 10.0.0.0/8 ", "192.168.7.9/16", "010.0.0.0/08", "10.0.0.0/33", "fd00::1/8", ""]}"#;
        let status = r#"{loadBalancer: {ingress: [{ip: 198.51.100.1}, {ip: 198.51.100.2, ipMode: VIP},
            {ip: 198.51.100.3, ipMode: Proxy}, {ip: 198.51.100.4, ipMode: Future}, {hostname: lb.example.org},
            {ip: "2001:db8::2"}, {ip: x}]}}"#;
        let service = read(spec, status).unwrap();
        assert_eq!(shown(&service.external_ips), "192.0.2.1 192.0.2.9 2001:db8::1");
        assert_eq!(shown(&service.load_balancer_ips), "198.51.100.1 198.51.100.2 2001:db8::2");
        assert_eq!(shown(&service.source_ranges.ranges), "10.0.0.0/8 192.168.0.0/16 10.0.0.0/8 fd00::/8");
        assert!(service.source_ranges.unreadable);
        let left_out = [
            "spec.externalIPs[3]: `nonsense` is not an IP address",
            "spec.loadBalancerSourceRanges[3]: `10.0.0.0/33` is not a range of addresses",
            "status.loadBalancer.ingress[6].ip: `x` is not an IP address",
        ];
        assert_eq!(service.left_out.iter().map(|text| &**text).collect::<Vec<_>>(), left_out);
        let nothing = read("{type: LoadBalancer, externalIPs: null}", "{loadBalancer: {}}").unwrap();
        assert_eq!(nothing, Service { kind: ServiceType::LoadBalancer, ..Service::new(nothing.name.clone()) });
    }

    #[test]
    fn the_external_policy_and_its_health_port_count_where_there_are_clients_outside() {
        for (spec, policy, port) in [
            ("{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30000}", "Local", Some(30000)),
            ("{type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 30000}", "Cluster", None),
            ("{type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 30000}", "Local", None),
            ("{type: ClusterIP, externalTrafficPolicy: Local}", "Cluster", None),
            ("{externalTrafficPolicy: Local, externalIPs: [192.0.2.1]}", "Local", None),
            ("{type: NodePort, externalTrafficPolicy: null}", "Cluster", None),
        ] {
            let service = read(spec, "{}").unwrap();
            let found = (format!("{:?}", service.external_policy), service.health_check_port);
            assert_eq!(found, (policy.to_owned(), port), "{spec}");
        }
        assert!(read("{externalTrafficPolicy: Far}", "{}").unwrap_err().contains("Far"));
    }

    #[test]
    fn affinity_lasts_for_three_hours_unless_it_is_said() {
        for (spec, seconds) in [
            ("{}", Ok(None)),
            ("{sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}}", Ok(None)),
            ("{sessionAffinity: ClientIP}", Ok(Some(10_800))),
            ("{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {}}}", Ok(Some(10_800))),
            ("{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}}", Ok(Some(1))),
            (
                "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86400}}}",
                Ok(Some(86_400)),
            ),
            (
                "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}",
                Err("is 0, not from"),
            ),
            (
                "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}",
                Err("is 86401"),
            ),
        ] {
            match (read(spec, "{}").map(|service| service.affinity), seconds) {
                (Ok(found), Ok(seconds)) => assert_eq!(found, seconds, "{spec}"),
                (Err(error), Err(word)) => assert!(error.contains(word), "{spec}: {error}"),
                (found, _) => panic!("{spec}: {found:?}"),
            }
        }
    }
}
