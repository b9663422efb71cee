//! Writing to the API server, without a process for each object.

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::lab::Netns;
use crate::plane::Plane;

/// What is written, all in the namespace `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
}

impl Kind {
    const fn path(self) -> &'static str {
        match self {
            Self::Service => "/api/v1/namespaces/default/services",
            Self::EndpointSlice => "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        }
    }

    fn of(object: &Value) -> Self {
        if object["kind"] == "Service" { Self::Service } else { Self::EndpointSlice }
    }
}

/// Who writes, to the API server.
const MANAGER: &str = "lab";
/// Requests under way at the same time.
const IN_FLIGHT: usize = 8;

/// A client of the API, beside the server.
pub struct Api<'a> {
    ns: &'a Netns,
    runtime: Runtime,
    client: Client,
}

impl<'a> Api<'a> {
    /// Of a control plane.
    pub fn new(plane: &'a Plane<'_>) -> Result<Self> {
        let (runtime, client) = plane.connection()?;
        Ok(Self { ns: plane.ns(), runtime, client })
    }

    /// Declares objects, in any order; a status in them is written, too. What an object had before and has no more is
    /// taken from it.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        self.all(stream::iter(objects).map(async |object| {
            let (kind, name) = (Kind::of(object), name(object));
            self.patch(kind, name, None, object).await?;
            if let Some(status) = object.get("status") {
                // Nothing else: what is applied with it stays, whatever is applied without it.
                let [version, of_kind] = ["apiVersion", "kind"].map(|field| &object[field]);
                let own =
                    json!({ "apiVersion": version, "kind": of_kind, "metadata": { "name": name }, "status": status });
                self.patch(kind, name, Some("status"), &own).await?;
            }
            anyhow::Ok(())
        }))
    }

    /// Deletes objects.
    pub fn delete(&self, objects: &[(Kind, String)]) -> Result<()> {
        self.all(stream::iter(objects).map(async |(kind, name)| {
            let request = Request::new(kind.path()).delete(name, &DeleteParams::default())?;
            self.client.request_text(request).await.with_context(|| format!("cannot delete {kind:?} {name}"))?;
            anyhow::Ok(())
        }))
    }

    async fn patch(&self, kind: Kind, name: &str, subresource: Option<&str>, object: &Value) -> Result<()> {
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(object));
        let api = Request::new(kind.path());
        let request = match subresource {
            Some(part) => api.patch_subresource(part, name, &params, &patch)?,
            None => api.patch(name, &params, &patch)?,
        };
        let refused = || format!("the API server refused {object}");
        self.client.request_text(request).await.with_context(refused).map(drop)
    }

    fn all<F: Future<Output = Result<()>> + Send>(&self, work: impl stream::Stream<Item = F> + Send) -> Result<()> {
        let all = work.buffer_unordered(IN_FLIGHT).try_for_each(async |()| Ok(()));
        self.ns.run(|| self.runtime.block_on(all))
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
