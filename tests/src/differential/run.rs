//! The run: clusters one after the other, in the same pair of worlds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::affinity::{Stays, Strayed};
use super::compare::{Found, Judgement, judge};
use super::generate::Generator;
use super::lasting::{Talks, Went, both};
use super::model::{self, Service};
use super::question::{Question, questions};
use super::report::Findings;
use super::{Api, Client, Cluster, FEATURES, Feature, Finding, Kind, PORTS, Report, Side, Subject};
use crate::lab::{FAMILIES, Family, Outcome, Outcomes, Probe, Protocol, WorldOptions};
use crate::packets::random::Seed;
use crate::plane::{Plane, PlaneOptions};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// So many clusters, of this seed and those after it.
    pub clusters: u64,
    /// The seed of the first.
    pub seed: u64,
    /// Changes of each.
    pub changes: usize,
    /// How the worlds are made.
    pub world: WorldOptions,
    /// What runs beside kube-proxy: another kube-proxy shows what the lab itself makes differ.
    pub beside: Subject,
}

/// Milliseconds of patience, and tries of each question, in the rounds that differences get to vanish. Most answer at
/// once; what is silent is asked again with more patience, since a machine may be busy, and since kube-proxy's refusals
/// over IPv6 may take a second. More tries find endpoints that few did not: one of eight is missed by 84 once in 10^5.
const ROUNDS: [(u64, u16); 6] = [(250, 4), (1_600, 16), (600, 16), (1_600, 16), (600, 16), (1_600, 16)];
/// How long a world may take until it has heard of all that was written.
const HEARD: Duration = Duration::from_secs(30);

/// Runs it.
///
/// # Errors
/// The worlds or the control plane cannot run here, or one never hears of a change.
pub fn run(options: &Options) -> Result<Report> {
    let clusters = [Cluster::new(options.world)?, Cluster::new(options.world)?];
    let mut plane = Plane::start_in(&clusters[0].world, PlaneOptions { api_servers: 1, controllers: false })?;
    for node in &clusters[1].world.nodes {
        plane.join(node)?;
    }
    let subjects = [Subject::KubeProxy, options.beside];
    let sides = [0, 1].map(|n| Side::start(&clusters[n], subjects[n], &plane.kubeconfig()));
    let [kube_proxy, sluice] = sides;
    let mut twins = Twins {
        features: if options.beside == Subject::Sluice { FEATURES } else { &Feature::ALL },
        api: Api::new(&plane)?,
        sides: [kube_proxy?, sluice?],
        written: BTreeMap::new(),
        marker: 0,
        talks: Talks::default(),
        stays: Default::default(),
        report: Report::default(),
    };
    let bar = ProgressBar::new(options.clusters);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} clusters, {eta} left  {msg}")?);
    for seed in (options.seed..).take(usize::try_from(options.clusters)?) {
        let known = twins.report.findings.len();
        twins.cluster(seed, options.changes)?;
        // A long run may be ended before its report.
        bar.suspend(|| eprint!("{}", Findings(&twins.report.findings[known..])));
        bar.inc(1);
        bar.set_message(format!("{} differ", twins.report.findings.len()));
    }
    bar.finish_and_clear();
    Ok(twins.report)
}

/// Where a run is.
#[derive(Clone, Copy)]
struct Step<'a> {
    seed: u64,
    changes: usize,
    change: &'a str,
}

struct Twins<'a> {
    features: &'static [Feature],
    api: Api<'a>,
    sides: [Side<'a>; 2],
    /// What the API holds.
    written: BTreeMap<(Kind, String), Value>,
    marker: u16,
    talks: Talks,
    stays: [Stays; 2],
    report: Report,
}

