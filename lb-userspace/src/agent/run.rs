//! The main loop of the agent.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use super::datapath::{Before, Datapath, Seen, config};
use super::engine::Engine;
use super::growth::Growth;
use super::health_checks::HealthCheckServers;
use super::observed::{Observed, Said};
use super::source::Opened;
use super::sweep::{self, Levels};
use super::{Lock, Report, Settings, SourceReport, clock, memory};
use crate::bpf::{BpfStore, Epoch, Hook};
use crate::compile::NodeFacts;
use crate::devices::{self, Nodes, Survey};
use crate::health::Question;
use crate::http::Server;
use crate::metrics::{Probes, Programming};
use crate::plan::Op;
use crate::reconcile::Status;
use crate::store::Store;
use crate::watch::kubernetes::Events;
use crate::watch::{Health, Problem, Reason};

/// How often what is attached is compared with what should be, beside each change of a device.
const REPAIR: Duration = Duration::from_secs(10);
/// The report is written no more often than this. What only counts is told with the next, after a [`REPAIR`] at most.
const REPORT: Duration = Duration::from_millis(100);

/// Runs until a signal, then leaves everything attached.
///
/// # Errors
/// Something that the agent cannot do without is not there.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let Parts { _lock, mut agent, mut datapath, mut devices, mut netlink, mut engine, mut growth, mut counted } =
        start(settings).await?;
    let mut repair = interval(REPAIR);
    repair.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let report_at = agent.report_at.unwrap_or_else(Instant::now).into();
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = &mut netlink => bail!("cannot follow the devices of this node: {ended:?}"),
            ended = &mut engine.task => bail!("the reconciler ended: {ended:?}"),
            changed = engine.status.changed() => {
                changed.context("the reconciler ended")?;
                let status = engine.status.borrow_and_update().clone();
                let complete = agent.in_step();
                let ranges = agent.status(status);
                if agent.in_step() && !agent.attached {
                    agent.attach(&mut datapath)?;
                }
                if ranges || agent.in_step() && !complete {
                    agent.lead(&mut datapath, &devices).await;
                }
                agent.announce(&datapath);
            }
            Ok(()) = engine.health.changed() => agent.health(engine.health.borrow_and_update().clone()),
            changed = devices.changed() => {
                changed.context("cannot follow the devices of this node")?;
                let before = agent.survey.node;
                agent.look(&devices.borrow_and_update().clone());
                agent.sync(&mut datapath);
                agent.lead(&mut datapath, &devices).await;
                if agent.survey.node != before {
                    info!("the node's addresses are now {}", addresses(agent.survey.node));
                }
                engine.move_to(agent.facts()?);
            }
            changed = counted.changed(), if agent.attached => {
                changed.context("nobody sweeps flows any more")?;
                growth.consider(&counted.borrow_and_update());
            }
            ready = growth.ready() => {
                growth.go_on(ready, &mut datapath, &agent.survey);
                agent.see(&datapath);
            }
            _ = repair.tick() => {
                agent.sync(&mut datapath);
                if agent.attached {
                    // Also what could not be done before, or what has grown and is to grow further.
                    growth.consider(&counted.borrow());
                }
                agent.lead(&mut datapath, &devices).await;
            }
            () = sleep_until(report_at), if agent.report_at.is_some() => agent.write_report(&datapath),
        }
    }
    info!("stopping; traffic flows on, and the next agent takes over");
    engine.stop().await;
    agent.write_report(&datapath);
    Ok(())
}

/// What runs, each by itself.
struct Parts {
    _lock: Lock,
    agent: Agent,
    datapath: Datapath,
    devices: watch::Receiver<devices::World>,
    /// What follows the devices.
    netlink: JoinHandle<io::Result<()>>,
    engine: Engine,
    growth: Growth,
    /// What sweeps have counted.
    counted: watch::Receiver<Levels>,
}

