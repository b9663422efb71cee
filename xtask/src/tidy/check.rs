//! The checks: the table of names, and what needs more than a name.
use std::collections::BTreeMap;

use super::{
    Finding, Never, Rule,
    source::{Kind, Source},
};

/// Lines of a file that are not tests: above the first a warning, above the second an error.
const LONG: usize = 400;
const TOO_LONG: usize = 500;

/// Names under which everything and nothing fits.
const NAMELESS: &[&str] = &["helper", "helpers", "manager", "misc", "util", "utils"];

/// Where no function may have a twin for the other address family. Entry points in lb-ebpf must: the kernel has two.
const ONE_FAMILY: &[&str] = &["lb-common/src", "lb-userspace/src"];

/// Folders that exist on some machines only. In parts, so that this file does not find itself.
const MACHINE_PATHS: &[&str] = &[concat!("/", "work"), concat!("/", "root"), concat!("/", "home")];

/// Hosts of package and image registries.
const REGISTRIES: &[&str] = &[
    concat!("artif", "actory"),
    concat!("azurecr", ".io"),
    concat!("docker", ".io"),
    concat!("dkr", ".ecr"),
    concat!("gcr", ".io"),
    concat!("ghcr", ".io"),
    concat!("index.crates", ".io"),
    concat!("jfrog", ".io"),
    concat!("pkg", ".dev"),
    concat!("proxy.golang", ".org"),
    concat!("quay", ".io"),
    concat!("registry.k8s", ".io"),
    concat!("registry.npmjs", ".org"),
    concat!("static.crates", ".io"),
];
/// The one source of crates that a lock file may name.
const CRATES: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Everything, in the order of files and lines.
pub(super) fn all(sources: &[Source], rules: &[Rule]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        if let Some(error) = &source.unreadable {
            findings.push(error_at(source, 1, "unreadable", error.clone(), "a file that is no Rust cannot be checked"));
        }
        rules.iter().for_each(|rule| names(source, rule, &mut findings));
        safety_lines(source, &mut findings);
        length(source, &mut findings);
        file_name(source, &mut findings);
        texts(source, &mut findings);
    }
    twins(sources, &mut findings);
    findings.retain(|finding| !is_allowed(sources, finding));
    findings.sort();
    findings.dedup();
    findings
}

fn error_at(source: &Source, line: usize, rule: &'static str, what: String, why: &'static str) -> Finding {
    Finding { path: source.path.clone(), line, rule, what, why, warning: false }
}

/// One line of the table on one file.
fn names(source: &Source, rule: &Rule, findings: &mut Vec<Finding>) {
    let concerns = |rooms: &[&str]| rooms.iter().any(|room| source.is_in(room));
    if !concerns(rule.rooms) || concerns(rule.except) {
        return;
    }
    let mut found = |what: &str, line, in_test: bool| {
        if rule.in_tests || !in_test {
            findings.push(error_at(source, line, rule.name, format!("`{what}`"), rule.why));
        }
    };
    if let Never::Paths(forbidden) = rule.never {
        for path in source.paths() {
            let text = path.segments.join("::");
            let begins =
                |p: &&&str| text.strip_prefix(**p).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
            if forbidden.iter().find(begins).is_some() {
                found(&text, path.line, path.in_test);
            }
        }
        return;
    }
    for (at, token) in source.tokens.iter().enumerate() {
        let Kind::Word(word) = &token.kind else { continue };
        let kind = |i: Option<usize>| i.and_then(|i| source.tokens.get(i)).map(|t| &t.kind);
        let (before, after) = (kind(at.checked_sub(1)), kind(Some(at + 1)));
        let (forbidden, fits) = match rule.never {
            Never::Words(words) => (words, true),
            Never::Calls(calls) => (calls, before == Some(&Kind::Sign('.')) && after == Some(&Kind::Open('('))),
            Never::Macros(macros) => (macros, after == Some(&Kind::Sign('!'))),
            Never::Paths(_) => continue,
        };
        if fits && forbidden.contains(&word.as_str()) {
            found(word, token.line, token.in_test);
        }
    }
}

/// Every `unsafe` block and impl has its reason above it. clippy looks too, but not everywhere at lb-ebpf.
fn safety_lines(source: &Source, findings: &mut Vec<Finding>) {
    let lines: Vec<&str> = source.text.lines().collect();
    for pair in source.tokens.windows(2) {
        let is_unsafe = pair[0].kind == Kind::Word("unsafe".into());
        let proves = pair[1].kind == Kind::Open('{') || pair[1].kind == Kind::Word("impl".into());
        if is_unsafe && proves && !has_safety_line(&lines, pair[0].line) {
            let why = "each use of unsafe says why it is sound, in a comment that begins with SAFETY:";
            findings.push(error_at(source, pair[0].line, "safety", "`unsafe` without a SAFETY line".into(), why));
        }
    }
}

/// Looks up from a line over comments, attributes and the begun statement.
fn has_safety_line(lines: &[&str], line: usize) -> bool {
    let mut above = lines.iter().take(line).rev().map(|text| text.trim());
    let own = above.next().unwrap_or_default();
    if own.contains("SAFETY:") {
        return true;
    }
    for text in above {
        let is_comment = text.starts_with("//");
        if is_comment && text.contains("SAFETY:") {
            return true;
        }
        // A line that ends a statement or opens a block is another thought.
        let ends = text.is_empty() || text.ends_with([';', '{', '}', ',']);
        if !is_comment && !text.starts_with("#[") && ends {
            return false;
        }
    }
    false
}

