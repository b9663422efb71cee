//! `sluice status`.

use anyhow::anyhow;
use lb_common::mem::Slots;
use lb_common::tables::LAYOUT;

use super::Outcome;
use super::args::{DeviceArgs, PlaceArgs};
use super::list::repeat;
use crate::agent::{Report, clock};
use crate::bpf::{self, BpfStore};
use crate::show::{AgentFacts, CounterRow, MapRow, SourceFacts, StatusReport};
use crate::store::Store;
use crate::watch::Problem;

pub(super) fn status(args: &DeviceArgs) -> anyhow::Result<Outcome> {
    repeat(&args.print, |output| {
        let report = report(&args.place)?;
        let text = report.render(output).map_err(|error| anyhow!(error))?;
        Ok((text, Outcome::Done))
    })
}

fn report(place: &PlaceArgs) -> anyhow::Result<StatusReport> {
    let pins = place.pins();
    let agent = place.run_dir().running().map(|report| facts(report, clock()));
    let mut report = StatusReport {
        agent,
        attached: false,
        layout: LAYOUT,
        draining: false,
        takeover: 0,
        devices: 0,
        socket_hooks: pins.sockets()?,
        maps: Vec::new(),
        counters: Vec::new(),
    };
    let mut devices: Vec<_> = pins.attachments()?.iter().map(|attachment| attachment.index).collect();
    devices.dedup();
    report.devices = devices.len();
    report.attached = report.devices + report.socket_hooks.len() > 0;
    if !pins.exist() {
        return Ok(report);
    }
    let mut store = BpfStore::open(&pins)?;
    let image = store.read()?;
    report.draining = image.config.draining != 0;
    report.takeover = bpf::ticks(image.config.strangers_until.saturating_sub(bpf::now())).as_secs();
    let slots: usize = image.runs.values().map(Slots::len).sum();
    report.maps = maps(&store, slots as u64)?;
    let meaning = |reason: lb_common::verdict::Reason| reason.meaning().trim().to_owned();
    report.counters = bpf::counters(store.maps())?
        .into_iter()
        .map(|(reason, packets)| CounterRow { reason: reason.label().to_owned(), packets, meaning: meaning(reason) })
        .collect();
    Ok(report)
}

fn maps(store: &BpfStore, slots: u64) -> Result<Vec<MapRow>, bpf::Error> {
    let row = |fill: bpf::Fill| MapRow {
        map: fill.map.to_owned(),
        entries: fill.entries,
        capacity: fill.capacity,
        option: fill.option.map(ToOwned::to_owned),
    };
    Ok(store.maps().fill(slots)?.into_iter().map(row).collect())
}

fn facts(report: Report, now: u64) -> AgentFacts {
    AgentFacts {
        ready: report.ready,
        pid: report.pid,
        node: report.node,
        age: now.saturating_sub(report.started),
        last_write: report.last_write.map(|at| now.saturating_sub(at)),
        writes: report.writes,
        repairs: report.repairs,
        services: report.services,
        source: SourceFacts {
            name: report.source.name,
            fault: report.source.fault,
            age: report.source.since.map(|since| now.saturating_sub(since)),
            recoveries: report.source.recoveries,
        },
        unhealthy: report.unhealthy,
        error: report.error,
        problems: report.problems.into_iter().map(|(about, message)| Problem::new(about, message)).collect(),
    }
}
