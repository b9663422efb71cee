//! A client of the API for tests that write thousands of objects: no process for each.

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::{Builder, Runtime};

use super::Plane;

impl Plane<'_> {
    /// A client, and the runtime that it works on. Use it in [`Plane::ns`].
    pub fn connection(&self) -> Result<(Runtime, Client)> {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).context("cannot read the kubeconfig")?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok((runtime, client))
    }
}
