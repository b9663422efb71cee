//! What the kernel says is attached to a device: the second opinion on `sluice devices`.

use std::process::Command;

use anyhow::{Context, Result, bail};
use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::Value;

use super::Netns;

/// Programs at a device, whoever attached them, as `sluice devices` would call them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// At its ingress.
    pub ingress: Vec<&'static str>,
    /// At its egress.
    pub egress: Vec<&'static str>,
}

impl Attached {
    /// Asks the kernel about `device` in `ns`.
    pub fn read(ns: &Netns, device: &str) -> Result<Self> {
        ns.run(|| {
            let mut ingress = xdp(device)?;
            ingress.extend(tc(device, TcAttachType::Ingress, "ingress")?);
            Ok(Self { ingress, egress: tc(device, TcAttachType::Egress, "egress")? })
        })
    }
}

fn xdp(device: &str) -> Result<Vec<&'static str>> {
    let links = json("ip", &["-j", "-d", "link", "show", "dev", device])?;
    Ok(match links[0]["xdp"]["mode"].as_u64() {
        None => vec![],
        // `XDP_ATTACHED_DRV` and `XDP_ATTACHED_SKB` of linux/if_link.h.
        Some(1) => vec!["xdp native"],
        Some(2) => vec!["xdp generic"],
        Some(mode) => bail!("XDP at {device} in mode {mode}: {links}"),
    })
}

fn tc(device: &str, side: TcAttachType, name: &str) -> Result<Vec<&'static str>> {
    let (_, links) =
        SchedClassifier::query_tcx(device, side).with_context(|| format!("cannot query tcx of {device}"))?;
    let filters = json("tc", &["-j", "filter", "show", "dev", device, name])?;
    let is_program = |filter: &&Value| filter["kind"] == "bpf" && filter.get("options").is_some();
    let filters = filters.as_array().into_iter().flatten().filter(is_program).count();
    Ok([vec!["tcx"; links.len()], vec!["clsact"; filters]].concat())
}

fn json(program: &str, arguments: &[&str]) -> Result<Value> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot start `{program}` (package iproute2)"))?;
    if !output.status.success() {
        bail!("`{program} {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("`{program}` printed no JSON"))
}
