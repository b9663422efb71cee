//! One sample that breaks each rule, and samples that look like it and do not.
use super::*;

fn findings(files: &[(&str, &str)]) -> Vec<Finding> {
    let sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, (*text).to_owned())).collect();
    check::all(&sources, RULES)
}

fn rules_broken(path: &str, text: &str) -> Vec<&'static str> {
    findings(&[(path, text)]).iter().map(|finding| finding.rule).collect()
}

/// Rule, file, text: each breaks its rule and no other.
const BROKEN: &[(&str, &str, &str)] = &[
    ("core-unsafe", "lb-common/src/ip.rs", "fn f() { unsafe fn g() {} }"),
    ("core-std", "lb-common/src/parse.rs", "use std::vec::Vec;"),
    ("core-std", "lb-common/src/lib.rs", "fn f() -> alloc::vec::Vec<u8> { x }"),
    ("core-clock", "lb-common/src/mem/image.rs", "fn f() { std::time::Instant::now(); }"),
    ("core-imports", "lb-common/src/flow.rs", "use aya_ebpf::maps::HashMap;"),
    ("core-imports", "lb-common/src/mem.rs", "fn f() { tracing::info!(\"x\"); }"),
    ("ebpf-tables", "lb-ebpf/src/maps.rs", "#[repr(C)] struct Key { a: u8 }"),
    ("pure-async", "lb-userspace/src/model.rs", "async fn f() {}"),
    ("pure-io", "lb-userspace/src/endpoints/rules.rs", "use std::{collections::BTreeMap, fs};"),
    ("pure-io", "lb-userspace/src/ids.rs", "fn f() { tokio::spawn(x); }"),
    ("pure-print", "lb-userspace/src/state.rs", "fn f() { println!(\"x\"); }"),
    ("pure-clock", "lb-userspace/src/compile.rs", "fn f() { SystemTime::now(); }"),
    ("pure-elapsed", "lb-userspace/src/ids.rs", "fn f() { then.elapsed(); }"),
    ("pure-arrows", "lb-userspace/src/plan.rs", "use super::bpf::Kernel;"),
    ("agent-aya", "lb-userspace/src/store.rs", "use aya::Pod;"),
    ("agent-kube", "lb-userspace/src/model.rs", "use k8s_openapi::api::core::v1::Service;"),
    ("reconcile-store", "lb-userspace/src/reconcile/sweep.rs", "use crate::bpf::Kernel;"),
    ("watch-tables", "lb-userspace/src/watch/files.rs", "use lb_common::tables::Frontend;"),
    ("bpf-policy", "lb-userspace/src/bpf/maps.rs", "use crate::model::Service;"),
    ("show-writes", "lb-userspace/src/cli/services.rs", "fn f() { store.write(op); }"),
    ("show-plan", "lb-userspace/src/show.rs", "use crate::plan::Op;"),
    ("unfinished", "xtask/src/main.rs", "fn f() { todo!() }"),
    ("safety", "lb-ebpf/src/main.rs", "fn f() {\n    let a = 1;\n    let x = unsafe { *p };\n}"),
    ("safety", "lb-userspace/src/bpf/pod.rs", "unsafe impl Send for X {}"),
    ("file-name", "lb-userspace/src/watch/utils.rs", ""),
    ("file-name", "tests/src/helpers/mod.rs", ""),
    ("twin", "lb-common/src/parse.rs", "fn parse4() {}\nfn parse6() {}"),
    ("machine-path", "README.md", concat!("cd /", "work/main")),
    ("machine-path", ".ci/run", concat!("export HOME=/", "root")),
    ("registry", "deploy/agent.yaml", concat!("image: ghcr", ".io/a/b")),
    ("registry", "Cargo.lock", "source = \"registry+https://mirror.example/index\""),
    ("unreadable", "lb-common/src/ip.rs", "fn f( {"),
];

#[test]
fn each_sample_breaks_its_rule_and_no_other() {
    for (rule, path, text) in BROKEN {
        assert_eq!(rules_broken(path, text), [*rule], "{path}: {text}");
    }
}

