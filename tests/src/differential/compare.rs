//! Whether two worlds answered alike, and which differences are meant to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::allowed::{ALLOWANCES, Covers};
use super::question::Question;
use super::{Client, Cluster};
use crate::lab::{Outcome, Outcomes, World};

/// What came of one question in one world: of several rounds, while nothing was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Who answered, and as whom he saw the client.
    answers: BTreeMap<SocketAddr, BTreeSet<IpAddr>>,
    /// What else came of the last round.
    others: BTreeSet<String>,
}

impl Found {
    /// Who answered, where it was one and nothing else came.
    pub(super) fn the_one(&self) -> Option<SocketAddr> {
        let one = self.answers.len() == 1 && self.others.is_empty();
        self.answers.keys().next().copied().filter(|_| one)
    }

    /// As whom one who answered saw the client.
    pub(super) fn seen_by(&self, by: &SocketAddr) -> Option<&BTreeSet<IpAddr>> {
        self.answers.get(by)
    }

    /// Who answered.
    pub(super) fn who(&self) -> BTreeSet<SocketAddr> {
        self.answers.keys().copied().collect()
    }

    /// Whether those answered who may: all of them, or one with session affinity, whichever.
    pub(super) fn is_right(&self, question: &Question) -> bool {
        match question.affinity {
            false => self.who() == question.may,
            true => self.answers.len() == 1 && self.who().is_subset(&question.may),
        }
    }

    /// Who answered, but those.
    pub(super) fn beyond(&self, those: &BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
        self.who().difference(those).copied().collect()
    }

    /// Whether the last rounds of both came to the same where nobody answered.
    pub(super) fn ends_as(&self, other: &Self) -> bool {
        self.others == other.others
    }

    /// Whether it was told of something else than silence.
    pub(super) fn is_told(&self) -> bool {
        self.answers.is_empty() && !self.others.contains("silence")
    }

    /// Whether somebody answered.
    pub(super) fn is_answered(&self) -> bool {
        !self.answers.is_empty()
    }

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

    pub(super) fn is_just(&self, other: &str) -> bool {
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
pub(super) struct Case<'a> {
    pub(super) question: &'a Question,
    pub(super) kube_proxy: &'a Found,
    pub(super) sluice: &'a Found,
    /// The client's own address.
    pub(super) own: IpAddr,
    /// Where the source differs: at this backend, of this node.
    pub(super) backend: Option<(SocketAddr, usize)>,
}

impl Case<'_> {
    pub(super) fn is_pod(&self) -> bool {
        matches!(self.question.client, Client::Backend(_) | Client::Pod(_))
    }

    pub(super) fn is_pod_here(&self) -> bool {
        self.is_pod() && self.question.client.node() == self.question.at()
    }

    /// Whether Sluice shows the client as himself, where the source is what differs.
    pub(super) fn sees_own(&self) -> bool {
        self.sees(self.own)
    }

    /// The same for another address.
    pub(super) fn sees(&self, ip: IpAddr) -> bool {
        let seen = self.backend.and_then(|(by, _)| self.sluice.answers.get(&by));
        seen.is_some_and(|seen| seen.iter().eq([&ip]))
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
    let nobody = kube_proxy.answers.is_empty() && sluice.answers.is_empty();
    let same = nobody || kube_proxy.is_right(question) && sluice.is_right(question);
    let mut cases = Vec::new();
    if !same || kube_proxy.others != sluice.others {
        cases.push(case(None));
    }
    // Of its own addresses a node may take whichever: that on its network, or that of its bridge or overlay.
    let (family, at) = (question.family, question.at());
    let own_of_node = [0, 1].map(|n| family.pod_ip_on(at as u8, n));
    let node = |ip: &IpAddr| if own_of_node.contains(ip) { World::node_ip(family, at) } else { *ip };
    let seen_by = |seen: &BTreeSet<IpAddr>| seen.iter().map(node).collect::<BTreeSet<_>>();
    for (by, seen) in &sluice.answers {
        // Only what both found can be compared; with affinity they may have found others.
        if kube_proxy.answers.get(by).is_some_and(|other| seen_by(other) != seen_by(seen)) {
            let backend = cluster.backends.iter().find(|backend| backend.ip(question.family) == by.ip());
            cases.push(case(backend.map(|backend| (*by, backend.node))));
        }
    }
    let mut names = BTreeSet::new();
    for case in &cases {
        let covers = |covers: Covers| matches!(covers, Covers::Answer(covers) if covers(case));
        match ALLOWANCES.iter().find(|allowance| covers(allowance.covers)) {
            Some(allowance) => names.insert(allowance.name),
            None => return Judgement::Different,
        };
    }
    if names.is_empty() { Judgement::Same } else { Judgement::Allowed(names) }
}
