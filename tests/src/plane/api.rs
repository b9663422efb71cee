//! How kube-apiserver and kube-controller-manager are told to run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;

use super::certificates::Key;
use super::{Authority, Daemon, Plane, SERVICE_CIDRS, etcd, kubeconfig, programs};
use crate::lab::{FAMILIES, Family};

/// Where an API server listens.
pub(super) const PORT: u16 = 6443;

/// The controllers that Services need, and those that let Pods be made at all.
const CONTROLLERS: &str = "endpointslice-controller,endpointslice-mirroring-controller,namespace-controller,\
                           root-ca-certificate-publisher-controller,serviceaccount-controller";

/// The address of API server number `n`.
pub(super) fn ip(family: Family, n: usize) -> IpAddr {
    let n = n as u16 + 1;
    family.pick(Ipv4Addr::new(192, 168, 60, n as u8), Ipv6Addr::new(0xfd00, 0x60, 0, 0, 0, 0, 0, n))
}

/// API server number `n`, not yet started.
pub(super) fn server(n: u8, authority: &Authority, tokens: &Key, dir: &Path) -> Result<Daemon> {
    let name = format!("kube-apiserver-{n}");
    let own = FAMILIES.map(|family| ip(family, n.into()));
    let services = FAMILIES.map(|family| family.cluster_ip(1));
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let reached_as: Vec<_> = own.iter().chain(&services).map(IpAddr::to_string).chain(names).collect();
    let identity = authority.server(&name, &reached_as)?;
    let flags = [
        ("advertise-address", own[0].to_string()),
        // As on every real cluster: system pods are checked against it.
        ("allow-privileged", "true".to_owned()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("bind-address", own[0].to_string()),
        ("client-ca-file", authority.certificate().display().to_string()),
        ("etcd-servers", etcd::URL.to_owned()),
        ("profiling", "false".to_owned()),
        ("secure-port", PORT.to_string()),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("service-account-key-file", tokens.public.display().to_string()),
        ("service-account-signing-key-file", tokens.private.display().to_string()),
        ("service-cluster-ip-range", SERVICE_CIDRS.to_owned()),
        ("tls-cert-file", identity.certificate.display().to_string()),
        ("tls-private-key-file", identity.key.display().to_string()),
    ];
    Ok(Daemon::new(&name, programs::program("kube-apiserver")?, typed(flags), dir))
}

/// kube-controller-manager, not yet started. It follows the first API server.
pub(super) fn controllers(authority: &Authority, tokens: &Key, dir: &Path) -> Result<Daemon> {
    let name = "kube-controller-manager";
    let identity = authority.client("system:kube-controller-manager", None)?;
    let kubeconfig = dir.join("kube-controller-manager.json");
    kubeconfig::write(&kubeconfig, authority, &Plane::url(0), &kubeconfig::certificate(&identity))?;
    let flags = [
        ("controllers", CONTROLLERS.to_owned()),
        // Its default would take minutes for thousands of Services.
        ("kube-api-burst", "2000".to_owned()),
        ("kube-api-qps", "1000".to_owned()),
        ("kubeconfig", kubeconfig.display().to_string()),
        ("leader-elect", "false".to_owned()),
        ("root-ca-file", authority.certificate().display().to_string()),
        ("secure-port", "0".to_owned()),
        ("service-account-private-key-file", tokens.private.display().to_string()),
        ("use-service-account-credentials", "true".to_owned()),
    ];
    Ok(Daemon::new(name, programs::program(name)?, typed(flags), dir))
}

fn typed<const N: usize>(flags: [(&str, String); N]) -> impl Iterator<Item = String> {
    flags.into_iter().map(|(name, value)| format!("--{name}={value}"))
}
