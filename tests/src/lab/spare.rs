//! A Service that gets more endpoints while it is in use: from then on a flow that is forgotten mostly goes elsewhere.

use anyhow::Result;

use super::{Agent, Lab, Pod, cluster_ips, service_manifest};

/// Number of the first pod, and of the Service.
const FIRST: u8 = 11;
const SERVICE: u8 = 10;

/// Service `web` at ClusterIPs number 10, its pods, and spare ones that are none of its endpoints yet.
pub struct WithSpare<'a> {
    /// All of them, those that serve first.
    pub pods: Vec<Pod>,
    lab: &'a Lab,
    serving: usize,
}

impl<'a> WithSpare<'a> {
    /// So many that serve, and so many spare ones.
    ///
    /// # Errors
    /// A pod cannot be made.
    pub fn new(lab: &'a Lab, serving: u8, spare: u8) -> Result<Self> {
        lab.manifests.write("web.yaml", &service_manifest("web", &cluster_ips(SERVICE)))?;
        let mut pods = lab.pods("web", FIRST..FIRST + serving)?;
        for n in FIRST + serving..FIRST + serving + spare {
            pods.push(lab.pod(&format!("web-{n}"), n)?);
        }
        Ok(Self { pods, lab, serving: serving.into() })
    }

    /// Makes endpoints of the spare ones, and waits until the agent has taken them in.
    ///
    /// # Errors
    /// That takes too long.
    pub fn add(&self, agent: &Agent<'_>) -> Result<()> {
        for pod in &self.pods[self.serving..] {
            self.lab.declare(pod, "web")?;
        }
        agent.wait_until("all pods are endpoints", |agent| {
            let services = agent.json(&["services"])?;
            let mut web = services.as_array().into_iter().flatten().filter(|row| row["name"] == "web");
            Ok(web.all(|row| row["backends"].as_u64() == Some(self.pods.len() as u64)))
        })?;
        Ok(())
    }
}
