//! Which differences are meant to be.

use super::Client;
use super::compare::Case;
use super::lasting::{Fate, Lasted};
use super::question::{Frontend, Question};
use crate::lab::{Call, Outcome, Protocol};

/// A difference that is meant to be. docs/behaviour.md tells of each, by its name.
#[derive(Clone, Copy)]
pub struct Allowance {
    /// Its name in reports and in the documentation.
    pub name: &'static str,
    /// Why Sluice does it in another way.
    pub reason: &'static str,
    pub(super) covers: Covers,
}

/// Whether it is what differs.
#[derive(Clone, Copy)]
pub(super) enum Covers {
    /// In what comes of a new question.
    Answer(fn(&Case<'_>) -> bool),
    /// In what becomes of a conversation after a change.
    Lasting(fn(&Lasted<'_>) -> bool),
}

/// All of them.
pub const ALLOWANCES: &[Allowance] = &[
    Allowance {
        name: "a pod keeps its address",
        reason: "Its answers come by its own device, where they are translated back. kube-proxy masquerades to be sure \
                 that they come by at all.",
        covers: Covers::Answer(|case| case.is_pod_here() && case.sees_own()),
    },
    Allowance {
        name: "a backend of the node sees the client",
        reason: "Its answers leave by the node that translated, so nothing has to be masqueraded. It is what \
                 externalTrafficPolicy: Local is often set for.",
        covers: Covers::Answer(|case| {
            case.backend.is_some_and(|(_, node)| node == case.question.at()) && case.sees_own()
        }),
    },
    Allowance {
        name: "a process of the node is told at once",
        reason: "Where a packet would be dropped, its socket is refused: there is no packet that could be waited for.",
        covers: Covers::Answer(|case| {
            let host = matches!(case.question.client, Client::Host(_));
            host && case.kube_proxy.is_just("silence") && case.sluice.is_told()
        }),
    },
    Allowance {
        name: "a pod calls the port of another node with policy Local",
        reason: "kube-proxy leads it to endpoints of any node without masquerading, and the answers of most miss the node \
                 that would translate them back. To Sluice it is a client from elsewhere: it finds those of that node.",
        covers: Covers::Answer(|case| {
            let own = case.question.client.node();
            let of_other = matches!(case.question.frontend, Frontend::NodePort(node) if node != own);
            case.question.external_local && case.is_pod() && of_other
        }),
    },
    Allowance {
        name: "a pod calls the port of another node with policy Local",
        reason: "The same after a change.",
        covers: Covers::Lasting(|lasted| {
            let Question { client, frontend, .. } = lasted.talk.question;
            let is_pod = matches!(client, Client::Backend(_) | Client::Pod(_));
            let of_other = matches!(frontend, Frontend::NodePort(node) if node != client.node());
            lasted.external_local && is_pod && of_other && matches!(lasted.kube_proxy, Fate::Ended(_))
        }),
    },
    Allowance {
        name: "a process of the node over SCTP",
        reason: "The kernel asks no program when a socket of SCTP connects. What is sent to a ClusterIP, or to a NodePort of the \
                 node's own, meets one at the service device, where a node calls itself from a ClusterIP; what is sent to \
                 other addresses meets none.",
        covers: Covers::Answer(|case| {
            let &Question { client, protocol, frontend, to, .. } = case.question;
            let is_own = matches!(client, Client::Host(node) if node == case.question.at());
            let by_itself = match frontend {
                Frontend::ClusterIp => case.sees(to.ip()),
                _ => !case.sluice.is_answered(),
            };
            protocol == Protocol::Sctp && is_own && by_itself
        }),
    },
    Allowance {
        name: "a process of the node that reaches its own node sees the ClusterIP",
        reason: "By the service device packets of such a process leave and come in again: under its own address they would be \
                 a forgery.",
        covers: Covers::Answer(|case| {
            let at = case.question.at();
            let own = matches!(case.question.client, Client::Host(node) if node == at);
            own && case.backend.is_some_and(|(by, node)| {
                let seen = case.sluice.seen_by(&by);
                node == at && seen.is_some_and(|seen| seen.iter().eq([&case.question.to.ip()]))
            })
        }),
    },
    Allowance {
        name: "a Service with the label headless",
        reason: "It is not programmed. kube-proxy heeds the label at EndpointSlices only.",
        covers: Covers::Answer(|case| case.question.headless && !case.sluice.is_answered()),
    },
    Allowance {
        name: "datagrams to an address that is no more",
        reason: "Where a Service is deleted, or an address taken from it, kube-proxy leaves flows of datagrams at their \
                 backend for as long as they go on. With Sluice they end.",
        covers: Covers::Lasting(|lasted| {
            lasted.is_datagrams() && !lasted.offered && lasted.kube_proxy == Fate::Stays && lasted.is_ended()
        }),
    },
    Allowance {
        name: "datagrams to an address that is no more",
        reason: "A new socket may have the port of one before it, whose flow kube-proxy has left.",
        covers: Covers::Answer(|case| {
            let nobody = case.question.may.is_empty() && !case.sluice.is_answered();
            case.question.protocol == Protocol::Udp && nobody && case.kube_proxy.ends_as(case.sluice)
        }),
    },
    Allowance {
        name: "datagrams move on from a backend that serves no new ones",
        reason: "The same: such a flow goes on with a backend that answers.",
        covers: Covers::Answer(|case| {
            let (question, others) = (case.question, case.kube_proxy.beyond(&case.question.may));
            let old = question.protocol == Protocol::Udp && !others.is_empty() && others.is_subset(&question.answering);
            old && case.sluice.is_right(question) && case.kube_proxy.ends_as(case.sluice)
        }),
    },
    Allowance {
        name: "datagrams to a NodePort that nobody serves any more",
        reason: "kube-proxy leaves them at the backend that left, since it cannot tell them from others to that port.",
        covers: Covers::Lasting(|lasted| {
            let nobody = lasted.is_node_port() && lasted.answering.is_empty();
            lasted.is_datagrams() && nobody && lasted.kube_proxy == Fate::Stays && lasted.is_ended()
        }),
    },
    Allowance {
        name: "datagrams move on from a backend that serves no new ones",
        reason: "kube-proxy leaves flows of datagrams at a backend that answers while it is going away, and where hints \
                 or a traffic policy now exclude it. With Sluice the next datagram goes to a backend of today.",
        covers: Covers::Lasting(|lasted| {
            let left = lasted.offered && !lasted.may.contains(&lasted.talk.backend);
            lasted.is_datagrams() && left && lasted.kube_proxy == Fate::Stays && lasted.sluice != Fate::Stays
        }),
    },
    Allowance {
        name: "a connected socket of the node is closed",
        reason: "It was led to its backend once, and its packets are not translated. So its process is told when that \
                 backend leaves, and opens another.",
        covers: Covers::Lasting(|lasted| {
            let talk = lasted.talk;
            let led = lasted.is_by_host() && talk.call == Call::Connected;
            let closed = matches!(&lasted.sluice, Fate::Ended(Outcome::Failed(_)));
            lasted.is_datagrams() && led && closed && !lasted.may.contains(&talk.backend)
        }),
    },
    Allowance {
        name: "a socket of the node that sends without a connection moves on",
        reason: "It is led datagram by datagram, the same way while a Service stays as it is. When endpoints come or go, or \
                 session affinity is switched, some of such sockets go elsewhere, also from a backend that is still there.",
        covers: Covers::Lasting(|lasted| {
            let led = lasted.is_by_host() && lasted.talk.call == Call::EachTime;
            let moved = matches!(lasted.sluice, Fate::Moved(to) if lasted.may.contains(&to));
            lasted.is_datagrams() && led && moved && lasted.kube_proxy == Fate::Stays
        }),
    },
];
