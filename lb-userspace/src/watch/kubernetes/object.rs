//! One object as the API server sends it. One that makes no sense is an object, too: it must not spoil a list.

use std::borrow::Cow;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::value::RawValue;

use crate::model::{self, ObjectName};
use crate::watch::ServiceCidrManifest;
use crate::watch::fields::{Invalid, Metadata};
use crate::watch::{Change, EndpointSliceManifest, Event, NodeManifest, ServiceManifest};

/// A kind of object that is watched.
pub(super) trait Watched: DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static {
    /// The plain value.
    type Model: Clone + std::fmt::Debug + Send + Sync + 'static;
    /// The API group, empty for the core.
    const GROUP: &'static str;
    /// The kind.
    const KIND: &'static str;
    /// Its name in paths.
    const PLURAL: &'static str;
    /// Whose labels say that another proxy, or none, serves it need not be sent at all.
    const LABELS: Option<&'static str>;
    /// Whether a server may be without this kind.
    const OPTIONAL: bool;

    /// What it has as every object.
    fn metadata(&self) -> &Metadata;
    /// The plain value, and its name; none for one that is nothing for us.
    fn model(self) -> Result<Option<(ObjectName, Self::Model)>, Invalid>;
    /// News of the kind.
    fn event(change: Change<Self::Model>) -> Event;
}

/// Services of another proxy (KEP 2447), and headless ones: the API's server keeps them for itself.
const OWN_SERVICES: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
/// Slices for no virtual IP. Whose a slice is, its Service says: so kube-proxy asks for them, too.
const OWN_SLICES: &str = "!service.kubernetes.io/headless";

impl Watched for ServiceManifest {
    type Model = model::Service;
    const GROUP: &'static str = "";
    const KIND: &'static str = "Service";
    const PLURAL: &'static str = "services";
    const LABELS: Option<&'static str> = Some(OWN_SERVICES);
    const OPTIONAL: bool = false;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn model(self) -> Result<Option<(ObjectName, Self::Model)>, Invalid> {
        self.into_model().map(|service| Some((service.name.clone(), service)))
    }

    fn event(change: Change<Self::Model>) -> Event {
        Event::Service(change)
    }
}

impl Watched for EndpointSliceManifest {
    type Model = model::EndpointSlice;
    const GROUP: &'static str = "discovery.k8s.io";
    const KIND: &'static str = "EndpointSlice";
    const PLURAL: &'static str = "endpointslices";
    const LABELS: Option<&'static str> = Some(OWN_SLICES);
    const OPTIONAL: bool = false;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn model(self) -> Result<Option<(ObjectName, Self::Model)>, Invalid> {
        Ok(self.into_model()?.map(|slice| (slice.name.clone(), slice)))
    }

    fn event(change: Change<Self::Model>) -> Event {
        Event::EndpointSlice(change)
    }
}

impl Watched for NodeManifest {
    type Model = model::Node;
    const GROUP: &'static str = "";
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
    const LABELS: Option<&'static str> = None;
    const OPTIONAL: bool = false;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn model(self) -> Result<Option<(ObjectName, Self::Model)>, Invalid> {
        self.into_model().map(|node| Some((node.name.clone(), node)))
    }

    fn event(change: Change<Self::Model>) -> Event {
        Event::Node(change)
    }
}

impl Watched for ServiceCidrManifest {
    type Model = model::ServiceCidr;
    const GROUP: &'static str = "networking.k8s.io";
    const KIND: &'static str = "ServiceCIDR";
    const PLURAL: &'static str = "servicecidrs";
    const LABELS: Option<&'static str> = None;
    // Kubernetes 1.33 has it.
    const OPTIONAL: bool = true;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn model(self) -> Result<Option<(ObjectName, Self::Model)>, Invalid> {
        self.into_model().map(|cidr| Some((cidr.name.clone(), cidr)))
    }

    fn event(change: Change<Self::Model>) -> Event {
        Event::ServiceCidr(change)
    }
}

/// An object, decoded or refused.
#[derive(Clone, Debug)]
pub(super) struct Object<W: Watched> {
    meta: ObjectMeta,
    /// Its plain value; none where it is nothing for us, an error where it makes no sense.
    pub(super) body: Result<Option<(ObjectName, W::Model)>, Invalid>,
}

impl<W: Watched> Object<W> {
    /// Its name, also where it makes no sense.
    pub(super) fn name(&self) -> ObjectName {
        match &self.body {
            Ok(Some((name, _))) => name.clone(),
            _ => {
                let text = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
                ObjectName::new(text(&self.meta.namespace), text(&self.meta.name))
            }
        }
    }
}

impl<W: Watched> Resource for Object<W> {
    type DynamicType = ();
    // Those of all namespaces are asked for at once.
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        W::KIND.into()
    }
    fn group((): &()) -> Cow<'_, str> {
        W::GROUP.into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        W::PLURAL.into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// What every object has, and what a watch needs of it: read alone where the rest makes no sense.
#[derive(Debug, Default, serde::Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMetadata,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl<'de, W: Watched> Deserialize<'de> for Object<W> {
    /// Fails only where the text is no JSON: whatever else is wrong is this object's own concern.
    fn deserialize<D: Deserializer<'de>>(object: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(object)?.get();
        let Ok(manifest) = serde_json::from_str::<W>(text) else { return Ok(Self::refused(text)) };
        let metadata = manifest.metadata();
        let (name, namespace) = metadata.names();
        let meta = ObjectMeta {
            name: name.map(ToOwned::to_owned),
            namespace: namespace.map(ToOwned::to_owned),
            resource_version: metadata.resource_version.clone(),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, body: manifest.model() })
    }
}