/// Starts them one after the other, and attaches where that need not wait for anything.
async fn start(settings: Settings) -> anyhow::Result<Parts> {
    let lock = settings.run_dir.lock()?;
    let source = Opened::new(&settings.source).await?;
    let mut datapath = Datapath::load(&settings, settings.run_dir.last())?;
    datapath.make_service_device().await;
    let epoch = Epoch::open(&settings.pins)?;
    let (past, past_stack) = watch::channel(BTreeSet::new());
    let devices::Watcher { world: mut devices, task: netlink } =
        devices::watch(move || epoch.advance(), past_stack).await.context("cannot follow the devices of this node")?;
    let survey = devices::survey(&devices.borrow_and_update(), &settings.globs);
    let events = source.events(&settings.node);
    let mut agent = Agent::new(settings, survey, events, datapath.strangers_until()?, past)?;
    let before = datapath.before()?;
    if before == Before::Nothing {
        // Programs that run must know until when strangers pass, and so must the next agent if this one is killed.
        BpfStore::open(&agent.settings.pins)?.write(&Op::Config(agent.facts()?.config))?;
    }
    if before == Before::ThisLayout {
        info!("taking over what an earlier agent attached");
        // Before anything is written: its programs may have maps whose place larger ones took.
        agent.attach(&mut datapath)?;
    }
    let programming = Programming::default();
    let (departures, departed) = mpsc::channel();
    let engine = Engine::start(&agent.settings, agent.facts()?, source, programming.clone(), departures)?;
    let (levels, levels_seen) = watch::channel(Vec::new());
    let (growth, counted) = (Growth::new(&agent.settings), levels_seen.clone());
    sweep::start(agent.settings.pins.clone(), departed, levels).context("cannot start the thread that sweeps flows")?;
    let said = Said {
        status: engine.status.clone(),
        source: engine.health.clone(),
        seen: agent.seen.subscribe(),
        levels: levels_seen,
    };
    agent.serve(Observed::new(&agent.settings, said)?, &programming);
    match before {
        // A link takes the kernel ten milliseconds: time in which lists come in and maps are filled.
        Before::Nothing => agent.attach(&mut datapath)?,
        Before::OtherLayout => info!("what an agent of another layout attached serves until the maps are complete"),
        Before::ThisLayout => {}
    }
    Ok(Parts { _lock: lock, agent, datapath, devices, netlink, engine, growth, counted })
}

/// What the agent knows of itself.
struct Agent {
    settings: Settings,
    survey: Survey,
    /// [`Config::strangers_until`](lb_common::tables::Config::strangers_until).
    strangers_until: u32,
    events: Option<Events>,
    health: Health,
    status: Status,
    attached: bool,
    announced: bool,
    started: u64,
    last_write: Option<u64>,
    report_at: Option<Instant>,
    seen: watch::Sender<Seen>,
    /// Indices of devices where packets are sent past the stack.
    past: watch::Sender<BTreeSet<u32>>,
    /// Once it serves: what it tells, and where.
    observed: Option<Observed>,
    servers: Vec<Server>,
    /// For load balancers of Services.
    checks: Option<HealthCheckServers>,
    /// What of these was told already.
    told: Vec<Problem>,
}

impl Agent {
    fn new(
        settings: Settings,
        survey: Survey,
        events: Option<Events>,
        strangers_until: u32,
        past: watch::Sender<BTreeSet<u32>>,
    ) -> anyhow::Result<Self> {
        let agent = Self {
            settings,
            survey,
            strangers_until,
            events,
            health: Health::default(),
            status: Status::default(),
            attached: false,
            announced: false,
            started: clock(),
            last_write: None,
            report_at: Some(Instant::now()),
            seen: watch::Sender::default(),
            past,
            observed: None,
            servers: Vec::new(),
            checks: None,
            told: Vec::new(),
        };
        // What cannot be written later is better known now.
        agent.settings.run_dir.write(&agent.report(&Report::default()))?;
        Ok(agent)
    }

    /// Answers those who ask for health and for metrics.
    fn serve(&mut self, observed: Observed, programming: &Programming) {
        let probes = Probes::default();
        let pages = [
            ("health", self.settings.healthz, observed.probe_pages(&probes)),
            ("metrics", self.settings.metrics, observed.metrics_page(programming, &probes)),
        ];
        let wanted = pages.into_iter().filter_map(|(name, at, page)| Some(Server::start(name, at?, page)));
        self.servers = wanted.collect();
        let asked = observed.clone();
        self.checks = Some(HealthCheckServers::new(move || asked.health(Question::Livez).healthy));
        self.observed = Some(observed);
    }

    /// What the devices and their addresses say of this node.
    fn facts(&self) -> anyhow::Result<NodeFacts> {
        let Self { settings, survey, strangers_until, .. } = self;
        let (config, own) = (config(settings, survey.node, *strangers_until)?, survey.own.clone());
        let (node_ports, external_ips) = (settings.node_ports.clone(), settings.external_ips);
        Ok(NodeFacts { config, own, node_ports, external_ips, ..NodeFacts::new(&settings.node) })
    }

    fn look(&mut self, world: &devices::World) {
        self.survey = devices::survey(world, &self.settings.globs);
        self.report_soon();
    }

    /// Whether ranges of virtual IPs came or went.
    fn status(&mut self, status: Status) -> bool {
        if status.writes > self.status.writes {
            self.last_write = Some(clock());
        }
        self.post(&status.problems, &self.status.problems);
        if let Some(checks) = &mut self.checks
            && !Arc::ptr_eq(&status.checks, &self.status.checks)
        {
            checks.sync(&status.checks);
        }
        let ranges = status.service_cidrs != self.status.service_cidrs;
        let news = status.is_news(&self.status);
        self.status = status;
        if news {
            self.report_soon();
        }
        ranges
    }

