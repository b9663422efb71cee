//! What a packet finds in maps, and what it should find: two ways to the same answer, the second straight from what
//! was declared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::ip::{Be16, Ip, V4, V6};
use lb_common::mem::{Image, Of};
use lb_common::tables::{Backend, Frontend, FrontendKey, Name, Origin, Table, frontend};
use lb_userspace::endpoints::{Here, serving};
use lb_userspace::model::{Cidr, Service, ServicePort, TrafficPolicy};
use lb_userspace::state::State;

use crate::world::options;

/// What a packet meets at an address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found<A: Ip> {
    /// The Service port.
    pub(crate) title: String,
    /// What becomes of it, by where it comes from: first from inside, then from outside.
    pub(crate) fates: [Fate<A>; 2],
    /// Whether other ports of the address are left alone.
    own: bool,
    /// What people are told of it: what its address is, and its traffic policy.
    shown: (&'static str, TrafficPolicy),
    /// For how long a client stays with its backend, in ticks.
    affinity: u32,
    /// Who may call, where not everybody may.
    admits: Option<BTreeSet<String>>,
}

impl<A: Ip> Found<A> {
    /// Whether a packet that meets this meets what it would meet before a change or after it. Ranges come and go one by one:
    /// who may call before and after may call all the while, and who may not in neither may not.
    pub(crate) fn is_between(&self, before: Option<&Self>, after: Option<&Self>) -> bool {
        let all = Self { admits: None, ..self.clone() };
        let either = [before, after].into_iter().flatten();
        let same: Vec<_> = either.filter(|other| other.title == self.title).collect();
        let like = |other: &&Self| Self { admits: None, ..(*other).clone() } == all;
        if !same.iter().any(|other| like(other) && other.admits.is_none() == self.admits.is_none()) {
            return false;
        }
        let Some(admits) = &self.admits else { return true };
        let limits: Vec<_> = same.iter().filter_map(|other| other.admits.as_ref()).collect();
        // The ranges are the Service port's: an address that comes, goes, or opens to everybody in the same change may meet
        // those of the others.
        let passing = limits.len() < 2;
        let no_more = passing || admits.iter().all(|range| limits.iter().any(|limit| limit.contains(range)));
        let no_less = limits[0].iter().all(|range| admits.contains(range) || !limits.iter().all(|l| l.contains(range)));
        no_more && no_less
    }
}
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
    let own = frontend.flags & frontend::OWN_ADDRESS != 0;
    let ranges = A::side(image).ranges.iter().filter(|(range, _)| range.service == frontend.service);
    let ranges = ranges.map(|(range, len)| format!("{:?}/{}", range.addr, len - 32)).collect();
    let admits = (frontend.flags & frontend::SOURCE_RANGES != 0).then_some(ranges);
    let local = frontend.flags & frontend::LOCAL != 0;
    let policy = if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let kind = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalIP"][frontend.kind() as usize];
    let (fates, affinity) = ([fate(Origin::Inside)?, fate(Origin::Outside)?], frontend.affinity);
    Ok(Found { title: shown(name), fates, own, shown: (kind, policy), affinity, admits })
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

/// Who has an address and port that several Services want: the one for which it is the first of these.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    ClusterIp,
    NodePort,
    LoadBalancerIp,
    ExternalIp,
}

