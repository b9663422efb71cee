//! Writing to the API server: thousands of Services at the start, then one EndpointSlice a change.

use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use kube::api::PostParams;
use kube::core::Request;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{Written, objects};
use crate::bench::progress;
use crate::lab::Netns;
use crate::plane::Plane;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// Requests under way while Services are made.
const IN_FLIGHT: usize = 48;

/// A client of the API, beside the server: its packets do not pass the node that is measured.
pub(in crate::bench) struct Api<'a> {
    ns: &'a Netns,
    runtime: Runtime,
    client: Client,
    services: u32,
    changes: u32,
}

impl<'a> Api<'a> {
    pub(in crate::bench) fn new(plane: &'a Plane<'_>) -> Result<Self> {
        let (runtime, client) = plane.connection()?;
        Ok(Self { ns: plane.ns(), runtime, client, services: 0, changes: 0 })
    }

    /// Makes Services until there are so many.
    pub(in crate::bench) fn populate(&mut self, services: u32) -> Result<()> {
        let missing = self.services..services;
        let bar = progress::bar("writing to the API".to_owned(), missing.len() as u64, "Services")?;
        let client = &self.client;
        let make = async |n: u32| {
            create(client, SERVICES, &objects::service(n)).await?;
            create(client, SLICES, &objects::slice(n, None)).await?;
            bar.inc(1);
            anyhow::Ok(())
        };
        let all = stream::iter(missing).map(make).buffer_unordered(IN_FLIGHT).try_for_each(async |()| Ok(()));
        self.ns.run(|| self.runtime.block_on(all))?;
        bar.finish_and_clear();
        self.services = self.services.max(services);
        Ok(())
    }

    /// The number of the next change; none is used twice, so no endpoint is.
    pub(super) fn next_change(&mut self) -> u32 {
        self.changes += 1;
        self.changes
    }

    /// Gives a Service the endpoints of a change.
    pub(super) fn write(&self, service: u32, change: u32) -> Result<Written> {
        let body = objects::slice(service, Some(change)).to_string().into_bytes();
        let request = Request::new(SLICES).replace(&objects::name(service), &PostParams::default(), body)?;
        self.ns.run(|| {
            self.runtime.block_on(async {
                let start = Instant::now();
                self.client.request_text(request).await.context("the API server refused a change")?;
                Ok((start, start.elapsed()))
            })
        })
    }
}

async fn create(client: &Client, path: &str, object: &Value) -> Result<()> {
    let request = Request::new(path).create(&PostParams::default(), object.to_string().into_bytes())?;
    let refused = || format!("the API server refused {} {}", object["kind"], object["metadata"]["name"]);
    client.request_text(request).await.with_context(refused).map(drop)
}
