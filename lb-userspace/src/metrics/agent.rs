//! Our own names.

use std::collections::BTreeMap;
use std::fmt;

use lb_common::tables::LAYOUT;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::rows::{Rows, number};
use super::{Repairs, Snapshot, StoreErrors};

/// What is known when it is built.
pub(super) fn register_build(registry: &mut Registry) {
    let labels = [("version", env!("CARGO_PKG_VERSION").to_owned()), ("layout", format!("v{LAYOUT}"))];
    registry.register("sluice_build", "What runs: its version, and the layout of its maps", Info::new(labels));
}

pub(super) fn encode(snapshot: &Snapshot, rows: &mut Rows<'_>) -> fmt::Result {
    loops(snapshot, rows)?;
    maps(snapshot, rows)?;
    programs(snapshot, rows)?;
    let packets = snapshot.packets.iter().filter(|(reason, _)| reason.is_counted());
    rows.counters(
        "sluice_packets",
        "Packets, and calls of sockets, by what became of them",
        packets.map(|(reason, n)| ([("reason", reason.label())], *n)),
    )
}

fn loops(snapshot: &Snapshot, rows: &mut Rows<'_>) -> fmt::Result {
    let ready = if snapshot.ready { 1.0 } else { 0.0 };
    rows.gauge("sluice_ready", "1 once the maps are complete and programs attached", ready)?;
    rows.gauge("sluice_services", "Services that are declared", number(snapshot.declared as u64))?;
    rows.gauges(
        "sluice_problems",
        "What is wrong with what is declared or with devices, and needs a person, by reason",
        snapshot.problems.iter().map(|(reason, n)| ([("reason", *reason)], number(*n))),
    )?;
    let well = if snapshot.source_well { 1.0 } else { 0.0 };
    rows.gauge("sluice_source_connected", "1 while the source of what is declared can be read", well)?;
    rows.counter(
        "sluice_source_reconnects",
        "How often the source could be read again after a fault",
        number(snapshot.source_recoveries),
    )
}

fn maps(snapshot: &Snapshot, rows: &mut Rows<'_>) -> fmt::Result {
    let of = |value: fn(&super::Fill) -> u64| {
        snapshot.fill.iter().map(move |fill| ([("map", fill.map)], number(value(fill))))
    };
    rows.gauges("sluice_map_entries", "What is in a map: entries, or flows", of(|fill| fill.entries))?;
    rows.gauges("sluice_map_capacity", "What a map has room for", of(|fill| fill.capacity))?;
    rows.counter("sluice_map_writes", "Entries of maps that were written", number(snapshot.writes))?;
    let StoreErrors { full, read, write } = snapshot.store_errors;
    rows.counters(
        "sluice_map_errors",
        "Reads and writes of maps that failed, by what failed",
        [("full", full), ("read", read), ("write", write)].map(|(kind, n)| ([("kind", kind)], n)),
    )
}

fn programs(snapshot: &Snapshot, rows: &mut Rows<'_>) -> fmt::Result {
    let Repairs { entries, devices, sockets } = snapshot.repairs;
    rows.counters(
        "sluice_repairs",
        "What others had changed or detached and was put right, by what it was",
        [("map_entry", entries), ("device_program", devices), ("socket_program", sockets)]
            .map(|(what, n)| ([("what", what)], n)),
    )?;
    let mut attachments = BTreeMap::new();
    for attachment in &snapshot.attachments {
        let labels = [
            ("device", attachment.role.label()),
            ("program", attachment.hook.program()),
            ("way", attachment.how.label()),
        ];
        *attachments.entry(labels).or_insert(0) += 1;
    }
    rows.gauges(
        "sluice_device_programs",
        "Programs at devices, by kind of device and way of attaching",
        attachments.into_iter().map(|(labels, n)| (labels, number(n))),
    )?;
    rows.gauge("sluice_socket_programs", "Programs at sockets", number(snapshot.socket_programs as u64))
}