/// What every frontend should lead to: of Services that want the same key, the first by right, then by name has it.
pub(crate) fn expected<A: Ip>(state: &State) -> All<A> {
    let node = state.node("node").map(|node| node.addresses.clone()).unwrap_or_default();
    let own: BTreeSet<IpAddr> = options().node.own.into_iter().chain(node).collect();
    let mut wanted = Vec::new();
    for service in state.services().filter(|service| service.is_programmed()) {
        let cluster_ips: Vec<A> = service.cluster_ips.iter().filter_map(|ip| A::from_ip(*ip)).collect();
        if cluster_ips.is_empty() {
            continue;
        }
        let first = title(service, &service.ports[0]);
        wanted.extend(cluster_ips.iter().map(|addr| {
            let title = first.clone();
            let shown = ("ClusterIP", TrafficPolicy::Cluster);
            let refuses = Found { title, fates: Default::default(), own: false, shown, affinity: 0, admits: None };
            (FrontendKey::whole(*addr), Right::ClusterIp, refuses)
        }));
        for port in &service.ports {
            let [inside, outside] = fates::<A>(state, service, port);
            let mut want = |right, ips: &mut dyn Iterator<Item = IpAddr>, number| {
                for ip in ips {
                    let Some(addr) = A::from_ip(ip) else { continue };
                    let fates = match right {
                        Right::ClusterIp => [inside.clone(), inside.clone()],
                        _ => [everybody::<A>(state, service, port), outside.clone()],
                    };
                    let found = Found {
                        title: title(service, port),
                        fates,
                        own: own.contains(&ip),
                        shown: match right {
                            Right::ClusterIp => ("ClusterIP", service.internal_policy),
                            Right::NodePort => ("NodePort", service.external_policy),
                            Right::LoadBalancerIp => ("LoadBalancer", service.external_policy),
                            Right::ExternalIp => ("ExternalIP", service.external_policy),
                        },
                        affinity: service.affinity.map_or(0, ticks),
                        admits: (right == Right::LoadBalancerIp).then(|| admits::<A>(service)).flatten(),
                    };
                    wanted.push((FrontendKey::new(addr, Be16::new(number), port.protocol.number()), right, found));
                }
            };
            want(Right::ClusterIp, &mut service.cluster_ips.iter().copied(), port.port);
            want(Right::LoadBalancerIp, &mut service.load_balancer_ips.iter().copied(), port.port);
            want(Right::ExternalIp, &mut service.external_ips.iter().copied(), port.port);
            if let Some(number) = port.node_port {
                want(Right::NodePort, &mut own.iter().copied(), number);
            }
        }
    }
    let mut all = All::new();
    // A stable sort: who came first by name stays so.
    wanted.sort_by_key(|(_, right, _)| *right);
    for (key, _, found) in wanted {
        all.entry(key).or_insert(found);
    }
    all
}

fn title(service: &Service, port: &ServicePort) -> String {
    format!("{}/{}:{}", service.name.namespace, service.name.name, port.name)
}

/// Seconds, in units of 2^30 ns, rounded up.
fn ticks(seconds: u32) -> u32 {
    (f64::from(seconds) * 1e9 / f64::from(1 << 30)).ceil() as u32
}

/// Whom a family's load-balancer IPs admit.
fn admits<A: Ip>(service: &Service) -> Option<BTreeSet<String>> {
    let ours = |range: &&Cidr| A::from_ip(range.first).is_some();
    let all: Vec<_> = service.source_ranges.ranges.iter().filter(ours).collect();
    let free = all.is_empty() || all.iter().any(|range| range.len == 0);
    (!free).then(|| all.iter().map(ToString::to_string).collect())
}

/// Where clients go whom the internal policy, and whom the external policy concerns.
fn fates<A: Ip>(state: &State, service: &Service, port: &ServicePort) -> [Fate<A>; 2] {
    [service.internal_policy, service.external_policy].map(|policy| match policy {
        TrafficPolicy::Cluster => everybody(state, service, port),
        TrafficPolicy::Local => {
            let serving = serving::<A>(port, state.slices(&service.name), HERE);
            let vanishes = serving.local.is_empty() && !serving.cluster.is_empty();
            (serving.local.into_iter().collect(), vanishes)
        }
    })
}

/// Where clients go whom no policy concerns.
fn everybody<A: Ip>(state: &State, service: &Service, port: &ServicePort) -> Fate<A> {
    (serving::<A>(port, state.slices(&service.name), HERE).cluster.into_iter().collect(), false)
}

const HERE: Here<'_> = Here { node: "node", zone: None, own: &BTreeSet::new() };

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
