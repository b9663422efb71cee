//! What a packet finds in maps, and what it should find: two ways to the same answer, the second straight from what
//! was declared.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::ip::{Be16, Ip, V4, V6};
use lb_common::mem::{Image, Of};
use lb_common::tables::{Backend, Frontend, FrontendKey, Name, Origin, Table};
use lb_userspace::endpoints::{Here, serving};
use lb_userspace::model::TrafficPolicy;
use lb_userspace::state::State;

/// The Service port that a packet meets, and what becomes of it by where it comes from.
pub(crate) type Found<A> = (String, [Fate<A>; 2]);
/// The backends it may be sent to, and whether it vanishes where there are none.
pub(crate) type Fate<A> = (BTreeSet<Backend<A>>, bool);
pub(crate) type All<A> = BTreeMap<FrontendKey<A>, Found<A>>;

/// What every frontend of an image leads to.
///
/// An error where a packet would be lost: a slot without backend, a frontend without name.
pub(crate) fn found<A: Of>(image: &Image) -> Result<All<A>, String> {
    let frontends = A::side(image).frontends.iter();
    frontends.map(|(key, frontend)| Ok((*key, resolve(image, key, frontend)?))).collect()
}

pub(crate) fn resolve<A: Of>(image: &Image, key: &FrontendKey<A>, frontend: &Frontend) -> Result<Found<A>, String> {
    let name = image.names.get(&frontend.service).ok_or_else(|| format!("{key:?} has no name"))?;
    let fate = |origin| Ok::<_, String>((members(image, key, frontend.table(origin))?, frontend.is_elsewhere(origin)));
    Ok((shown(name), [fate(Origin::Inside)?, fate(Origin::Outside)?]))
}

fn members<A: Of>(image: &Image, key: &FrontendKey<A>, table: Table) -> Result<BTreeSet<Backend<A>>, String> {
    if table.len == 0 {
        return Ok(BTreeSet::new());
    }
    let (first, run) = image.runs.range(..=table.at).next_back().ok_or_else(|| format!("{key:?} leads to no table"))?;
    let from = (table.at - first) as usize;
    let slots = from..from + table.len as usize;
    if slots.end > run.len() {
        return Err(format!("{key:?} leads beyond a table"));
    }
    let ids: BTreeSet<_> = slots.filter_map(|slot| run.get(slot)).collect();
    let backend = |id| A::side(image).backends.get(&id).copied().ok_or_else(|| format!("{key:?}: no backend {id}"));
    ids.into_iter().map(backend).collect()
}

pub(crate) fn shown(name: &Name) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    format!("{}/{}:{}", text(&name.namespace), text(&name.service), text(&name.port))
}

/// What every frontend should lead to: of Services that want the same key, the first by name has it.
pub(crate) fn expected<A: Ip>(state: &State) -> All<A> {
    let mut all = All::new();
    for service in state.services().filter(|service| service.is_programmed()) {
        let title = |port: &str| format!("{}/{}:{port}", service.name.namespace, service.name.name);
        for addr in service.cluster_ips.iter().filter_map(|ip| A::from_ip(*ip)) {
            for port in &service.ports {
                let serving = serving::<A>(port, state.slices(&service.name), Here { node: "node", zone: None });
                let local = service.internal_policy == TrafficPolicy::Local;
                let vanishes = local && serving.local.is_empty() && !serving.cluster.is_empty();
                let backends = if local { serving.local } else { serving.cluster };
                let fate = (backends.into_iter().collect(), vanishes);
                let key = FrontendKey::new(addr, Be16::new(port.port), port.protocol.number());
                all.entry(key).or_insert((title(&port.name), [fate.clone(), fate]));
            }
            let first = title(&service.ports[0].name);
            all.entry(FrontendKey::whole(addr)).or_insert((first, Default::default()));
        }
    }
    all
}

/// Both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Both {
    pub(crate) v4: All<V4>,
    pub(crate) v6: All<V6>,
}

impl Both {
    pub(crate) fn found(image: &Image) -> Result<Self, String> {
        Ok(Self { v4: found(image)?, v6: found(image)? })
    }

    pub(crate) fn expected(state: &State) -> Self {
        Self { v4: expected(state), v6: expected(state) }
    }
}
