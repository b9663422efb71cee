//! Conversations that live across changes: connections and sockets of datagrams that were opened before a change, in both
//! worlds with the same backend, and go on after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::thread::scope;

use anyhow::{Result, anyhow};

use super::allowed::{ALLOWANCES, Covers};
use super::model::Service;
use super::question::{Frontend, Question, is_offered, questions_of};
use super::{Backend, Client, Side};
use crate::lab::{Call, Outcome, Probe, Protocol};
use crate::packets::random::Seed;

/// At the same time, so that rounds stay short.
const TALKS: usize = 64;
/// Sockets that are opened for one conversation, in the hope that both worlds lead one to the same backend.
const TRIES: u16 = 6;
/// Milliseconds of patience of each round in which differences get to vanish: a world may take a moment longer than the
/// other until datagrams move on.
const ROUNDS: [u64; 5] = [250, 600, 600, 1_600, 1_600];

/// One conversation, in both worlds.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    /// What it began with.
    pub(super) question: Question,
    pub(super) call: Call,
    /// Who answers.
    pub(super) backend: SocketAddr,
}

impl Talk {
    /// For people.
    fn text(&self) -> String {
        format!("{}, {:?} from before, with {}", self.question.text(), self.call, self.backend)
    }
}

/// What became of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The same backend answers.
    Stays,
    /// Another one does.
    Moved(SocketAddr),
    /// Nobody does.
    Ended(Outcome),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stays => f.write_str("goes on"),
            Self::Moved(to) => write!(f, "goes on with {to}"),
            Self::Ended(outcome) => outcome.fmt(f),
        }
    }
}

impl Fate {
    fn of(outcome: &Outcome, talk: &Talk) -> Self {
        match outcome {
            Outcome::Answered { by, .. } if *by == talk.backend => Self::Stays,
            Outcome::Answered { by, .. } => Self::Moved(*by),
            other => Self::Ended(other.clone()),
        }
    }
}

/// A conversation after a change.
pub(super) struct Lasted<'a> {
    pub(super) talk: &'a Talk,
    /// Whether its Service still has the address and port.
    pub(super) offered: bool,
    /// `externalTrafficPolicy: Local`, before or now.
    pub(super) external_local: bool,
    /// Who serves new ones.
    pub(super) may: BTreeSet<SocketAddr>,
    /// Who would still answer.
    pub(super) answering: BTreeSet<SocketAddr>,
    pub(super) kube_proxy: Fate,
    pub(super) sluice: Fate,
}

impl<'a> Lasted<'a> {
    fn new(talk: &'a Talk, [kube_proxy, sluice]: [Fate; 2], services: &[Service], backends: &[Backend]) -> Self {
        let asked = &talk.question;
        let service = services.iter().find(|service| service.name() == asked.service);
        // Another one may have its name since.
        let now = service.and_then(|service| {
            let same = |now: &Question| now.is_again(asked);
            Some((service, questions_of(service, backends).into_iter().find(same)?))
        });
        let offered = now.as_ref().is_some_and(|(service, _)| is_offered(service, asked.frontend));
        let external_local = asked.external_local || now.as_ref().is_some_and(|(_, now)| now.external_local);
        let (may, answering) = now.filter(|_| offered).map(|(_, now)| (now.may, now.answering)).unwrap_or_default();
        Self { talk, offered, external_local, may, answering, kube_proxy, sluice }
    }

    /// Datagrams through a connected socket, or each on its own.
    pub(super) fn is_datagrams(&self) -> bool {
        self.talk.question.protocol == Protocol::Udp
    }

    /// From a process of a node.
    pub(super) fn is_by_host(&self) -> bool {
        matches!(self.talk.question.client, Client::Host(_))
    }

    pub(super) fn is_node_port(&self) -> bool {
        matches!(self.talk.question.frontend, Frontend::NodePort(_))
    }

    /// Whether nobody answers with Sluice.
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.sluice, Fate::Ended(_))
    }

    fn is_same(&self) -> bool {
        match (&self.kube_proxy, &self.sluice) {
            // Each chooses anew.
            (Fate::Moved(one), Fate::Moved(other)) => [one, other].iter().all(|to| self.may.contains(to)),
            // To whom sends without a connection, the kernel says of a rule of netfilter that it is not permitted.
            (Fate::Ended(_), Fate::Ended(_)) if self.is_by_host() && self.talk.call == Call::EachTime => true,
            (one, other) => one == other,
        }
    }

    /// The allowance by which it may differ.
    fn allowance(&self) -> Option<&'static str> {
        let covers = |covers: Covers| matches!(covers, Covers::Lasting(covers) if covers(self));
        ALLOWANCES.iter().find(|allowance| covers(allowance.covers)).map(|allowance| allowance.name)
    }
}

/// What came of going on.
#[derive(Debug, Default)]
pub(super) struct Went {
    /// What became of them with kube-proxy.
    pub(super) fates: BTreeMap<String, usize>,
    /// Those that differ as they may, by the name of the allowance.
    pub(super) allowed: BTreeMap<&'static str, usize>,
    /// All others that differ: which, the Service, and what came of it in both worlds.
    pub(super) different: Vec<(String, String, [String; 2])>,
}

/// All that are under way, by client, in the order in which its prober has them.
#[derive(Debug, Default)]
pub(super) struct Talks(BTreeMap<Client, Vec<Talk>>);

