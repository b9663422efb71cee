//! The control plane itself, without Sluice: if these fail, no other result with it means anything.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sluice_tests::lab::{Lab, cluster_ips, endpoint_slice, remove_leftovers};
use sluice_tests::plane::{Plane, PlaneOptions};
use sluice_tests::plane_or_skip;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
";

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec:
  nodeName: node
  containers:
  - {name: server, image: example.org/server, ports: [{name: http, containerPort: 8080}]}
";

/// What a kubelet would write.
const RUNNING: &str = r#"{"status": {
    "phase": "Running", "podIP": "10.244.0.11", "podIPs": [{"ip": "10.244.0.11"}, {"ip": "fd00:244::b"}],
    "conditions": [{"type": "Ready", "status": "True"}]}}"#;

#[test]
fn pods_become_endpoint_slices_of_a_dual_stack_service() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, PlaneOptions::default())?;
    plane.apply(SERVICE)?;
    let service = plane.get(&["service", "web"])?;
    let ips = service["spec"]["clusterIPs"].as_array().context("no clusterIPs")?;
    let ips: Vec<IpAddr> =
        ips.iter().map(|ip| Ok(ip.as_str().context("not a string")?.parse()?)).collect::<Result<_>>()?;
    ensure!(
        matches!(ips[..], [IpAddr::V4(v4), IpAddr::V6(v6)]
        if v4.octets()[0] == 10 && v4.octets()[1] & 0xf0 == 96 && v6.segments()[..2] == [0xfd00, 0x96]),
        "{ips:?}"
    );

    plane.apply(POD)?;
    plane.kubectl(&["patch", "pod", "web-1", "--subresource=status", "--patch", RUNNING])?;
    plane.wait_until("both slices have the pod", |plane| {
        let slices = plane.get(&["endpointslices", "--selector", "kubernetes.io/service-name=web"])?;
        let slices = slices["items"].as_array().context("no items")?;
        let mut found: Vec<_> =
            slices.iter().map(|slice| (&slice["endpoints"][0]["addresses"][0], &slice["ports"][0]["port"])).collect();
        found.sort_by_key(|(address, _)| address.to_string());
        Ok(found
            .iter()
            .map(|(a, p)| (a.as_str(), p.as_u64()))
            .eq([(Some("10.244.0.11"), Some(8080)), (Some("fd00:244::b"), Some(8080))]))
    })?;

    // A cluster's own Service leads to the address that the node reaches.
    let slice = plane.get(&["endpointslice", "kubernetes"])?;
    assert_eq!(slice["endpoints"][0]["addresses"][0], Plane::address(0).ip().to_string());
    Ok(())
}

#[test]
fn data_outlives_the_api_server_and_a_second_one_sees_it() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, PlaneOptions { api_servers: 2, controllers: false })?;
    plane.apply(&endpoint_slice("web-1", "web", &[cluster_ips(9)[0]]))?;
    plane.kill_api(0)?;
    // kubectl now asks the other one.
    assert!(plane.has("endpointslice/web-1")?);
    plane.kubectl(&["delete", "endpointslice", "web-1"])?;
    plane.apply(&endpoint_slice("web-2", "web", &[cluster_ips(9)[0]]))?;
    plane.start_api(0)?;
    plane.stop_api(1)?;
    assert!(!plane.has("endpointslice/web-1")?);
    assert!(plane.has("endpointslice/web-2")?);
    ensure!(plane.kill_api(1).is_err() && plane.stop_api(2).is_err(), "expected errors for what does not run");
    Ok(())
}

#[test]
fn compacted_revisions_are_gone_for_lists_and_watches() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, PlaneOptions { api_servers: 1, controllers: false })?;
    plane.apply(SERVICE)?;
    let old = plane.get(&["service", "web"])?["metadata"]["resourceVersion"].as_str().context("no version")?.to_owned();
    plane.kubectl(&["label", "service", "web", "changed=yes"])?;
    let mut ask = |how: &str, compact: bool| {
        if compact {
            plane.compact()?;
        }
        // It remembers some revisions itself; a new process does not.
        plane.kill_api(0)?;
        plane.start_api(0)?;
        let path = format!("/api/v1/services?{how}&resourceVersion={old}");
        let says = plane.kubectl_as(&plane.kubeconfig(), &["get", "--raw", &path])?;
        anyhow::Ok(String::from_utf8_lossy(&[says.stdout, says.stderr].concat()).into_owned())
    };
    let before = ask("resourceVersionMatch=Exact", false)?;
    assert!(before.contains("ServiceList"), "{before}");
    let after = ask("resourceVersionMatch=Exact", true)?;
    assert!(after.contains("too old"), "{after}");
    let watch = ask("watch=1&timeoutSeconds=1", false)?;
    assert!(watch.contains("too old resource version"), "{watch}");
    Ok(())
}

#[test]
fn a_service_account_may_do_what_it_was_given_and_no_more() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let plane = Plane::start(&lab, PlaneOptions { api_servers: 1, controllers: false })?;
    plane.kubectl(&["create", "serviceaccount", "reader"])?;
    plane.kubectl(&["create", "clusterrole", "reader", "--verb=list", "--resource=services"])?;
    plane.kubectl(&[
        "create",
        "clusterrolebinding",
        "reader",
        "--clusterrole=reader",
        "--serviceaccount=default:reader",
    ])?;
    let reader = plane.kubeconfig_for("default/reader")?;
    let allowed = plane.kubectl_as(&reader, &["get", "services", "--output=name"])?;
    assert_eq!(String::from_utf8_lossy(&allowed.stdout), "service/kubernetes\n", "{allowed:?}");
    for refused in [&["get", "pods"][..], &["delete", "service", "kubernetes"], &["get", "services", "--watch-only"]] {
        let output = plane.kubectl_as(&reader, refused)?;
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && says.contains("Forbidden"), "{refused:?}: {says}");
    }
    Ok(())
}

/// Runs this file's own binary once more, kills it while its control plane runs, and looks for what is left.
#[test]
fn nothing_is_left_when_the_test_is_killed() -> Result<()> {
    plane_or_skip!();
    if std::env::var_os("SLUICE_TEST_HANGS").is_some() {
        let lab = Lab::new()?;
        let _plane = Plane::start(&lab, PlaneOptions { api_servers: 1, controllers: false })?;
        println!("up");
        loop {
            std::thread::park();
        }
    }
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["--exact", "nothing_is_left_when_the_test_is_killed", "--nocapture"]).env("SLUICE_TEST_HANGS", "1");
    let mut child = child.stdout(std::process::Stdio::piped()).spawn().context("cannot start the test again")?;
    let pid = child.id();
    let out = std::io::BufReader::new(child.stdout.take().context("no pipe")?);
    let up = std::io::BufRead::lines(out).map_while(Result::ok).any(|line| line.ends_with("up"));
    let cgroup = Lab::new()?.cgroup().with_file_name(format!("sluice-{pid}-0-plane"));
    let processes = || std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let there = processes();
    child.kill()?;
    child.wait()?;
    ensure!(up && there.lines().count() == 2, "expected etcd and an API server in {}: {there:?}", cgroup.display());
    remove_leftovers();
    for pid in there.lines() {
        // One that has ended may wait for its new parent to take note: it has no command line any more.
        let command = std::fs::read_to_string(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        ensure!(command.is_empty(), "process {pid} of the control plane is left: {command}");
    }
    ensure!(!cgroup.exists() && !std::env::temp_dir().join(format!("sluice-{pid}-0")).exists(), "a folder is left");
    Ok(())
}
