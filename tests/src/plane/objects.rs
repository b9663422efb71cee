//! Short ways to write what a test declares, and to play what a cluster's other parts would do.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::Plane;
use crate::lab::{FAMILIES, Node, Pod, Source, pod_manifest};

/// A Service with these ClusterIPs, IPv4 first, and the port `http` 80. It has no selector: the test writes its slices.
pub fn service(name: &str, ips: &[IpAddr]) -> String {
    let families: Vec<_> = ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let policy = if ips.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let ips: Vec<_> = ips.iter().map(ToString::to_string).collect();
    let first = ips.first().map_or("None", String::as_str);
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  clusterIP: {first:?}
  clusterIPs: {ips:?}
  ipFamilies: {families:?}
  ipFamilyPolicy: {policy}
  ports:
  - {{name: http, port: 80, protocol: TCP, targetPort: 8080}}
"
    )
}

/// A node as its kubelet registers it.
pub(super) fn node_manifest(node: &Node) -> Value {
    let addresses = FAMILIES.map(|family| json!({ "type": "InternalIP", "address": node.address(family) }));
    let hostname = json!({ "type": "Hostname", "address": node.name() });
    let cidrs = FAMILIES.map(|family| node.pod_cidr(family));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name(),
            "labels": { "kubernetes.io/hostname": node.name(), "topology.kubernetes.io/zone": node.zone() },
        },
        "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
        "status": {
            "addresses": addresses.into_iter().chain([hostname]).collect::<Vec<_>>(),
            "conditions": [{ "type": "Ready", "status": "True", "reason": "Lab", "message": "ready",
                             "lastHeartbeatTime": null, "lastTransitionTime": null }],
        },
    })
}

/// One text of several manifests.
pub fn together(manifests: impl IntoIterator<Item = String>) -> String {
    manifests.into_iter().collect::<Vec<_>>().join("---\n")
}

impl Plane<'_> {
    /// This API as the agent's source, by these of its servers.
    pub fn source(&self, servers: impl IntoIterator<Item = usize>) -> Result<Source> {
        let api_servers = servers.into_iter().map(Self::url).collect();
        Ok(Source::Kubernetes { kubeconfig: self.kubeconfig(), api_servers })
    }

    /// Declares a pod of the lab as running and ready, with the label `app`: what its kubelet would do.
    pub fn run_pod(&self, pod: &Pod, app: &str) -> Result<()> {
        self.apply(&pod_manifest(&pod.name, app, &pod.ips))?;
        self.set_ready(pod, true)
    }

    /// Says whether a pod is ready, as its kubelet would.
    pub fn set_ready(&self, pod: &Pod, ready: bool) -> Result<()> {
        let [ip, ip6] = pod.ips;
        let status = json!({ "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{ "ip": ip }, { "ip": ip6 }],
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        }});
        let patch = status.to_string();
        self.kubectl(&["patch", "pod", &pod.name, "--subresource=status", "--patch", &patch]).map(drop)
    }

    /// Asks for the end of a pod: it has a grace period, in which it still serves.
    pub fn delete_pod(&self, pod: &Pod) -> Result<()> {
        self.kubectl(&["delete", "pod", &pod.name, "--wait=false"]).map(drop)
    }

    /// Tells the API that a pod has ended, as its kubelet would.
    pub fn pod_ended(&self, pod: &str) -> Result<()> {
        self.kubectl(&["delete", "pod", pod, "--force", "--grace-period=0"]).map(drop)
    }

    /// Waits until the endpoints of a Service are these pods, in both families; returns how long it took.
    pub fn wait_for_endpoints(&mut self, service: &str, pods: &[Pod]) -> Result<Duration> {
        let start = Instant::now();
        let mut want: Vec<_> = pods.iter().flat_map(|pod| pod.ips.map(|ip| ip.to_string())).collect();
        want.sort();
        self.wait_until("the EndpointSlices hold the pods", |plane| {
            let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
            let label = format!("kubernetes.io/service-name={service}");
            let text = plane.kubectl(&["get", "endpointslices", "--selector", &label, "--output", path])?;
            let mut have: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            have.sort();
            Ok(have == want)
        })?;
        Ok(start.elapsed())
    }
}
