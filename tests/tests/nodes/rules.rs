//! What has to come of a row of the matrix, with kube-proxy and with Sluice.

use sluice_tests::differential::Client;
use sluice_tests::lab::Protocol;

use super::matrix::{Kind, Place, Policy, Row};

/// As whom the backend sees the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Itself.
    Client,
    /// The node that translates.
    Node,
    /// The address that was called.
    Service,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Answer(Source),
    Refusal,
    Silence,
    /// A process is told at its socket what a packet of it would not be told.
    Error,
}

use Expected::{Answer, Error, Refusal, Silence};

/// A row to which `when` applies, and no rule before, is treated so.
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) when: fn(&Row) -> bool,
    pub(super) kube_proxy: Expected,
    pub(super) sluice: Expected,
}

pub(super) const RULES: [Rule; 16] = [
    Rule {
        name: "kube-proxy listens at loopback addresses for TCP only, with the policy Local only for endpoints of the node, \
               and not at all for none: the port is closed. To Sluice it is an address as others are",
        when: |row| row.kind == Kind::Loopback && row.place == Place::Nowhere,
        kube_proxy: Refusal,
        sluice: Refusal,
    },
    Rule {
        name: "the same: closed with kube-proxy",
        when: |row| {
            let elsewhere = row.policy == Policy::Local && !row.is_here();
            row.kind == Kind::Loopback && (row.protocol == Protocol::Udp || elsewhere)
        },
        kube_proxy: Refusal,
        sluice: Answer(Source::Node),
    },
    Rule {
        name: "the same: open",
        when: |row| row.kind == Kind::Loopback,
        kube_proxy: Answer(Source::Node),
        sluice: Answer(Source::Node),
    },
    Rule {
        name: "a Service without endpoints refuses",
        when: |row| row.place == Place::Nowhere,
        kube_proxy: Refusal,
        sluice: Refusal,
    },
    Rule {
        name: "internal policy Local with endpoints elsewhere only: a socket of the host is told",
        when: |row| {
            let told = row.is_host() && !row.is_by_device();
            row.kind == Kind::ClusterIp && row.policy == Policy::Local && !row.is_here() && told
        },
        kube_proxy: Silence,
        sluice: Error,
    },
    Rule {
        name: "internal policy Local with endpoints elsewhere only",
        when: |row| row.kind == Kind::ClusterIp && row.policy == Policy::Local && !row.is_here(),
        kube_proxy: Silence,
        sluice: Silence,
    },
    Rule {
        name: "external policy Local with endpoints elsewhere only, for clients that are not of this node or a pod",
        when: |row| row.kind != Kind::ClusterIp && row.policy == Policy::Local && !row.is_here() && row.is_foreign(),
        kube_proxy: Silence,
        sluice: Silence,
    },
    Rule {
        name: "external policy Local keeps the client's address",
        when: |row| row.kind != Kind::ClusterIp && row.policy == Policy::Local && row.is_foreign(),
        kube_proxy: Answer(Source::Client),
        sluice: Answer(Source::Client),
    },
    Rule {
        name: "a pod calls another node's port with policy Local and endpoints elsewhere only: to Sluice it is a stranger, \
               and kube-proxy leads it on, but the answer misses the node that translated",
        when: |row| row.is_by_other_node() && row.policy == Policy::Local && !row.is_here(),
        kube_proxy: Silence,
        sluice: Silence,
    },
    Rule {
        name: "a pod that reaches itself has another source, else the answer would not leave it",
        when: |row| row.client == Client::Backend(0) && row.place == Place::Pod(0),
        kube_proxy: Answer(Source::Node),
        sluice: Answer(Source::Node),
    },
    Rule {
        name: "a node that calls itself by the service device comes from the virtual IP, so that the answer does, too",
        when: |row| row.is_by_device() && row.kind == Kind::ClusterIp && row.place == Place::Host(row.at()),
        kube_proxy: Answer(Source::Client),
        sluice: Answer(Source::Service),
    },
    Rule {
        name: "a backend on the host network of the node that translates is reached without masquerading",
        when: |row| row.place == Place::Host(row.at()),
        kube_proxy: Answer(Source::Client),
        sluice: Answer(Source::Client),
    },
    Rule {
        name: "pods keep their address toward a ClusterIP, and with policy Local",
        when: |row| row.is_pod() && (row.kind == Kind::ClusterIp || row.policy == Policy::Local),
        kube_proxy: Answer(Source::Client),
        sluice: Answer(Source::Client),
    },
    Rule {
        name: "kube-proxy masquerades all others; Sluice keeps the address where the answer comes by anyway: of its pods",
        when: |row| row.is_pod() && row.client.node() == row.at(),
        kube_proxy: Answer(Source::Node),
        sluice: Answer(Source::Client),
    },
    Rule {
        name: "the same: from backends on the node that translates",
        when: Row::is_here,
        kube_proxy: Answer(Source::Node),
        sluice: Answer(Source::Client),
    },
    Rule {
        name: "everyone else is masqueraded",
        when: |_| true,
        kube_proxy: Answer(Source::Node),
        sluice: Answer(Source::Node),
    },
];