/// Long files hide more than one idea. A file of tests may be long at the price of a warning.
fn length(source: &Source, findings: &mut Vec<Finding>) {
    if !source.is_rust() {
        return;
    }
    let all = source.text.lines().count();
    let is_test_file = source.is_test_file();
    let count = if is_test_file { all } else { all - test_lines(source) };
    if count > LONG {
        let what = format!("{count} lines that are not tests");
        let why = "one idea a file: about 400 lines, never more than 500";
        let mut finding = error_at(source, 1, "length", what, why);
        finding.warning = count <= TOO_LONG || is_test_file;
        findings.push(finding);
    }
}

/// The lines between the first and the last token of each test item.
fn test_lines(source: &Source) -> usize {
    let mut count = 0;
    let mut start = None;
    let mut last = 0;
    for token in &source.tokens {
        match (token.in_test, start) {
            (true, None) => start = Some(token.line),
            (false, Some(first)) => {
                count += last + 1 - first;
                start = None;
            }
            _ => {}
        }
        last = token.line;
    }
    count + start.map_or(0, |first| last + 1 - first)
}

fn file_name(source: &Source, findings: &mut Vec<Finding>) {
    let nameless = |part: &str| NAMELESS.contains(&part.trim_end_matches(".rs"));
    if source.is_rust() && source.path.split('/').any(nameless) {
        let why = "a file is named after the idea it holds";
        findings.push(error_at(source, 1, "file-name", format!("`{}`", source.path), why));
    }
}

/// Two functions that differ only in the 4 and the 6 of IPv4 and IPv6, in one crate.
fn twins(sources: &[Source], findings: &mut Vec<Finding>) {
    for room in ONE_FAMILY {
        let mut functions = BTreeMap::new();
        for source in sources.iter().filter(|source| source.is_in(room)) {
            for pair in source.tokens.windows(2) {
                if let (Kind::Word(keyword), Kind::Word(name)) = (&pair[0].kind, &pair[1].kind)
                    && keyword == "fn"
                    && !pair[1].in_test
                {
                    functions.insert(name.as_str(), (source, pair[1].line));
                }
            }
        }
        for (name, (source, line)) in &functions {
            let twin = other_family(name);
            if let Some(twin) = twin.filter(|twin| functions.contains_key(twin.as_str())) {
                let why = "IPv4 and IPv6 are one code, generic over the trait Ip";
                findings.push(error_at(source, *line, "twin", format!("`{twin}` and `{name}`"), why));
            }
        }
    }
}

/// The IPv4 name for the name of an IPv6 function: `send_v6` → `send_v4`, `parse6` → `parse4`, `v6_of` → `v4_of`.
fn other_family(name: &str) -> Option<String> {
    let bytes = name.as_bytes();
    let marks = |at: usize| {
        let begins = at.checked_sub(1).is_some_and(|i| bytes[i] == b'_' || bytes[i].is_ascii_lowercase());
        let ends = bytes.get(at + 1).is_none_or(|next| *next == b'_');
        bytes[at] == b'6' && begins && ends
    };
    let at = (0..bytes.len()).find(|at| marks(*at))?;
    let mut twin = name.to_owned();
    twin.replace_range(at..=at, "4");
    Some(twin)
}

/// What no file may hold, code or not.
fn texts(source: &Source, findings: &mut Vec<Finding>) {
    for (index, line) in source.text.lines().enumerate() {
        let mut found = |rule, what: &str, why| {
            findings.push(error_at(source, index + 1, rule, format!("`{what}`"), why));
        };
        if let Some(path) = MACHINE_PATHS.iter().find(|path| names_folder(line, path)) {
            found("machine-path", path, "the tree works on every machine, not on one");
        }
        if let Some(host) = REGISTRIES.iter().find(|host| line.contains(**host)) {
            found("registry", host, "which registry a machine uses is its own affair");
        }
        let foreign = line.trim().strip_prefix("source = \"").filter(|source| !source.starts_with(CRATES));
        if let Some(foreign) = foreign.filter(|_| source.path.ends_with("Cargo.lock")) {
            found("registry", foreign, "the lock file names crates.io and no mirror or checkout");
        }
    }
}

/// Whether the folder stands in the line as an absolute path: not as a part of a longer name or path.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let is_part = |c: char| c.is_alphanumeric() || "_-.~}/*)".contains(c);
        let before = line[..at].chars().next_back();
        let after = line[at + folder.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(|c| c.is_alphanumeric() || "_-".contains(c))
    })
}

/// `// tidy: allow(rule): reason` on the line or on the one above. Without a reason it allows nothing.
fn is_allowed(sources: &[Source], finding: &Finding) -> bool {
    let Some(source) = sources.iter().find(|source| source.path == finding.path) else {
        return false;
    };
    let first = finding.line.saturating_sub(2);
    let mark = format!("tidy: allow({}): ", finding.rule);
    source
        .text
        .lines()
        .skip(first)
        .take(finding.line - first)
        .any(|line| line.split_once(&mark).is_some_and(|(_, reason)| !reason.trim().is_empty()))
}
