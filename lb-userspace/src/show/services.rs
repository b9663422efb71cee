//! Frontends, one a row.

use std::collections::BTreeSet;

use lb_common::ip::{V4, V6};
use lb_common::mem::{Image, Of};
use lb_common::tables::Table;
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
    /// Address and port that clients call.
    pub frontend: String,
    /// The protocol.
    pub protocol: String,
    /// How many backends it has.
    pub backends: usize,
    /// Slots of its Maglev table.
    pub slots: u32,
    /// Where the table begins.
    pub first_slot: u32,
    /// Its backends.
    pub backend_addresses: Vec<String>,
}

impl Row for ServiceRow {
    const COLUMNS: &'static [&'static str] = &["NAMESPACE", "NAME", "PORT", "FRONTEND", "BACKENDS"];
    const WIDE: &'static [&'static str] = &["SLOTS", "FIRST-SLOT", "BACKEND-ADDRESSES"];

    fn cells(&self) -> Vec<String> {
        let frontend = format!("{}/{}", self.frontend, self.protocol);
        vec![self.namespace.clone(), self.name.clone(), self.port.clone(), frontend, self.backends.to_string()]
    }

    fn wide(&self) -> Vec<String> {
        vec![self.slots.to_string(), self.first_slot.to_string(), self.backend_addresses.join(",")]
    }
}

/// All frontends, by name, then address; those of one Service where one is asked for.
pub fn services(image: &Image, asked: Option<&str>) -> Vec<ServiceRow> {
    fn family<A: Of>(image: &Image, asked: Option<&str>, rows: &mut Vec<ServiceRow>) {
        let (names, side) = (Names(&image.names), A::side(image));
        for (key, frontend) in &side.frontends {
            // An address as a whole belongs to no Service port.
            let whole = key.proto == 0;
            if whole || asked.is_some_and(|asked| !names.asked(frontend.service, asked)) {
                continue;
            }
            let ids = backend_ids(image, frontend.inside);
            let address = |id: &u32| side.backends.get(id).map(|backend| endpoint(backend.addr, backend.port));
            let mut backend_addresses: Vec<_> =
                ids.iter().map(|id| address(id).unwrap_or_else(|| format!("#{id}"))).collect();
            backend_addresses.sort_unstable();
            let (namespace, name, port) = names.parts(frontend.service);
            rows.push(ServiceRow {
                namespace,
                name,
                port,
                frontend: endpoint(key.addr, key.port),
                protocol: protocol(key.proto),
                backends: backend_addresses.len(),
                slots: frontend.inside.len,
                first_slot: frontend.inside.at,
                backend_addresses,
            });
        }
    }
    let mut rows = Vec::new();
    family::<V4>(image, asked, &mut rows);
    family::<V6>(image, asked, &mut rows);
    rows.sort_by(|a, b| (&a.namespace, &a.name, &a.port).cmp(&(&b.namespace, &b.name, &b.port)));
    rows
}

/// The backends in a Maglev table.
pub(super) fn backend_ids(image: &Image, table: Table) -> BTreeSet<u32> {
    image.runs.get(&table.at).iter().flat_map(|slots| slots.iter().take(table.len as usize)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::IpAddr;

    use lb_common::ip::{Be16, Ip};
    use lb_common::tables::{Backend, Frontend, FrontendKey};

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
NAMESPACE   NAME   PORT   FRONTEND            BACKENDS
shop        dns    -      10.96.0.53:53/UDP   0
shop        web    http   10.96.0.10:80/TCP   3
shop        web    http   [fd00::10]:80/TCP   1
"
        );
        assert_eq!(
            render(&rows[1..2], Output::Wide).unwrap(),
            "\
NAMESPACE   NAME   PORT   FRONTEND            BACKENDS   SLOTS   FIRST-SLOT   BACKEND-ADDRESSES
shop        web    http   10.96.0.10:80/TCP   3          4       0            10.0.0.1:8080,10.0.0.2:8080,10.0.0.3:8080
"
        );
        assert_eq!(services(&image(), Some("shop/web")).len(), 2);
        assert!(services(&image(), Some("nobody")).is_empty());
    }
}
