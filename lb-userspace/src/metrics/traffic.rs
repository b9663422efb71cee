//! What Service ports carry.

use std::fmt;

use super::rows::Rows;
use crate::show::TrafficRow;

pub(super) fn encode(traffic: &[TrafficRow], rows: &mut Rows<'_>) -> fmt::Result {
    if traffic.is_empty() {
        return Ok(());
    }
    let port = |row: &TrafficRow| {
        [("namespace", row.namespace.clone()), ("service", row.name.clone()), ("port", row.port.clone())]
    };
    rows.counters(
        "sluice_service_connections",
        "Flows of a Service port that were opened, and sockets that were connected straight to a backend",
        traffic.iter().map(|row| (port(row), row.connections)),
    )?;
    let both_ways = |of: fn(&TrafficRow) -> [u64; 2]| {
        traffic.iter().flat_map(move |row| {
            let [there, back] = of(row);
            let labels = |way: &str| {
                let [namespace, service, port] = port(row);
                [namespace, service, port, ("way", way.to_owned())]
            };
            [(labels("there"), there), (labels("back"), back)]
        })
    };
    rows.counters(
        "sluice_service_packets",
        "Packets of a Service port that were translated, on their way to backends and back",
        both_ways(|row| [row.packets, row.answer_packets]),
    )?;
    rows.counters(
        "sluice_service_bytes",
        "Bytes of these packets, from the IP header on",
        both_ways(|row| [row.bytes, row.answer_bytes]),
    )
}