impl Twins<'_> {
    fn cluster(&mut self, seed: u64, changes: usize) -> Result<()> {
        let cluster = self.sides[0].cluster();
        let mut generator = Generator::new(seed, self.features, &cluster.backends);
        let mut change = "as it began".to_owned();
        let mut choice = Seed(seed);
        self.talks.end(&self.sides)?;
        self.stays = Default::default();
        for done in 0..=changes {
            let before = generator.services.clone();
            if done > 0 {
                change = generator.change();
            }
            let services = &generator.services;
            self.write(services.iter().flat_map(|service| service.objects(&cluster.backends)))?;
            self.wait()?;
            let step = Step { seed, changes: done, change: &change };
            self.go_on(services, step)?;
            // What has gone must be silent, too: nobody serves it.
            let gone = before.iter().filter(|old| services.iter().all(|service| service.number != old.number));
            let gone = gone.map(|old| Service { slices: Vec::new(), ..old.clone() });
            let asked: Vec<_> = services.iter().cloned().chain(gone).collect();
            self.ask(&asked, step, &mut choice)?;
        }
        self.report.clusters += 1;
        self.report.changes += changes;
        Ok(())
    }

    /// Makes the API hold these objects and no others.
    fn write(&mut self, objects: impl Iterator<Item = Value>) -> Result<()> {
        let wanted: BTreeMap<_, _> = objects.map(|object| (model::key(&object), object)).collect();
        let gone: Vec<_> = self.written.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        let news = wanted.iter().filter(|(key, object)| self.written.get(*key) != Some(*object));
        let news: Vec<_> = news.map(|(_, object)| object.clone()).collect();
        // What a Service leaves free, another may want at once; a slice goes when others have taken its place.
        let (services, slices): (Vec<_>, _) = gone.into_iter().partition(|(kind, _)| *kind == Kind::Service);
        self.api.delete(&services)?;
        self.api.apply(&news)?;
        self.api.delete(&slices)?;
        self.written = wanted;
        Ok(())
    }

    /// Waits until both worlds have heard of all that was written: the last that is, a Service and its slices, has then
    /// reached every node.
    fn wait(&mut self) -> Result<()> {
        self.marker += 1;
        let n = self.marker;
        let backend = &self.sides[0].cluster().backends[usize::from(n) % 2];
        let (port, target) = (1_000 + n, PORTS[usize::from(n) % PORTS.len()]);
        let cluster_ip = |family: Family| family.cluster_ip(250);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "marker" },
            "spec": {
                "clusterIP": cluster_ip(Family::V4), "clusterIPs": FAMILIES.map(cluster_ip),
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                "ports": [{ "name": "marker", "protocol": "TCP", "port": port }],
            },
        });
        let slices = FAMILIES.map(|family| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": { "name": format!("marker-{family:?}").to_lowercase(),
                              "labels": { "kubernetes.io/service-name": "marker" } },
                "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
                "ports": [{ "name": "marker", "protocol": "TCP", "port": target }],
                "endpoints": [{ "addresses": [backend.ip(family)], "conditions": { "ready": true } }],
            })
        });
        self.api.apply(&[service].into_iter().chain(slices).collect::<Vec<_>>())?;

        let mut left = Vec::new();
        for family in FAMILIES {
            let (to, by) = ((cluster_ip(family), port).into(), (backend.ip(family), target).into());
            let probe = Probe { to, protocol: Protocol::Tcp, tries: 1, patience_ms: 100 };
            left.extend([0, 1, 2].map(|node| (Client::Pod(node), probe, by)));
        }
        for side in &self.sides {
            let (start, mut left) = (Instant::now(), left.clone());
            while !left.is_empty() {
                if start.elapsed() > HEARD {
                    let log = side.log(left[0].0.node());
                    bail!("a world has not heard of change {n} after {} s: {left:?}; a log:\n{log}", HEARD.as_secs());
                }
                let questions: Vec<_> = left.iter().map(|(client, probe, _)| (*client, *probe)).collect();
                let heard = side.ask(&questions)?.into_iter().zip(&left).map(|(outcomes, (.., wanted))| {
                    outcomes.keys().any(|outcome| matches!(outcome, Outcome::Answered { by, .. } if by == wanted))
                });
                let heard: Vec<_> = heard.collect();
                left = left.into_iter().zip(heard).filter(|(_, heard)| !heard).map(|(question, _)| question).collect();
            }
        }
        Ok(())
    }

    /// Puts all questions to both worlds, and those again whose answers differ.
    fn ask(&mut self, services: &[Service], step: Step<'_>, choice: &mut Seed) -> Result<()> {
        let cluster = self.sides[0].cluster();
        let questions = questions(services, self.features, &cluster.backends);
        let mut found = vec![[Found::default(), Found::default()]; questions.len()];
        let mut judgements = vec![Judgement::Different; questions.len()];
        for (round, effort) in ROUNDS.into_iter().enumerate() {
            // What differs as it may is asked once more: what was silent may only have been slow.
            let is_open = |judgement: &Judgement| match judgement {
                Judgement::Same => false,
                Judgement::Allowed(_) => round == 1,
                Judgement::Different => true,
            };
            let open: Vec<_> = (0..questions.len()).filter(|n| is_open(&judgements[*n])).collect();
            if open.is_empty() {
                break;
            }
            let round = self.round(&open, &questions, effort)?;
            for (n, outcomes) in open.into_iter().zip(round) {
                for (found, outcomes) in found[n].iter_mut().zip(outcomes) {
                    found.add(&outcomes, questions[n].affinity);
                }
                judgements[n] = judge(&questions[n], cluster, &found[n][0], &found[n][1]);
            }
        }
        self.report.questions += questions.len();
        for ((question, [kube_proxy, sluice]), judgement) in questions.iter().zip(&found).zip(judgements) {
            *self.report.outcomes.entry(kube_proxy.word().to_owned()).or_default() += 1;
            match judgement {
                Judgement::Same => {}
                Judgement::Allowed(names) => {
                    for name in names {
                        *self.report.allowed.entry(name).or_default() += 1;
                    }
                }
                Judgement::Different => {
                    let found = [kube_proxy, sluice].map(ToString::to_string);
                    self.find(step, question.text(), &question.service, found);
                }
            }
        }
        self.stay(&questions, &found, step);
        let answered = |(question, found): (_, &[Found; 2])| found.iter().all(Found::is_answered).then_some(question);
        let answered: Vec<_> = questions.iter().zip(&found).filter_map(answered).collect();
        self.talks.begin(&self.sides, &answered, choice)
    }

    /// Clients with session affinity stay with their backends.
    fn stay(&mut self, questions: &[Question], found: &[[Found; 2]], step: Step<'_>) {
        for (n, world) in ["kube-proxy", "Sluice"].into_iter().enumerate() {
            let of: Vec<_> = found.iter().map(|found| &found[n]).collect();
            for Strayed { question, before } in self.stays[n].take(questions, &of) {
                let text = format!("{}, in the world of {world}: was with {before}", questions[question].text());
                let found = found[question].each_ref().map(ToString::to_string);
                self.find(step, text, &questions[question].service, found);
            }
        }
    }

    /// Conversations from before a change go on.
    fn go_on(&mut self, services: &[Service], step: Step<'_>) -> Result<()> {
        let Went { fates, allowed, different } = self.talks.go_on(&self.sides, services)?;
        fates.into_iter().for_each(|(fate, count)| *self.report.lasting.entry(fate).or_default() += count);
        allowed.into_iter().for_each(|(name, count)| *self.report.allowed.entry(name).or_default() += count);
        different.into_iter().for_each(|(text, service, found)| self.find(step, text, &service, found));
        Ok(())
    }

    fn find(&mut self, step: Step<'_>, question: String, service: &str, [kube_proxy, sluice]: [String; 2]) {
        let Step { seed, changes, change } = step;
        let (change, objects) = (change.to_owned(), self.objects_of(service));
        self.report.findings.push(Finding { seed, changes, change, question, kube_proxy, sluice, objects });
    }

    /// One round of some of the questions, in both worlds at the same time.
    fn round(
        &self,
        open: &[usize],
        questions: &[Question],
        (patience_ms, tries): (u64, u16),
    ) -> Result<Vec<[Outcomes; 2]>> {
        let probe = |n: &usize| {
            let Question { client, to, protocol, .. } = questions[*n];
            (client, Probe { to, protocol, tries, patience_ms })
        };
        let probes: Vec<_> = open.iter().map(probe).collect();
        let [first, second] = both(&self.sides, |side| side.ask(&probes))?;
        Ok(first.into_iter().zip(second).map(|(first, second)| [first, second]).collect())
    }

    fn objects_of(&self, service: &str) -> String {
        let own = self.written.iter().filter(|((_, name), _)| {
            name == service || name.strip_prefix(service).is_some_and(|rest| rest.starts_with('-'))
        });
        own.map(|(_, object)| object.to_string()).collect::<Vec<_>>().join("\n  ")
    }
}
