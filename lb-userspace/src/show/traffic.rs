//! What Service ports carry, one a row.

use std::collections::BTreeMap;

use lb_common::tables::{Name, Traffic};
use serde::Serialize;

use super::names::Names;
use super::table::Row;

/// What this node has carried for a Service port, over all of its addresses, since it got the port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TrafficRow {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the port; empty where it has none.
    pub port: String,
    /// Flows that were opened, and sockets that were connected straight to a backend.
    pub connections: u64,
    /// Packets that were translated on their way to backends.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets of answers that were translated.
    pub answer_packets: u64,
    /// Their bytes.
    pub answer_bytes: u64,
}

impl Row for TrafficRow {
    const COLUMNS: &'static [&'static str] =
        &["NAMESPACE", "NAME", "PORT", "CONNECTIONS", "PACKETS", "BYTES", "ANSWER-PACKETS", "ANSWER-BYTES"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let names = [&self.namespace, &self.name, &self.port].map(Clone::clone);
        let counts = [self.connections, self.packets, self.bytes, self.answer_packets, self.answer_bytes];
        names.into_iter().chain(counts.map(|count| count.to_string())).collect()
    }

    fn wide(&self) -> Vec<String> {
        Vec::new()
    }
}

/// All Service ports, by name; those of one Service where one is asked for.
pub fn traffic(names: &BTreeMap<u32, Name>, carried: &BTreeMap<u32, Traffic>, asked: Option<&str>) -> Vec<TrafficRow> {
    let names = Names(names);
    let ids = names.0.keys().filter(|id| asked.is_none_or(|asked| names.asked(**id, asked)));
    let mut rows: Vec<_> = ids
        .map(|id| {
            let (namespace, name, port) = names.parts(*id);
            let Traffic { packets: [packets, answer_packets], bytes: [bytes, answer_bytes], connections } =
                carried.get(id).copied().unwrap_or(Traffic::NONE);
            TrafficRow { namespace, name, port, connections, packets, bytes, answer_packets, answer_bytes }
        })
        .collect();
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    use super::super::names::tests::name;
    use super::super::table::{Output, render};
    use super::*;

    #[test]
    fn each_service_port_is_a_line_also_where_it_has_carried_nothing() {
        let names = [(7, name("shop", "web", "http")), (8, name("shop", "dns", ""))].into();
        let carried = Traffic { packets: [10, 8], bytes: [700, 12_000], connections: 2 };
        let rows = traffic(&names, &[(7, carried), (9, carried)].into(), None);
        assert_eq!(
            render(&rows, Output::Table).unwrap(),
            "\
NAMESPACE   NAME   PORT   CONNECTIONS   PACKETS   BYTES   ANSWER-PACKETS   ANSWER-BYTES
shop        dns    -      0             0         0       0                0
shop        web    http   2             10        700     8                12000
"
        );
        assert_eq!(traffic(&names, &BTreeMap::new(), Some("web")).len(), 1);
    }
}
