//! `cargo xtask tidy`: the rules of this workspace that a program can check. A rule that is not checked is a wish.
//!
//! The table below is the list: which room, what it must never hold, and why. Checks that are more than a look at
//! names (lengths, twins, SAFETY lines) are in `check`. A place that must break a rule says so, on its line or the one
//! above: `// tidy: allow(rule): reason`.
mod check;
mod source;

use std::{fmt, fs};

use anyhow::{Context, Result, bail};
use ignore::WalkBuilder;

use crate::workspace;

use source::Source;

/// What a rule forbids, as names in the code: comments and texts do not count.
#[derive(Debug, Clone, Copy)]
enum Never {
    /// Paths that begin so, also inside `use a::{b, c}`.
    Paths(&'static [&'static str]),
    /// Words, such as a keyword.
    Words(&'static [&'static str]),
    /// Calls of methods.
    Calls(&'static [&'static str]),
    /// Calls of macros.
    Macros(&'static [&'static str]),
}

/// One line of the table.
#[derive(Debug)]
struct Rule {
    name: &'static str,
    /// Modules, without `.rs`: the file of that name and the folder of that name.
    rooms: &'static [&'static str],
    except: &'static [&'static str],
    never: Never,
    /// Whether the rule holds in tests too.
    in_tests: bool,
    why: &'static str,
}

const CORE: &[&str] = &["lb-common/src"];
const AGENT: &[&str] = &["lb-userspace/src"];
/// The rooms that are functions of their arguments: what was declared becomes what the node needs, facts become health.
const PURE: &[&str] = &[
    "lb-userspace/src/model",
    "lb-userspace/src/state",
    "lb-userspace/src/endpoints",
    "lb-userspace/src/compile",
    "lb-userspace/src/plan",
    "lb-userspace/src/ids",
    "lb-userspace/src/health",
];

/// Reading a clock. An `Instant` or a `Duration` as a value is no clock.
const CLOCKS: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::time::UNIX_EPOCH",
    "time::Instant::now",
    "time::SystemTime::now",
    "Timestamp::now",
    "jiff::Timestamp::now",
];

