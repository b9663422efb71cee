//! Whether two worlds answered alike, and which differences are meant to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::question::{Frontend, Question};
use super::{Client, Cluster};
use crate::lab::{Outcome, Outcomes};

/// What came of one question in one world: of several rounds, while nothing was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Who answered, and as whom he saw the client.
    answers: BTreeMap<SocketAddr, BTreeSet<IpAddr>>,
    /// What else came of the last round.
    others: BTreeSet<String>,
}

impl Found {
    /// Adds a round. Who answered once is one of those who answer: with few tries not all do in each round. With session
    /// affinity only the last round counts, since two first ones at once may part.
    pub(super) fn add(&mut self, outcomes: &Outcomes, forget: bool) {
        self.others.clear();
        if forget {
            self.answers.clear();
        }
        for outcome in outcomes.keys() {
            match outcome {
                Outcome::Answered { by, client } => drop(self.answers.entry(*by).or_default().insert(*client)),
                other => drop(self.others.insert(other.to_string())),
            }
        }
    }

    /// In one word, for counts.
    pub(super) fn word(&self) -> &str {
        if !self.answers.is_empty() { "answered" } else { self.others.first().map_or("not asked", String::as_str) }
    }

    fn is_just(&self, other: &str) -> bool {
        self.answers.is_empty() && self.others.iter().eq([other])
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.answers.iter().map(|(by, clients)| format!("{by} (sees {clients:?})"));
        f.write_str(&answers.chain(self.others.iter().cloned()).collect::<Vec<_>>().join(", "))
    }
}

/// What differs in one question.
struct Case<'a> {
    question: &'a Question,
    kube_proxy: &'a Found,
    sluice: &'a Found,
    /// The client's own address.
    own: IpAddr,
    /// Where the source differs: at this backend, of this node.
    backend: Option<(SocketAddr, usize)>,
}

/// A difference that is meant to be. docs/behaviour.md tells of each, by its name.
#[derive(Clone, Copy)]
pub struct Allowance {
    /// Its name in reports and in the documentation.
    pub name: &'static str,
    /// Why Sluice does it in another way.
    pub reason: &'static str,
    covers: fn(&Case<'_>) -> bool,
}

/// All of them.
pub const ALLOWANCES: [Allowance; 4] = [
    Allowance {
        name: "a pod keeps its address",
        reason: "Its answers come by its own device, where they are translated back. kube-proxy masquerades to be sure \
                 that they come by at all.",
        covers: |case| case.is_pod_here() && case.sees_own(),
    },
    Allowance {
        name: "a backend of the node sees the client",
        reason: "Its answers leave by the node that translated, so nothing has to be masqueraded. It is what \
                 externalTrafficPolicy: Local is often set for.",
        covers: |case| case.backend.is_some_and(|(_, node)| node == case.question.at()) && case.sees_own(),
    },
    Allowance {
        name: "a process of the node is told at once",
        reason: "Where a packet would be dropped, its socket is refused: there is no packet that could be waited for.",
        covers: |case| {
            let told = case.sluice.answers.is_empty() && !case.sluice.others.contains("silence");
            matches!(case.question.client, Client::Host(_)) && case.kube_proxy.is_just("silence") && told
        },
    },
    Allowance {
        name: "a pod calls the port of another node with policy Local",
        reason: "kube-proxy leads it to endpoints of any node without masquerading, and the answers of most miss the node \
                 that would translate them back. To Sluice it is a client from elsewhere: it finds those of that node.",
        covers: |case| {
            let own = case.question.client.node();
            let of_other = matches!(case.question.frontend, Frontend::NodePort(node) if node != own);
            case.question.external_local && case.is_pod() && of_other
        },
    },
];

impl Case<'_> {
    fn is_pod(&self) -> bool {
        matches!(self.question.client, Client::Backend(_) | Client::Pod(_))
    }

    fn is_pod_here(&self) -> bool {
        self.is_pod() && self.question.client.node() == self.question.at()
    }

    /// Whether Sluice shows the client as himself, where the source is what differs.
    fn sees_own(&self) -> bool {
        let seen = self.backend.and_then(|(by, _)| self.sluice.answers.get(&by));
        seen.is_some_and(|seen| seen.iter().eq([&self.own]))
    }
}

/// How two answers to one question compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Same,
    /// By these allowances.
    Allowed(BTreeSet<&'static str>),
    Different,
}

/// Compares. The clusters are alike, so either will do.
pub(super) fn judge(question: &Question, cluster: &Cluster, kube_proxy: &Found, sluice: &Found) -> Judgement {
    let own = question.client.ip(cluster, question.family);
    let case = |backend| Case { question, kube_proxy, sluice, own, backend };
    let who = |found: &Found| found.answers.keys().copied().collect::<BTreeSet<_>>();
    let same = match &question.one_of {
        None => who(kube_proxy) == who(sluice),
        // Each of the two found one.
        Some(all) => {
            let one = |found: &Found| found.answers.len() == 1 && who(found).is_subset(all);
            one(kube_proxy) && one(sluice) || who(kube_proxy).is_empty() && who(sluice).is_empty()
        }
    };
    let mut cases = Vec::new();
    if !same || kube_proxy.others != sluice.others {
        cases.push(case(None));
    }
    for (by, seen) in &sluice.answers {
        // Only what both found can be compared; with affinity they may have found others.
        if kube_proxy.answers.get(by).is_some_and(|other| other != seen) {
            let backend = cluster.backends.iter().find(|backend| backend.ip(question.family) == by.ip());
            cases.push(case(backend.map(|backend| (*by, backend.node))));
        }
    }
    let mut names = BTreeSet::new();
    for case in &cases {
        match ALLOWANCES.iter().find(|allowance| (allowance.covers)(case)) {
            Some(allowance) => names.insert(allowance.name),
            None => return Judgement::Different,
        };
    }
    if names.is_empty() { Judgement::Same } else { Judgement::Allowed(names) }
}
