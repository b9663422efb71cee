//! What the cluster's control plane does with Services and Pods: EndpointSlices for every Service that has a
//! selector. Pure. As Kubernetes' EndpointSlice controller does it (`staging/src/k8s.io/endpointslice`).

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::ip::Family;

use super::pod::Pod;
use crate::model::{Endpoint, EndpointPort, EndpointSlice, ObjectName, Service, ServicePort, TargetPort};

/// Positions of a Service's ports, with a pod's numbers for them.
type Ports = Vec<(usize, u16)>;

/// The slices for one Service: one for each family and each way its target ports come out at the pods.
pub fn slices<'a>(service: &Service, pods: impl Iterator<Item = &'a Pod>) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<(Family, Ports), Vec<Endpoint>> = BTreeMap::new();
    for pod in pods.filter(|pod| selects(service, pod)) {
        let ports = target_ports(service, pod);
        for address in &pod.addresses {
            let family = match address.is_ipv4() {
                true => Family::V4,
                false => Family::V6,
            };
            let endpoint = Endpoint {
                address: *address,
                ready: service.publish_not_ready || pod.ready && !pod.terminating,
                serving: pod.ready,
                terminating: pod.terminating,
                node: pod.node.clone(),
                hints: None,
            };
            groups.entry((family, ports.clone())).or_default().push(endpoint);
        }
    }
    let numbered = groups.into_iter().enumerate();
    numbered.map(|(i, ((family, ports), endpoints))| slice(service, i, family, &ports, endpoints)).collect()
}

/// Whether a Pod is behind a Service.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let matches = |(key, value): &(Arc<str>, Arc<str>)| pod.labels.get(&**key).is_some_and(|have| **have == **value);
    !service.selector.is_empty()
        && service.name.namespace == pod.name.namespace
        && !pod.finished
        && service.selector.iter().all(matches)
}

/// The Service's ports that this pod has, by position, with its own number for each.
fn target_ports(service: &Service, pod: &Pod) -> Ports {
    let ports = service.ports.iter().enumerate();
    ports.filter_map(|(i, port)| Some((i, target_port(port, pod)?))).collect()
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(wanted) => {
            let mut named =
                pod.ports.iter().filter(|(name, protocol, _)| **name == **wanted && *protocol == port.protocol);
            named.next().map(|(.., number)| *number)
        }
    }
}

/// No manifest can have this name: it has a character that names cannot have.
fn slice(
    service: &Service,
    i: usize,
    family: Family,
    ports: &[(usize, u16)],
    mut endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let ports = ports.iter().filter_map(|(i, number)| {
        let port = service.ports.get(*i)?;
        Some(EndpointPort { name: port.name.clone(), protocol: port.protocol, port: *number })
    });
    EndpointSlice {
        name: ObjectName::new(service.name.namespace.clone(), format!("{}/{i}", service.name.name)),
        service: service.name.name.clone(),
        family,
        ports: ports.collect(),
        endpoints,
        trigger: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn service(target: TargetPort) -> Service {
        Service {
            ports: vec![ServicePort {
                name: "http".into(),
                port: 80,
                protocol: Protocol::Tcp,
                target,
                node_port: None,
            }],
            selector: vec![("app".into(), "web".into())],
            ..Service::new(ObjectName::new("ns", "web"))
        }
    }

    fn pod(address: &str) -> Pod {
        Pod {
            name: ObjectName::new("ns", address),
            labels: [("app".into(), "web".into()), ("x".into(), "y".into())].into(),
            addresses: vec![address.parse().unwrap()],
            ports: vec![],
            node: None,
            ready: true,
            terminating: false,
            finished: false,
        }
    }

    fn show(service: &Service, pods: &[Pod]) -> Vec<String> {
        let ports = |s: &EndpointSlice| s.ports.iter().map(|p| format!("{}={}", p.name, p.port)).collect::<Vec<_>>();
        let endpoints = |s: &EndpointSlice| -> Vec<String> {
            let flag = |set, text| if set { text } else { "" };
            let show = |e: &Endpoint| {
                let flags = [flag(e.ready, "r"), flag(e.serving, "s"), flag(e.terminating, "t")].concat();
                format!("{} {flags}", e.address)
            };
            s.endpoints.iter().map(show).collect()
        };
        slices(service, pods.iter())
            .iter()
            .map(|s| format!("{:?} {}: {}", s.family, ports(s).join(","), endpoints(s).join(", ")))
            .collect()
    }

    #[test]
    fn labels_and_namespace_must_match_and_the_pod_must_live() {
        let pods = [
            pod("10.0.0.1"),
            Pod { labels: [("app".into(), "db".into())].into(), ..pod("10.0.0.2") },
            Pod { name: ObjectName::new("other", "p"), ..pod("10.0.0.3") },
            Pod { finished: true, ..pod("10.0.0.4") },
            Pod { addresses: vec![], ..pod("10.0.0.5") },
        ];
        assert_eq!(show(&service(TargetPort::Number(8080)), &pods), ["V4 http=8080: 10.0.0.1 rs"]);
        let without = Service { selector: vec![], ..service(TargetPort::Number(8080)) };
        assert!(show(&without, &pods).is_empty());
    }

    #[test]
    fn conditions_come_from_the_pod() {
        let pods = [
            Pod { ready: false, ..pod("10.0.0.1") },
            Pod { terminating: true, ..pod("10.0.0.2") },
            Pod { terminating: true, ready: false, ..pod("10.0.0.3") },
        ];
        let mut service = service(TargetPort::Number(1));
        assert_eq!(show(&service, &pods), ["V4 http=1: 10.0.0.1 , 10.0.0.2 st, 10.0.0.3 t"]);
        service.publish_not_ready = true;
        assert_eq!(show(&service, &pods), ["V4 http=1: 10.0.0.1 r, 10.0.0.2 rst, 10.0.0.3 rt"]);
    }

    #[test]
    fn a_named_target_port_may_differ_from_pod_to_pod() {
        let with = |address, number| Pod { ports: vec![("web".into(), Protocol::Tcp, number)], ..pod(address) };
        let udp = Pod { ports: vec![("web".into(), Protocol::Udp, 53)], ..pod("10.0.0.4") };
        let pods = [with("10.0.0.1", 8080), with("10.0.0.2", 9090), with("10.0.0.3", 8080), udp];
        assert_eq!(
            show(&service(TargetPort::Name("web".into())), &pods),
            ["V4 : 10.0.0.4 rs", "V4 http=8080: 10.0.0.1 rs, 10.0.0.3 rs", "V4 http=9090: 10.0.0.2 rs"]
        );
    }

    #[test]
    fn a_pod_of_both_families_is_in_a_slice_of_each() {
        let both = Pod { addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()], ..pod("10.0.0.1") };
        assert_eq!(show(&service(TargetPort::Number(1)), &[both]), ["V4 http=1: 10.0.0.1 rs", "V6 http=1: fd00::1 rs"]);
    }
}