#[test]
fn each_rule_of_the_table_has_a_sample() {
    for rule in RULES {
        assert!(BROKEN.iter().any(|(name, ..)| *name == rule.name), "{}", rule.name);
    }
}

#[test]
fn what_only_looks_like_a_breach_is_none() {
    for (path, text) in [
        ("lb-common/src/mem.rs", "use std::collections::BTreeMap;"),
        ("lb-common/src/ip.rs", "// unsafe, std::fs\nuse core::fmt;\n#[cfg(test)]\nmod tests { use std::fs; }"),
        ("lb-common/src/mem/tests.rs", "use std::fs;"),
        ("lb-userspace/src/bpf.rs", "use aya::Ebpf;\nuse crate::plan::Op;"),
        ("lb-userspace/src/watch/kubernetes.rs", "use kube::Api;\nasync fn f() { x.await }"),
        (
            "lb-userspace/src/plan.rs",
            "use std::{net::IpAddr, time::{Duration, Instant}};\nfn f(fs: u8, aya: u8) { fs + aya; }",
        ),
        ("lb-userspace/src/cli.rs", "fn f(out: &mut W) { write!(out, \"x\"); out.write_all(b); }"),
        ("lb-ebpf/src/main.rs", "fn connect4() {}\nfn connect6() {}\n// SAFETY: it is so.\nfn f() {}"),
        ("lb-common/src/hash.rs", "fn load16() {}\nfn load14() {}\nfn sum_v6() {}\nfn sum_v4_of() {}"),
        ("lb-ebpf/src/p.rs", "fn f() {\n    // SAFETY: checked above.\n    let x =\n        unsafe { *p };\n}"),
        ("README.md", "the target directory, `~/.cargo`, /rootfs, a/work/b, $x/work"),
        ("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\""),
    ] {
        assert_eq!(rules_broken(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn twins_are_found_across_the_files_of_a_crate_but_not_across_crates() {
    let twin = findings(&[("lb-common/src/a.rs", "fn send_v4() {}"), ("lb-common/src/b.rs", "\nfn send_v6() {}")]);
    assert_eq!(twin.len(), 1);
    assert_eq!((twin[0].path.as_str(), twin[0].line), ("lb-common/src/b.rs", 2));
    assert!(findings(&[("lb-common/src/a.rs", "fn a4() {}"), ("lb-userspace/src/b.rs", "fn a6() {}")]).is_empty());
}

#[test]
fn a_long_file_is_a_warning_then_an_error_and_tests_do_not_count() {
    let code = |lines| "fn f() {}\n".repeat(lines);
    let of = |text: String| {
        let sources = [Source::new("lb-userspace/src/plan.rs", text)];
        check::all(&sources, &[]).iter().map(|finding| finding.warning).collect::<Vec<_>>()
    };
    assert!(of(code(400)).is_empty());
    assert_eq!(of(code(401)), [true]);
    assert_eq!(of(code(501)), [false]);
    assert!(of(format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", code(390), code(300))).is_empty());
}

#[test]
fn a_breach_with_a_reason_is_allowed_and_without_one_is_not() {
    let with = |comment: &str| rules_broken("lb-userspace/src/store.rs", &format!("{comment}\nuse aya::Pod;"));
    assert!(with("// tidy: allow(agent-aya): the trait is only named").is_empty());
    assert_eq!(with("// tidy: allow(agent-aya): "), ["agent-aya"]);
    assert_eq!(with("// tidy: allow(agent-kube): another rule"), ["agent-aya"]);
}

#[test]
fn a_finding_says_where_what_and_why() {
    let finding = &findings(&[("lb-userspace/src/plan.rs", "\nasync fn f() {}")])[0];
    assert_eq!(
        finding.to_string(),
        "lb-userspace/src/plan.rs:2: error [pure-async] `async`: these rooms are functions of their arguments; \
         waiting belongs to watch and reconcile"
    );
}
