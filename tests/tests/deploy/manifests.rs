//! The kustomize base, the chart, and the files beside them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sluice_tests::plane::program;

use super::pod::{documents, file};

const CHART: &str = "deploy/chart/sluice";
/// The server that charts are rendered for; a Helm of one's own build assumes one that is long gone.
const KUBERNETES: &str = "1.37.2";
/// What Helm alone says of objects it manages.
const LABELS_OF_HELM: &[&str] = &["app.kubernetes.io/managed-by", "helm.sh/chart"];

/// Leaves the calling test, saying why, where the programs are not there.
macro_rules! programs_or_skip {
    ($($name:literal),+) => {
        $(if let Err(error) = program($name) {
            eprintln!("SKIP {}: {error:#}", std::thread::current().name().unwrap_or("test"));
            return Ok(());
        })+
    };
}

pub(crate) fn run(name: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program(name)?);
    let output = command.args(args).current_dir(file("")).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("`{name} {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn chart(values: &[&str]) -> Result<Vec<Value>> {
    let set = values.iter().flat_map(|value| ["--set-json", *value]);
    let args: Vec<_> = ["template", "sluice", CHART, "--namespace", "kube-system", "--kube-version", KUBERNETES]
        .into_iter()
        .chain(set)
        .collect();
    documents(&run("helm", &args)?)
}

/// The objects by kind and name.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let key = |object: &Value| format!("{}/{}", object["kind"], object["metadata"]["name"]);
    objects.into_iter().map(|object| (key(&object), object)).collect()
}

/// Takes away what Helm says of itself, at every depth.
fn without_helm(value: &mut Value) {
    if let Value::Object(fields) = value {
        if let Some(Value::Object(labels)) = fields.get_mut("labels") {
            labels.retain(|name, _| !LABELS_OF_HELM.contains(&name.as_str()));
        }
        fields.values_mut().for_each(without_helm);
    }
}

#[test]
fn the_chart_with_its_defaults_is_the_kustomize_base() -> Result<()> {
    programs_or_skip!("helm", "kubectl");
    let base = by_name(documents(&run("kubectl", &["kustomize", "deploy/kustomize"])?)?);
    let mut chart = by_name(chart(&[])?);
    chart.values_mut().for_each(without_helm);
    assert_eq!(chart.keys().collect::<Vec<_>>(), base.keys().collect::<Vec<_>>());
    for (name, object) in &base {
        assert_eq!(&chart[name], object, "{name}");
    }
    Ok(())
}

#[test]
fn helm_finds_nothing_to_complain_about() -> Result<()> {
    programs_or_skip!("helm");
    run("helm", &["lint", "--strict", CHART]).map(drop)
}

#[test]
fn each_value_arrives_where_it_should() -> Result<()> {
    programs_or_skip!("helm");
    let args = "/spec/template/spec/containers/0/args";
    let env = "/spec/template/spec/containers/0/env";
    for (values, object, place, expected) in [
        (
            &[r#"apiServers=["https://192.0.2.1:6443","https://[2001:db8::1]:6443"]"#][..],
            "DaemonSet/sluice",
            env,
            r#"{"name":"SLUICE_API_SERVER","value":"https://192.0.2.1:6443,https://[2001:db8::1]:6443"}"#,
        ),
        (&[r#"extraArgs=["--nic=bond0"]"#], "DaemonSet/sluice", args, r#""--nic=bond0""#),
        (&[r#"log="debug""#], "DaemonSet/sluice", args, r#""--log=debug""#),
        (&[r#"healthz={"address":"[::]","port":9}"#], "DaemonSet/sluice", args, r#""--healthz-bind-address=[::]:9""#),
        (&["metrics.service=true"], "DaemonSet/sluice", args, r#""--metrics-bind-address=$(NODE_IP):10249""#),
        (&["metrics.services=true"], "DaemonSet/sluice", args, r#""--service-metrics""#),
        (&["metrics.service=true"], "Service/sluice-metrics", "/spec/clusterIP", r#""None""#),
        (
            &["metrics.service=true", "metrics.serviceMonitor=true"],
            "ServiceMonitor/sluice",
            "/spec/endpoints/0/port",
            r#""metrics""#,
        ),
        (
            &["bpffs.mount=true"],
            "DaemonSet/sluice",
            "/spec/template/spec/initContainers/0/securityContext/privileged",
            "true",
        ),
        (&["maxUnavailable=3"], "DaemonSet/sluice", "/spec/updateStrategy/rollingUpdate/maxUnavailable", "3"),
    ] {
        let objects = by_name(chart(values)?);
        let (kind, name) = object.split_once('/').context("kind/name")?;
        let key = format!("{:?}/{:?}", kind, name);
        let found = objects.get(&key).and_then(|object| object.pointer(place));
        let found = found.with_context(|| format!("{values:?}: {object} has no {place}"))?;
        let expected: Value = serde_json::from_str(expected)?;
        let is_there = found == &expected || found.as_array().is_some_and(|list| list.contains(&expected));
        assert!(is_there, "{values:?}: {found}");
    }
    Ok(())
}

#[test]
fn a_value_that_is_spelt_wrongly_is_refused() -> Result<()> {
    programs_or_skip!("helm");
    for wrong in
        [r#"apiServer=["https://192.0.2.1:6443"]"#, r#"apiServers=["192.0.2.1:6443"]"#, "metrics.serviceMonitor=true"]
    {
        assert!(chart(&[wrong]).is_err(), "{wrong}");
    }
    Ok(())
}

#[test]
fn all_files_name_the_version_of_the_workspace() -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    for (path, line) in [
        ("deploy/chart/sluice/Chart.yaml", format!("version: {version}")),
        ("deploy/chart/sluice/Chart.yaml", format!("appVersion: \"{version}\"")),
        ("deploy/kustomize/kustomization.yaml", format!("app.kubernetes.io/version: {version}")),
        ("deploy/kustomize/daemonset.yaml", format!("image: localhost/sluice:{version}")),
        ("deploy/uninstall.yaml", format!("image: localhost/sluice:{version}")),
    ] {
        let text = fs::read_to_string(file(path)).with_context(|| format!("cannot read {path}"))?;
        assert!(text.lines().any(|found| found.trim() == line), "{path} has no line `{line}`");
    }
    Ok(())
}

#[test]
fn each_value_of_the_chart_is_described() -> Result<()> {
    let values = fs::read_to_string(file(&format!("{CHART}/values.yaml")))?;
    let guide = fs::read_to_string(file("docs/kubernetes.md"))?;
    let [values] = &documents(&values)?[..] else { bail!("values.yaml is not one document") };
    for (name, value) in values.as_object().context("no values")? {
        let is_group = ["image", "healthz", "metrics", "bpffs"].contains(&name.as_str());
        let names = match value.as_object().filter(|_| is_group) {
            Some(group) => group.keys().map(|key| format!("`{name}.{key}`")).collect(),
            None => vec![format!("`{name}`")],
        };
        for name in names {
            assert!(guide.contains(&name), "docs/kubernetes.md says nothing of {name}");
        }
    }
    assert!(Path::new(&file("deploy/kustomize/kustomization.yaml")).is_file());
    Ok(())
}
