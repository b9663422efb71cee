//! Frontends, one a row.

use std::collections::BTreeSet;

use lb_common::ip::{V4, V6};
use lb_common::mem::{Image, Of};
use lb_common::tables::{TICK, Table, frontend};
use serde::Serialize;

use super::names::{Names, endpoint, protocol};
use super::table::Row;

/// A frontend: one address and port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServiceRow {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the port; empty where it has none.
    pub port: String,
    /// What the address is: `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: &'static str,
    /// Address and port that clients call.
    pub frontend: String,
    /// The protocol.
    pub protocol: String,
    /// How many backends it has for clients inside the cluster.
    pub backends: usize,
    /// How many for clients outside; none where these are the same.
    pub backends_outside: Option<usize>,
    /// Its traffic policy, internal or external by its kind: `Cluster` or `Local`.
    pub policy: &'static str,
    /// For how many seconds since its last connection a client stays with its backend, if it does.
    pub affinity_seconds: Option<u64>,
    /// Who may call, where not everybody may.
    pub source_ranges: Option<Vec<String>>,
    /// Slots of its Maglev table.
    pub slots: u32,
    /// Where the table begins.
    pub first_slot: u32,
    /// Its backends for clients inside.
    pub backend_addresses: Vec<String>,
    /// Those for clients outside; none where these are the same.
    pub backend_addresses_outside: Option<Vec<String>>,
}

impl Row for ServiceRow {
    const COLUMNS: &'static [&'static str] = &["NAMESPACE", "NAME", "PORT", "KIND", "FRONTEND", "BACKENDS"];
    const WIDE: &'static [&'static str] =
        &["POLICY", "AFFINITY", "SOURCES", "SLOTS", "FIRST-SLOT", "BACKEND-ADDRESSES"];

    fn cells(&self) -> Vec<String> {
        let frontend = format!("{}/{}", self.frontend, self.protocol);
        let backends = match self.backends_outside {
            Some(outside) => format!("{} ({outside} outside)", self.backends),
            None => self.backends.to_string(),
        };
        let kind = self.kind.to_owned();
        vec![self.namespace.clone(), self.name.clone(), self.port.clone(), kind, frontend, backends]
    }

    fn wide(&self) -> Vec<String> {
        let affinity = self.affinity_seconds.map_or(String::new(), |seconds| format!("{seconds}s"));
        let sources = match &self.source_ranges {
            Some(ranges) if ranges.is_empty() => "nobody".to_owned(),
            Some(ranges) => ranges.join(","),
            None => String::new(),
        };
        let (slots, first) = (self.slots.to_string(), self.first_slot.to_string());
        vec![self.policy.to_owned(), affinity, sources, slots, first, self.backend_addresses.join(",")]
    }
}

/// All frontends, by name, then address; those of one Service where one is asked for.
pub fn services(image: &Image, asked: Option<&str>) -> Vec<ServiceRow> {
    let mut rows = Vec::new();
    family::<V4>(image, asked, &mut rows);
    family::<V6>(image, asked, &mut rows);
    rows.sort_by(|a, b| (&a.namespace, &a.name, &a.port, a.kind).cmp(&(&b.namespace, &b.name, &b.port, b.kind)));
    rows
}

fn family<A: Of>(image: &Image, asked: Option<&str>, rows: &mut Vec<ServiceRow>) {
    let names = Names(&image.names);
    for (key, frontend) in &A::side(image).frontends {
        // An address as a whole belongs to no Service port.
        let whole = key.proto == 0;
        if whole || asked.is_some_and(|asked| !names.asked(frontend.service, asked)) {
            continue;
        }
        let inside = addresses::<A>(image, frontend.inside);
        let outside = (frontend.outside != frontend.inside).then(|| addresses::<A>(image, frontend.outside));
        let flag = |bit| frontend.flags & bit != 0;
        let (namespace, name, port) = names.parts(frontend.service);
        rows.push(ServiceRow {
            namespace,
            name,
            port,
            kind: frontend.kind().name(),
            frontend: endpoint(key.addr, key.port),
            protocol: protocol(key.proto),
            backends: inside.len(),
            backends_outside: outside.as_ref().map(Vec::len),
            policy: if flag(frontend::LOCAL) { "Local" } else { "Cluster" },
            affinity_seconds: (frontend.affinity > 0).then(|| u64::from(frontend.affinity) * TICK / 1_000_000_000),
            source_ranges: flag(frontend::SOURCE_RANGES).then(|| ranges::<A>(image, frontend.service)),
            slots: frontend.inside.len,
            first_slot: frontend.inside.at,
            backend_addresses: inside,
            backend_addresses_outside: outside,
        });
    }
}

/// Addresses and ports of the backends in a table, sorted.
fn addresses<A: Of>(image: &Image, table: Table) -> Vec<String> {
    let address = |id: &u32| A::side(image).backends.get(id).map(|backend| endpoint(backend.addr, backend.port));
    let ids = backend_ids(image, table);
    let mut all: Vec<_> = ids.iter().map(|id| address(id).unwrap_or_else(|| format!("#{id}"))).collect();
    all.sort_unstable();
    all
}

/// The source ranges of a Service port.
fn ranges<A: Of>(image: &Image, service: u32) -> Vec<String> {
    let of = A::side(image).ranges.iter().filter(|(range, _)| range.service == service);
    of.map(|(range, len)| format!("{:?}/{}", range.addr, len.saturating_sub(u32::BITS))).collect()
}