    /// Posts the problems that are new, where there is somebody to post them to.
    fn post(&self, problems: &[Problem], known: &[Problem]) {
        let Some(events) = &self.events else { return };
        let known: HashSet<_> = known.iter().collect();
        problems.iter().filter(|problem| !known.contains(problem)).for_each(|problem| events.post(problem));
    }

    fn health(&mut self, health: Health) {
        self.health = health;
        self.report_soon();
    }

    fn in_step(&self) -> bool {
        self.status.ready && self.status.in_step_at.is_some()
    }

    fn attach(&mut self, datapath: &mut Datapath) -> anyhow::Result<()> {
        datapath.attach(&self.survey)?;
        self.attached = true;
        self.see(datapath);
        self.report_soon();
        Ok(())
    }

    /// Tells what is attached, and where.
    fn see(&self, datapath: &Datapath) {
        let seen = datapath.seen();
        let at_xdp = seen.attachments.iter().filter(|at| at.hook == Hook::Xdp).map(|at| at.index).collect();
        self.past.send_if_modified(|past| std::mem::replace(past, at_xdp) != *past);
        self.seen.send_replace(seen);
    }

    fn sync(&mut self, datapath: &mut Datapath) {
        datapath.sync(&self.survey);
        self.see(datapath);
        self.report_soon();
    }

    /// Leads the ranges of virtual IPs by the service device.
    async fn lead(&mut self, datapath: &mut Datapath, devices: &watch::Receiver<devices::World>) {
        // The source may not have told yet what the agent before this one knew. What has no frontend yet is left to whoever
        // served it before.
        let told = self.status.service_cidrs.as_deref();
        let ranges = told.map(|told| told | &self.settings.service_cidrs);
        let world = devices.borrow().clone();
        datapath.lead(ranges.as_ref().filter(|_| self.attached && self.in_step()), &world, &self.survey).await;
        self.see(datapath);
        self.report_soon();
    }

    /// Says once that the maps are complete. Who reads it finds the report saying so, too.
    fn announce(&mut self, datapath: &Datapath) {
        if self.announced || !self.in_step() {
            return;
        }
        self.announced = true;
        self.write_report(datapath);
        let Survey { devices, node, .. } = &self.survey;
        info!(
            "ready: {} Services, {} map entries written, {} devices, node {} at {}",
            self.status.services,
            self.status.writes,
            devices.len(),
            self.settings.node,
            addresses(*node),
        );
        // It takes some milliseconds, in which devices and Services need not wait.
        drop(tokio::task::spawn_blocking(memory::give_back));
    }

    fn report_soon(&mut self) {
        self.report_at.get_or_insert_with(|| Instant::now() + REPORT);
    }

    fn write_report(&mut self, datapath: &Datapath) {
        let base = Report { notes: datapath.notes().clone(), repairs: datapath.repairs().all(), ..Report::default() };
        let mut report = self.report(&base);
        let servers: Vec<_> = self
            .servers
            .iter()
            .filter_map(|server| Some(Problem::of(Reason::NotListening, server.name(), server.problem()?)))
            .collect();
        let told: Vec<_> = self.checks.iter().flat_map(HealthCheckServers::problems).collect();
        self.post(&told, &self.told);
        self.told = told;
        let all = servers.iter().chain(&self.told).chain(datapath.problems()).chain(&self.status.problems);
        report.problems = all.map(|Problem { about, message, .. }| (about.to_string(), message.clone())).collect();
        if let Err(error) = self.settings.run_dir.write(&report) {
            warn!("{error}");
        }
        self.report_at = None;
    }

    fn report(&self, base: &Report) -> Report {
        Report {
            pid: std::process::id(),
            node: self.settings.node.clone(),
            started: self.started,
            ready: self.in_step() && self.attached,
            writes: self.status.writes,
            repairs: self.status.repairs + base.repairs,
            last_write: self.last_write,
            services: self.status.services,
            source: SourceReport::from(&self.health),
            error: self.status.error.clone(),
            unhealthy: self.observed.as_ref().map(|observed| observed.health(Question::Healthz).reasons),
            ..base.clone()
        }
    }
}

fn addresses(node: Nodes) -> String {
    let all: Vec<_> =
        [node.v4.map(|ip| ip.to_string()), node.v6.map(|ip| ip.to_string())].into_iter().flatten().collect();
    if all.is_empty() { "no address".to_owned() } else { all.join(", ") }
}
