//! Backends, one a row.

use std::collections::BTreeMap;

use lb_common::ip::{V4, V6};
use lb_common::mem::{Image, Of};
use lb_common::tables::{Table, backend};
use serde::Serialize;

use super::names::{Names, endpoint};
use super::table::Row;

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendRow {
    /// Its address and port.
    pub address: String,
    /// Its id.
    pub id: u32,
    /// Whether it is on this node.
    pub local: bool,
    /// The Service ports that lead to it.
    pub services: Vec<Share>,
}

/// What a backend gets of a Service port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// `namespace/name:port`.
    pub service: String,
    /// Percent of the slots of its Maglev table.
    pub percent: f64,
}

impl Row for BackendRow {
    const COLUMNS: &'static [&'static str] = &["ADDRESS", "ID", "LOCAL", "SERVICES"];
    const WIDE: &'static [&'static str] = &["SHARE"];

    fn cells(&self) -> Vec<String> {
        let services: Vec<_> = self.services.iter().map(|share| share.service.as_str()).collect();
        let local = if self.local { "yes" } else { "" };
        vec![self.address.clone(), self.id.to_string(), local.to_owned(), services.join(",")]
    }

    fn wide(&self) -> Vec<String> {
        let shares: Vec<_> = self.services.iter().map(|share| format!("{:.1}%", share.percent)).collect();
        vec![shares.join(",")]
    }
}

/// All backends, by address; those of one Service where one is asked for.
pub fn backends(image: &Image, asked: Option<&str>) -> Vec<BackendRow> {
    let mut rows = Vec::new();
    family::<V4>(image, asked, &mut rows);
    family::<V6>(image, asked, &mut rows);
    rows
}

fn family<A: Of>(image: &Image, asked: Option<&str>, rows: &mut Vec<BackendRow>) {
    let (names, side) = (Names(&image.names), A::side(image));
    let mut shares = BTreeMap::<u32, BTreeMap<u32, f64>>::new();
    // Frontends share tables: count the slots of each once.
    let mut counts = BTreeMap::<Table, BTreeMap<u32, u32>>::new();
    for frontend in side.frontends.values() {
        for table in frontend.tables() {
            for (id, slots) in counts.entry(table).or_insert_with(|| count(image, table)) {
                let percent = f64::from(*slots) * 100.0 / f64::from(table.len);
                shares.entry(*id).or_default().insert(frontend.service, percent);
            }
        }
    }
    let mut backends: Vec<_> = side.backends.iter().collect();
    backends.sort_unstable_by_key(|(id, backend)| (backend.addr, backend.port, **id));
    for (id, backend) in backends {
        let of = shares.remove(id).unwrap_or_default();
        if asked.is_some_and(|asked| !of.keys().any(|service| names.asked(*service, asked))) {
            continue;
        }
        let mut services: Vec<_> =
            of.into_iter().map(|(service, percent)| Share { service: names.full(service), percent }).collect();
        services.sort_by(|a, b| a.service.cmp(&b.service));
        let local = backend.flags & backend::LOCAL != 0;
        rows.push(BackendRow { address: endpoint(backend.addr, backend.port), id: *id, local, services });
    }
}

fn count(image: &Image, table: Table) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for id in image.runs.get(&table.at).iter().flat_map(|slots| slots.iter().take(table.len as usize)) {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::super::services::tests::image;
    use super::super::table::{Output, render};
    use super::*;

    #[test]
    fn backends_show_what_share_of_each_service_they_get() {
        let mut image = image();
        image.v4.backends.values_mut().take(1).for_each(|first| first.flags = backend::LOCAL);
        image
            .v4
            .frontends
            .remove(&lb_common::tables::FrontendKey::whole("10.96.0.10".parse::<std::net::Ipv4Addr>().unwrap().into()));
        assert_eq!(
            render(&backends(&image, None), Output::Wide).unwrap(),
            "\
ADDRESS          ID   LOCAL   SERVICES        SHARE
10.0.0.1:8080    1    yes     shop/web:http   50.0%
10.0.0.2:8080    2    -       shop/web:http   25.0%
10.0.0.3:8080    3    -       shop/web:http   25.0%
[fd00::1]:8080   1    -       shop/web:http   100.0%
"
        );
        assert_eq!(backends(&image, Some("web")).len(), 4);
        assert!(backends(&image, Some("dns")).is_empty());
    }

    #[test]
    fn a_backend_without_services_is_listed_all_the_same() {
        let mut image = image();
        image.v4.frontends.clear();
        image.v6.frontends.clear();
        assert_eq!(
            render(&backends(&image, None)[..1], Output::Table).unwrap(),
            "ADDRESS         ID   LOCAL   SERVICES\n10.0.0.1:8080   1    -       -\n"
        );
    }
}