const RULES: &[Rule] = &[
    Rule {
        name: "core-unsafe",
        rooms: CORE,
        except: &[],
        never: Never::Words(&["unsafe"]),
        in_tests: true,
        why: "what reads packets in the kernel and in tests must be sound without a proof",
    },
    Rule {
        name: "core-std",
        rooms: CORE,
        except: &["lb-common/src/mem"],
        never: Never::Paths(&["std", "alloc"]),
        in_tests: false,
        why: "the core runs in the kernel: no_std, no heap, no clock; only `mem`, the in-memory twin, has std",
    },
    Rule {
        name: "core-clock",
        rooms: CORE,
        except: &[],
        never: Never::Paths(CLOCKS),
        in_tests: true,
        why: "time enters as an argument, so that a test can choose it",
    },
    Rule {
        name: "core-imports",
        rooms: CORE,
        except: &[],
        never: Never::Paths(&[
            "aya",
            "aya_ebpf",
            "aya_log",
            "aya_log_ebpf",
            "kube",
            "k8s_openapi",
            "libc",
            "log",
            "nix",
            "rand",
            "tokio",
            "tracing",
        ]),
        in_tests: true,
        why: "the core knows no kernel, no cluster, no log and no chance",
    },
    Rule {
        name: "ebpf-tables",
        rooms: &["lb-ebpf/src"],
        except: &[],
        never: Never::Words(&["repr"]),
        in_tests: true,
        why: "lb-ebpf has no layout of its own: every key and value is declared once, in lb-common",
    },
    Rule {
        name: "pure-async",
        rooms: PURE,
        except: &[],
        never: Never::Words(&["async", "await"]),
        in_tests: false,
        why: "these rooms are functions of their arguments; waiting belongs to watch and reconcile",
    },
    Rule {
        name: "pure-io",
        rooms: PURE,
        except: &[],
        never: Never::Paths(&[
            "std::env",
            "std::fs",
            "std::io",
            "std::os",
            "std::process",
            "std::thread",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::ToSocketAddrs",
            "std::net::UdpSocket",
            "libc",
            "nix",
            "notify",
            "rtnetlink",
            "tokio",
        ]),
        in_tests: false,
        why: "these rooms are functions of their arguments, and tested as tables",
    },
    Rule {
        name: "pure-print",
        rooms: PURE,
        except: &[],
        never: Never::Macros(&["print", "println", "eprint", "eprintln"]),
        in_tests: false,
        why: "these rooms return what they have to say",
    },
    Rule {
        name: "pure-clock",
        rooms: PURE,
        except: &[],
        never: Never::Paths(CLOCKS),
        in_tests: false,
        why: "time enters as an argument, so that a test can choose it",
    },
    Rule {
        name: "pure-elapsed",
        rooms: PURE,
        except: &[],
        never: Never::Calls(&["elapsed"]),
        in_tests: false,
        why: "time enters as an argument, and `elapsed` reads the clock",
    },
    Rule {
        name: "pure-arrows",
        rooms: PURE,
        except: &[],
        never: Never::Paths(&[
            "crate::bpf",
            "crate::cli",
            "crate::flows",
            "crate::health",
            "crate::metrics",
            "crate::reconcile",
            "crate::show",
        ]),
        in_tests: false,
        why: "arrows point one way: what reads or writes knows these rooms, never the reverse",
    },
    Rule {
        name: "agent-aya",
        rooms: AGENT,
        except: &["lb-userspace/src/bpf"],
        never: Never::Paths(&["aya", "aya_log", "aya_obj"]),
        in_tests: true,
        why: "bpf is the only room that names aya; the others see a Store",
    },
    Rule {
        name: "agent-kube",
        rooms: AGENT,
        except: &["lb-userspace/src/watch"],
        never: Never::Paths(&["kube", "k8s_openapi"]),
        in_tests: true,
        why: "the types of Kubernetes end in watch; the others see the model",
    },
    Rule {
        name: "reconcile-store",
        rooms: &["lb-userspace/src/reconcile"],
        except: &[],
        never: Never::Paths(&["crate::bpf"]),
        in_tests: false,
        why: "the loop works on any Store, so that tests can give it a faulty one",
    },
    Rule {
        name: "watch-tables",
        rooms: &["lb-userspace/src/watch"],
        except: &[],
        never: Never::Paths(&["crate::bpf", "crate::plan", "crate::store", "lb_common::mem", "lb_common::tables"]),
        in_tests: false,
        why: "a source says what was declared; what that means for the kernel is not its business",
    },
    Rule {
        name: "bpf-policy",
        rooms: &["lb-userspace/src/bpf"],
        except: &[],
        never: Never::Paths(&["crate::compile", "crate::endpoints", "crate::model", "crate::state", "crate::watch"]),
        in_tests: false,
        why: "bpf loads, attaches and writes what it is given; it decides nothing",
    },
    Rule {
        name: "show-writes",
        rooms: &["lb-userspace/src/cli", "lb-userspace/src/show"],
        except: &[],
        never: Never::Calls(&["write"]),
        in_tests: false,
        why: "looking changes nothing: only the reconcile loop writes to a Store",
    },
    Rule {
        name: "show-plan",
        rooms: &["lb-userspace/src/cli", "lb-userspace/src/show"],
        except: &[],
        never: Never::Paths(&["crate::plan"]),
        in_tests: false,
        why: "looking changes nothing: who makes no plan writes no map",
    },
    Rule {
        name: "unfinished",
        rooms: &["lb-common", "lb-ebpf", "lb-userspace", "tests", "xtask"],
        except: &[],
        never: Never::Macros(&["dbg", "todo", "unimplemented"]),
        in_tests: true,
        why: "what is committed is finished",
    },
];

/// One place that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    what: String,
    why: &'static str,
    /// A warning is shown and breaks nothing.
    warning: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.warning { "warning" } else { "error" };
        write!(f, "{}:{}: {kind} [{}] {}: {}", self.path, self.line, self.rule, self.what, self.why)
    }
}

/// Checks the whole tree.
pub(crate) fn run() -> Result<()> {
    let sources = read_tree()?;
    let findings = check::all(&sources, RULES);
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| !finding.warning).count();
    let warnings = findings.len() - errors;
    println!("tidy: {} files, {errors} errors, {warnings} warnings", sources.len());
    if errors > 0 {
        bail!("the tree breaks {errors} of its rules");
    }
    Ok(())
}

/// All text files that git would take: those it ignores are nobody's concern.
fn read_tree() -> Result<Vec<Source>> {
    let root = workspace::root();
    let walk = WalkBuilder::new(root)
        .hidden(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_path(Ord::cmp)
        .build();
    let mut sources = Vec::new();
    for entry in walk {
        let entry = entry.context("cannot read the tree")?;
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let bytes = fs::read(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
        sources.push(Source::new(&path.to_string_lossy(), text));
    }
    Ok(sources)
}

#[cfg(test)]
mod tests;