/// The backends in a Maglev table.
pub(super) fn backend_ids(image: &Image, table: Table) -> BTreeSet<u32> {
    image.runs.get(&table.at).iter().flat_map(|slots| slots.iter().take(table.len as usize)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::IpAddr;

    use lb_common::ip::{Be16, Ip};
    use lb_common::tables::{Backend, Frontend, FrontendKey, Kind, RangeKey};

    use super::super::names::tests::name;
    use super::super::table::{Output, render};
    use super::*;

    pub(in crate::show) fn ip<A: Ip>(text: &str) -> A {
        A::from_ip(text.parse::<IpAddr>().unwrap()).unwrap()
    }

    /// Two Services: `shop/web` of both families with three backends, `shop/dns` of UDP with none.
    pub(in crate::show) fn image() -> Image {
        let mut image = Image::default();
        let backend = |addr: &str| Backend { addr: ip::<V4>(addr), port: Be16::new(8080), flags: 0 };
        image.v4.backends = [(1, backend("10.0.0.1")), (2, backend("10.0.0.2")), (3, backend("10.0.0.3"))].into();
        image.v6.backends = [(1, Backend { addr: ip("fd00::1"), port: Be16::new(8080), flags: 0 })].into();
        image.runs = [(0, [1, 2, 3, 1].into()), (4, [1].into())].into();
        let frontend = |service, at, len| Frontend::with_table(service, Table { at, len });
        image.v4.frontends = [
            (FrontendKey::new(ip("10.96.0.10"), Be16::new(80), 6), frontend(7, 0, 4)),
            (FrontendKey::whole(ip("10.96.0.10")), frontend(0, 0, 0)),
            (FrontendKey::new(ip("10.96.0.53"), Be16::new(53), 17), frontend(8, 0, 0)),
        ]
        .into();
        image.v6.frontends = [(FrontendKey::new(ip("fd00::10"), Be16::new(80), 6), frontend(7, 4, 1))].into();
        image.names = [(7, name("shop", "web", "http")), (8, name("shop", "dns", ""))].into();
        image
    }

    #[test]
    fn services_are_listed_as_kubectl_lists_them() {
        let rows = services(&image(), None);
        assert_eq!(
            render(&rows, Output::Table).unwrap(),
            "\
NAMESPACE   NAME   PORT   KIND        FRONTEND            BACKENDS
shop        dns    -      ClusterIP   10.96.0.53:53/UDP   0
shop        web    http   ClusterIP   10.96.0.10:80/TCP   3
shop        web    http   ClusterIP   [fd00::10]:80/TCP   1
"
        );
        assert_eq!(
            render(&rows[1..2], Output::Wide).unwrap(),
            "\
NAMESPACE   NAME   PORT   KIND        FRONTEND            BACKENDS   POLICY    AFFINITY   SOURCES   SLOTS   FIRST-SLOT   BACKEND-ADDRESSES
shop        web    http   ClusterIP   10.96.0.10:80/TCP   3          Cluster   -          -         4       0            10.0.0.1:8080,10.0.0.2:8080,10.0.0.3:8080
"
        );
        assert_eq!(services(&image(), Some("shop/web")).len(), 2);
        assert!(services(&image(), Some("nobody")).is_empty());
    }

    #[test]
    fn what_clients_outside_meet_is_shown_where_it_differs() {
        let mut image = image();
        image.runs.insert(8, [2].into());
        let flags = Kind::LoadBalancer.flags() | frontend::LOCAL | frontend::SOURCE_RANGES;
        let made = Frontend {
            flags,
            inside: Table { at: 0, len: 4 },
            outside: Table { at: 8, len: 1 },
            affinity: 10_059,
            ..Frontend::refusing(7)
        };
        let key = |ip: &str| FrontendKey::new(super::tests::ip::<V4>(ip), Be16::new(80), 6);
        image.v4.frontends = [
            (key("192.0.2.1"), made),
            (key("192.0.2.2"), Frontend { flags: Kind::NodePort.flags(), affinity: 0, ..made }),
        ]
        .into();
        image.v6.frontends.clear();
        image.v4.ranges.insert((RangeKey { service: 7, addr: super::tests::ip("10.0.0.0") }, 40));
        let rows = services(&image, None);
        assert_eq!(
            render(&rows, Output::Wide).unwrap(),
            "\
NAMESPACE   NAME   PORT   KIND           FRONTEND           BACKENDS        POLICY    AFFINITY   SOURCES      SLOTS   FIRST-SLOT   BACKEND-ADDRESSES
shop        web    http   LoadBalancer   192.0.2.1:80/TCP   3 (1 outside)   Local     10800s     10.0.0.0/8   4       0            10.0.0.1:8080,10.0.0.2:8080,10.0.0.3:8080
shop        web    http   NodePort       192.0.2.2:80/TCP   3 (1 outside)   Cluster   -          -            4       0            10.0.0.1:8080,10.0.0.2:8080,10.0.0.3:8080
"
        );
        let json = serde_json::to_value(&rows[0]).unwrap();
        assert_eq!(json["backend_addresses_outside"], serde_json::json!(["10.0.0.2:8080"]));
        assert_eq!(
            (&json["affinity_seconds"], &json["source_ranges"]),
            (&10_800.into(), &serde_json::json!(["10.0.0.0/8"]))
        );
    }
}
