//! The programs, from their load to the devices and sockets they are attached to.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use lb_common::ip::{V4, V6};
use lb_common::tables::Config;
use tracing::{info, warn};

use super::{Report, Settings};
use crate::bpf::{self, Attacher, Attachment, BpfStore, Lock, Note, Object};
use crate::devices::{Nodes, Role, ServiceDevice, Survey, World};
use crate::metrics::Repairs;
use crate::model::Cidr;
use crate::watch::{Problem, Reason};

/// Which programs are where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether programs are attached at all.
    pub(super) attached: bool,
    /// Programs at devices.
    pub(super) attachments: Vec<Attachment>,
    /// Programs at sockets.
    pub(super) sockets: usize,
    /// What others had detached.
    pub(super) repairs: Repairs,
    /// What should be attached and is not.
    pub(super) faults: Vec<Problem>,
    /// What the node can do without.
    pub(super) lacks: Option<Problem>,
}

/// Whose programs run before this agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nobody's: ours may run before the maps are complete, since each frontend is complete as soon as it is there.
    Nothing,
    /// Those of an agent with the same maps: ours may run at once.
    ThisLayout,
    /// Those of an agent with other maps: these serve until ours are complete.
    OtherLayout,
}

/// Programs in the kernel.
pub(super) struct Datapath {
    settings: Settings,
    _lock: Lock,
    attacher: Attacher,
    attached: bool,
    /// Programs at sockets that others had detached.
    mended: u64,
    problems: Vec<Problem>,
    strange: BTreeSet<String>,
    service: ServiceDevice,
    /// Why that is not as it shall be.
    lacks: Option<Problem>,
}

impl Datapath {
    /// Loads the programs over the pinned maps, and makes what is missing.
    pub(super) fn load(settings: &Settings, last: Option<Report>) -> anyhow::Result<Self> {
        let object = Object::embedded()?;
        settings.pins.create()?;
        // Before the programs: their pins are another agent's, if there is one.
        let lock = settings.pins.lock()?;
        let (mut programs, warnings) = object.load_needed(&settings.pins, &settings.capacities, settings.packet_log)?;
        warnings.iter().for_each(|warning| warn!("{warning}"));
        if settings.packet_log && !programs.follow_log()? {
            warn!("--packet-log: these programs log nothing");
        }
        let mut attacher = Attacher::new(settings.pins.clone(), programs, settings.xdp, settings.tc);
        // Why a device fell back is known to the agent that tried; what it pinned is kept.
        *attacher.notes_mut() = last.map(|report| report.notes).unwrap_or_default();
        Ok(Self {
            settings: settings.clone(),
            _lock: lock,
            attacher,
            attached: false,
            mended: 0,
            problems: Vec::new(),
            strange: BTreeSet::new(),
            service: ServiceDevice::new(settings.globs.service.clone(), settings.pins.root()),
            lacks: None,
        })
    }

    /// Whose programs run.
    pub(super) fn before(&self) -> anyhow::Result<Before> {
        let pins = &self.settings.pins;
        Ok(match !pins.attachments()?.is_empty() || !pins.sockets()?.is_empty() {
            true => Before::ThisLayout,
            false if pins.hold_links()? => Before::OtherLayout,
            false => Before::Nothing,
        })
    }

    /// Until when connections that another proxy began go on through that ([`Config::strangers_until`]). On a node where
    /// an agent was before, all of today's are ours: there it stays as that one had it, unless the option says less now.
    pub(super) fn strangers_until(&self) -> anyhow::Result<u32> {
        let Settings { pins, takeover, .. } = &self.settings;
        let longest = bpf::now().saturating_add(bpf::in_ticks(*takeover));
        match pins.hold_links()? {
            true => Ok(BpfStore::open(pins)?.config()?.strangers_until.min(longest)),
            false => Ok(longest),
        }
    }

    /// Attaches to what there is now, and from now on.
    pub(super) fn attach(&mut self, survey: &Survey) -> anyhow::Result<()> {
        let Settings { pins, cgroup, .. } = &self.settings;
        if pins.take_over_links()? > 0 {
            info!("taking over what an agent of another layout attached");
        }
        match cgroup {
            Some(cgroup) => bpf::attach_sockets(pins, self.attacher.programs(), cgroup)?,
            None => bpf::detach_sockets(pins)?,
        }
        self.attached = true;
        self.sync(survey);
        for older in bpf::remove_older_layouts(&self.settings.pins)? {
            info!("removed the programs and maps of an older layout, {}", older.display());
        }
        Ok(())
    }