impl<W: Watched> Object<W> {
    /// One that makes no sense: read once more, since it takes time to know which field it is.
    fn refused(text: &str) -> Self {
        let HeadMetadata { name, namespace, resource_version } =
            serde_json::from_str::<Head>(text).unwrap_or_default().metadata;
        let meta = ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() };
        let manifest: Result<W, _> = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text));
        let body = manifest
            .map_err(|error| Invalid::new(error.path().to_string(), without_place(&error.inner().to_string())))
            .and_then(W::model);
        Self { meta, body }
    }
}

/// The column in a text that nobody sees helps nobody.
fn without_place(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(message, _)| message)
}

#[cfg(test)]
mod tests {
    use kube::api::{ObjectList, WatchEvent};

    use super::*;

    const GOOD: &str = r#"{"metadata": {"name": "a", "namespace": "ns", "resourceVersion": "7"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}}"#;

    fn bad(spec: &str) -> String {
        format!(r#"{{"metadata": {{"name": "b", "namespace": "ns", "resourceVersion": "8"}}, "spec": {spec}}}"#)
    }

    fn shown<W: Watched>(object: &Object<W>) -> String {
        let version = object.meta.resource_version.as_deref().unwrap_or("-");
        let body = match &object.body {
            Ok(Some(_)) => "good".to_owned(),
            Ok(None) => "not ours".to_owned(),
            Err(invalid) => invalid.to_string(),
        };
        format!("{} {version}: {body}", object.name())
    }

    #[test]
    fn an_object_that_makes_no_sense_spoils_no_list() {
        let future = bad(r#"{"type": "Teleport", "ports": [{"port": 80}]}"#);
        let list = format!(
            r#"{{"kind": "ServiceList", "apiVersion": "v1", "metadata": {{"resourceVersion": "9"}}, "items": [{future}, {GOOD}, 5]}}"#
        );
        let list: ObjectList<Object<ServiceManifest>> = serde_json::from_str(&list).unwrap();
        assert_eq!(
            list.items.iter().map(shown).collect::<Vec<_>>(),
            [
                "ns/b 8: spec.type: unknown variant `Teleport`, expected one of `ClusterIP`, `NodePort`, \
                 `LoadBalancer`, `ExternalName`",
                "ns/a 7: good",
                " -: .: invalid type: integer `5`, expected struct Service",
            ]
        );
    }

    #[test]
    fn an_object_that_makes_no_sense_spoils_no_watch() {
        for (spec, expected) in [
            (r#"{"clusterIPs": ["10.96.0.300"]}"#, "ns/b 8: spec.clusterIPs[0]: "),
            (r#"{"clusterIPs": ["10.96.0.1", "10.96.0.2"]}"#, "ns/b 8: spec.clusterIPs[1]: is of the same family"),
            (r#"{"ports": [{"port": 70000}]}"#, "ns/b 8: spec.ports[0].port: "),
            (r#"{"ports": {}}"#, "ns/b 8: spec.ports: "),
            (r#""web""#, "ns/b 8: spec: "),
        ] {
            let line = format!(r#"{{"type": "MODIFIED", "object": {}}}"#, bad(spec));
            let event: WatchEvent<Object<ServiceManifest>> = serde_json::from_str(&line).unwrap();
            let WatchEvent::Modified(object) = event else { panic!("{event:?}") };
            assert!(shown(&object).starts_with(expected), "{}", shown(&object));
        }
    }

    #[test]
    fn of_a_node_and_a_service_cidr_is_known_what_matters() {
        let node = r#"{"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}, "uid": "1"},
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"],
                     "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
            "status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"},
                                     {"type": "ExternalIP", "address": "192.0.2.1"}], "nodeInfo": {}}}"#;
        let node: Object<NodeManifest> = serde_json::from_str(node).unwrap();
        let (name, node) = node.body.unwrap().unwrap();
        assert_eq!((name.to_string(), node.zone.as_deref(), node.leaving), ("n".to_owned(), Some("z"), true));
        assert_eq!(node.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(node.external, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(node.pod_cidrs, ["10.1.0.0/24", "fd00:1::/64"].map(|cidr| cidr.parse().unwrap()));
        let cidr = r#"{"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}"#;
        let cidr: Object<ServiceCidrManifest> = serde_json::from_str(cidr).unwrap();
        assert_eq!(cidr.body.unwrap().unwrap().1.cidrs, ["10.96.0.0/16".parse().unwrap()]);
        let bad: Object<ServiceCidrManifest> =
            serde_json::from_str(r#"{"metadata": {"name": "x"}, "spec": {"cidrs": ["10.96.0.1/16"]}}"#).unwrap();
        assert!(bad.body.unwrap_err().to_string().starts_with("spec.cidrs[0]: "));
    }

    #[test]
    fn the_trigger_of_a_slice_is_kept_and_makes_no_two_slices_unequal() {
        let slice = |trigger: &str| {
            let text = format!(
                r#"{{"metadata": {{"name": "s", "namespace": "ns", "labels": {{"kubernetes.io/service-name": "a"}},
                "annotations": {{"endpoints.kubernetes.io/last-change-trigger-time": "{trigger}"}}}},
                "addressType": "IPv4", "endpoints": []}}"#
            );
            let object: Object<EndpointSliceManifest> = serde_json::from_str(&text).unwrap();
            object.body.unwrap().unwrap().1
        };
        let (early, late) = (slice("2026-01-01T00:00:00Z"), slice("2026-01-01T00:00:01.5Z"));
        let (from, to) = (early.trigger.0.unwrap(), late.trigger.0.unwrap());
        assert_eq!(to.duration_since(from).unwrap().as_millis(), 1500);
        assert_eq!(early, late);
        assert_eq!(slice("yesterday").trigger.0, None);
    }
}