impl Talks {
    /// Ends all.
    pub(super) fn end(&mut self, sides: &[Side<'_>; 2]) -> Result<()> {
        self.0.clear();
        sides.iter().try_for_each(|side| side.keep(&BTreeMap::new()))
    }

    /// Begins some more, of questions that were answered in both worlds.
    pub(super) fn begin(&mut self, sides: &[Side<'_>; 2], answered: &[&Question], seed: &mut Seed) -> Result<()> {
        for call in [Call::Connected, Call::EachTime] {
            let room = TALKS.saturating_sub(self.0.values().map(Vec::len).sum()) / 2;
            let fits = |question: &&&Question| call == Call::Connected || question.protocol == Protocol::Udp;
            let mut left: Vec<_> = answered.iter().filter(fits).collect();
            let count = room.min(left.len());
            let chosen: Vec<_> =
                (0..count).map(|_| *left.swap_remove(seed.below(left.len() as u64) as usize)).collect();
            self.begin_these(sides, &chosen, call)?;
        }
        Ok(())
    }

    fn begin_these(&mut self, sides: &[Side<'_>; 2], questions: &[&Question], call: Call) -> Result<()> {
        let probe = |question: &&Question| {
            let &Question { client, to, protocol, .. } = *question;
            (client, Probe { to, protocol, tries: TRIES, patience_ms: 600 })
        };
        let probes: Vec<_> = questions.iter().map(probe).collect();
        let [kube_proxy, sluice] = both(sides, |side| side.begin(&probes, call))?;
        let old: BTreeMap<_, _> = self.0.iter().map(|(client, talks)| (*client, talks.len())).collect();
        let keep: BTreeMap<_, Vec<usize>> =
            old.iter().map(|(client, count)| (*client, (0..*count).collect())).collect();
        let (mut keep, mut begun) = ([keep.clone(), keep], BTreeMap::<Client, usize>::new());
        for ((question, first), second) in questions.iter().zip(kube_proxy).zip(sluice) {
            let client = question.client;
            let place = begun.entry(client).or_default();
            let first_place = old.get(&client).unwrap_or(&0) + *place;
            *place += first.len();
            let (first, second) = (by_backend(&first), by_backend(&second));
            let Some((backend, places)) = first.iter().find_map(|(by, at)| Some((*by, [*at, *second.get(by)?]))) else {
                continue;
            };
            for (keep, place) in keep.iter_mut().zip(places) {
                keep.entry(client).or_default().push(first_place + place);
            }
            self.0.entry(client).or_default().push(Talk { question: (*question).clone(), call, backend });
        }
        sides.iter().zip(&keep).try_for_each(|(side, keep)| side.keep(keep))
    }

    /// Goes on with all. Those that go on as they did stay under way.
    pub(super) fn go_on(&mut self, sides: &[Side<'_>; 2], services: &[Service]) -> Result<Went> {
        let backends = &sides[0].cluster().backends;
        let mut went = Went::default();
        if self.0.values().all(Vec::is_empty) {
            return Ok(went);
        }
        let mut fates = BTreeMap::new();
        for (round, patience_ms) in ROUNDS.into_iter().enumerate() {
            let [kube_proxy, sluice] = both(sides, |side| side.go_on(patience_ms))?;
            let mut open = false;
            for (client, talks) in &self.0 {
                for (at, talk) in talks.iter().enumerate() {
                    let pair = [&kube_proxy, &sluice].map(|outcomes| Fate::of(&outcomes[client][at], talk));
                    let lasted = Lasted::new(talk, pair.clone(), services, backends);
                    // What may differ is asked once more, too: it may only be slow.
                    open |= !lasted.is_same() && (round == 0 || lasted.allowance().is_none());
                    fates.insert((*client, at), pair);
                }
            }
            if !open {
                break;
            }
        }
        let mut keep = BTreeMap::<_, Vec<usize>>::new();
        for ((client, at), pair) in fates {
            let talk = &self.0[&client][at];
            let lasted = Lasted::new(talk, pair, services, backends);
            *went.fates.entry(lasted.word()).or_default() += 1;
            if lasted.is_same() {
                if lasted.sluice == Fate::Stays {
                    keep.entry(client).or_default().push(at);
                }
            } else if let Some(name) = lasted.allowance() {
                *went.allowed.entry(name).or_default() += 1;
            } else {
                let found = [&lasted.kube_proxy, &lasted.sluice].map(ToString::to_string);
                went.different.push((talk.text(), talk.question.service.clone(), found));
            }
        }
        sides.iter().try_for_each(|side| side.keep(&keep))?;
        for (client, talks) in &mut self.0 {
            let mut at = 0..;
            talks.retain(|_| at.next().is_some_and(|at| keep.get(client).is_some_and(|keep| keep.contains(&at))));
        }
        Ok(went)
    }
}

impl Lasted<'_> {
    /// For counts.
    fn word(&self) -> String {
        let fate = match &self.kube_proxy {
            Fate::Stays => "goes on",
            Fate::Moved(_) => "goes on with another",
            Fate::Ended(Outcome::Refused) => "is refused",
            Fate::Ended(_) => "ends",
        };
        format!("{} {fate}", self.talk.question.protocol.name())
    }
}

/// The first place of each backend that answers.
fn by_backend(outcomes: &[Outcome]) -> BTreeMap<SocketAddr, usize> {
    let answered = outcomes.iter().enumerate().rev();
    answered
        .filter_map(|(at, outcome)| match outcome {
            Outcome::Answered { by, .. } => Some((*by, at)),
            _ => None,
        })
        .collect()
}

/// Both worlds do something at the same time.
pub(super) fn both<T: Send>(sides: &[Side<'_>; 2], work: impl Fn(&Side<'_>) -> Result<T> + Sync) -> Result<[T; 2]> {
    let ([first, second], work) = (sides, &work);
    let (first, second) = scope(|scope| {
        let second = scope.spawn(|| work(second));
        let first = work(first);
        (first, second.join().unwrap_or_else(|_| Err(anyhow!("a world panicked"))))
    });
    Ok([first?, second?])
}
