//! Whether clients stay with their backend, in each world by itself: the two may lead a client to different ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::Client;
use super::compare::Found;
use super::question::Question;
use crate::lab::Family;

/// Who stays: a client, with a port of a Service in a family, at the node that translates.
type Who = (String, usize, Family, Client, usize);

/// To whom each client was led in one world.
#[derive(Debug, Default)]
pub(super) struct Stays(BTreeMap<Who, SocketAddr>);

/// A client was led to another backend than the one that it should have stayed with.
#[derive(Debug)]
pub(super) struct Strayed {
    /// What it asked; the place among the questions.
    pub(super) question: usize,
    /// With whom it should have stayed.
    pub(super) before: SocketAddr,
}

impl Stays {
    /// Takes in what came of questions; who strayed. Kinds of addresses of which different endpoints serve have a backend
    /// each with kube-proxy, so where a client has such, nothing is asked of it.
    pub(super) fn take(&mut self, questions: &[Question], found: &[&Found]) -> Vec<Strayed> {
        let mut groups = BTreeMap::<Who, Vec<usize>>::new();
        for (at, question) in questions.iter().enumerate().filter(|(_, question)| question.affinity) {
            let Question { service, port, family, client, .. } = question;
            groups.entry((service.clone(), *port, *family, *client, question.at())).or_default().push(at);
        }
        self.0.retain(|who, _| groups.contains_key(who));
        let mut strayed = Vec::new();
        for (who, group) in groups {
            let all: BTreeSet<_> = group.iter().map(|at| &questions[*at].may).collect();
            let mut stays = self.0.remove(&who).filter(|backend| all.iter().all(|may| may.contains(backend)));
            if all.len() > 1 {
                continue;
            }
            for at in group {
                if let Some(backend) = found[at].the_one() {
                    let before = *stays.get_or_insert(backend);
                    if before != backend {
                        strayed.push(Strayed { question: at, before });
                    }
                }
            }
            self.0.extend(stays.map(|backend| (who, backend)));
        }
        strayed
    }
}