    /// Follows the devices.
    pub(super) fn sync(&mut self, survey: &Survey) {
        if !self.attached {
            return;
        }
        let mut errors = self.attacher.sync(&survey.devices);
        if let Some(cgroup) = &self.settings.cgroup {
            match bpf::mend_sockets(&self.settings.pins, self.attacher.programs(), cgroup) {
                Ok(0) => {}
                Ok(mended) => {
                    warn!("{mended} programs were detached from sockets; attached anew");
                    self.mended += mended;
                }
                Err(error) => errors.push(error),
            }
        }
        let strange: BTreeSet<_> = survey.strange.iter().cloned().collect();
        for name in strange.difference(&self.strange) {
            warn!("{name} leads outside, but has no Ethernet header: nothing is attached to it");
        }
        self.strange = strange;
        let problems: Vec<_> =
            errors.iter().map(|error| Problem::of(Reason::NotAttached, "devices", error.to_string())).collect();
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            warn!("{problem}");
        }
        self.problems = problems;
    }

    /// Has all hooks run other programs, which have the same maps.
    ///
    /// # Errors
    /// At some hook the old one runs on.
    pub(super) fn exchange(&mut self, mut programs: bpf::Programs, survey: &Survey) -> Result<(), bpf::Error> {
        if self.settings.packet_log {
            programs.follow_log()?;
        }
        self.attacher.replace(programs);
        self.sync(survey);
        self.attacher.run_everywhere()
    }

    /// Makes the service device, so that it is among the devices from the beginning.
    pub(super) async fn make_service_device(&mut self) {
        let made = self.service.make().await;
        self.note_lack(made);
    }

    /// Leads these ranges, where they are known, by the service device as soon as its program is there.
    pub(super) async fn lead(&mut self, ranges: Option<&BTreeSet<Cidr>>, world: &World, survey: &Survey) {
        let is_service = |attachment: &&Attachment| attachment.role == Role::Service;
        let attached = self.attacher.attachments().iter().find(is_service).map(|attachment| attachment.index);
        let led = self.service.sync(world, survey, ranges, attached.filter(|_| self.attached)).await;
        self.note_lack(led);
    }

    fn note_lack(&mut self, done: std::io::Result<()>) {
        let of = |error: std::io::Error| Problem::of(Reason::NotAttached, "service device", error.to_string());
        let lacks = done.err().map(of);
        if let Some(problem) = lacks.as_ref().filter(|problem| self.lacks.as_ref() != Some(problem)) {
            warn!("{problem}");
        }
        self.lacks = lacks;
    }

    /// Devices that could not be attached, and what is wrong with the service device.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().chain(&self.lacks)
    }

    /// Why devices are not attached as asked for.
    pub(super) fn notes(&self) -> &BTreeMap<u32, Note> {
        self.attacher.notes()
    }

    /// What others had detached.
    pub(super) fn repairs(&self) -> Repairs {
        let devices = self.attacher.repairs() + self.service.repairs();
        Repairs { entries: 0, devices, sockets: self.mended }
    }

    /// What is where now.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            attached: self.attached,
            attachments: self.attacher.attachments().iter().copied().collect(),
            sockets: self.settings.pins.sockets().map_or(0, |sockets| sockets.len()),
            repairs: self.repairs(),
            faults: self.problems.clone(),
            lacks: self.lacks.clone(),
        }
    }
}

/// What the programs must know of the node.
pub(super) fn config(settings: &Settings, node: Nodes, strangers_until: u32) -> anyhow::Result<Config> {
    let cookie = bpf::netns_cookie().context("cannot read the cookie of the network namespace (Linux 5.14 has it)")?;
    let [low, high] = [cookie & u64::from(u32::MAX), cookie >> 32].map(|word| u32::try_from(word).unwrap_or(0));
    Ok(Config {
        node_v4: node.v4.map_or(Config::EMPTY.node_v4, V4::from),
        node_v6: node.v6.map_or(Config::EMPTY.node_v6, V6::from),
        netns: [low, high],
        socket_path: settings.socket_path,
        strangers_until,
        draining: 0,
    })
}
