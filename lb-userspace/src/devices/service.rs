//! The service device: the one that is the agent's own, with routes to the ranges of virtual IPs. What no other hook led to
//! a Service goes out through it, to the program at its egress: packets of sockets inside the kernel, of processes whose
//! sockets are not led, of pods behind devices of a kind that is not followed, and whatever is to nobody.
//!
//! It is a bridge that joins nothing: a kernel that runs pods has that kind, it is on without a peer, and what goes out
//! through it goes nowhere. Its alias names its owner: whoever has that name but not the alias is somebody else's and left
//! alone. What should be is compared with what there is, so that the start, a repair and a new range are one and the same.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use lb_common::route::{LOOPBACK, SERVICE_MAC};
use rtnetlink::packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinSet;

use super::classify::Survey;
use super::netlink::{self, OURS};
use super::world::{Link, ServiceRoute, World};
use crate::model::Cidr;

/// Name and owner of the service device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLink {
    /// Its name.
    pub name: String,
    /// Its alias.
    alias: String,
}

/// The longest alias (`IFALIASZ` of linux/if.h, without the zero at its end).
const ALIAS: usize = 255;

/// The gateway of routes that lead by the device. Nobody has these addresses, and nobody is asked for them: one neighbour
/// serves all virtual IPs, so that not even a scan of a whole range fills the kernel's table of neighbours.
const GATEWAY: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(169, 254, 0, 1), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// Behind other routes to exactly the same range, whoever made these.
const METRIC: u32 = 10_000;

/// The device itself cuts nothing: its routes say what fits.
const MTU: u32 = 65_535;

/// The least MTU of IPv6 (RFC 8200, 5).
const LEAST_V6: u32 = 1280;

/// Settings of a device for IPv4 (linux/if_link.h, linux/ip.h).
const IFLA_INET_CONF: u16 = 1;
const ACCEPT_LOCAL: u16 = 23;
const ROUTE_LOCALNET: u16 = 26;

/// Steps come in passes, since a device must be there before a route can lead by it.
const PASSES: usize = 4;

impl ServiceLink {
    /// Of the agent that pins in this folder.
    pub fn new(name: impl Into<String>, pins: &Path) -> Self {
        Self { name: name.into(), alias: alias(pins) }
    }

    /// Whether a device is it.
    pub fn is(&self, link: &Link) -> bool {
        link.name == self.name && link.alias == self.alias
    }
}

fn alias(pins: &Path) -> String {
    let mut alias = format!("service device of sluice at {}", pins.display());
    alias.truncate(alias.floor_char_boundary(ALIAS));
    alias
}

/// What there shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    link: Option<ServiceLink>,
    /// None where nothing is known of it: what there is stays.
    routes: Option<Vec<ServiceRoute>>,
}

/// One step toward it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Make the device.
    Make,
    /// Bring one that was made, but not finished, into its state.
    Finish(u32),
    /// Remove a device.
    Remove(u32),
    /// Let packets in through the loopback device that have addresses of the node's own at both ends, or do not any more.
    /// Answers to who called such an address come in there.
    Admit(bool),
    /// Put a route in place of what there is to that range.
    Put(ServiceRoute),
    /// Remove a route.
    Take(ServiceRoute),
}

/// Keeps the device and its routes.
#[derive(Debug)]
pub struct ServiceDevice {
    link: Option<ServiceLink>,
    alias: String,
    /// What was in place when it was last looked at.
    settled: Option<Wanted>,
    repairs: u64,
}

impl ServiceDevice {
    /// For the agent that pins in this folder; without a link it shall have none.
    pub fn new(link: Option<ServiceLink>, pins: &Path) -> Self {
        Self { link, alias: alias(pins), settled: None, repairs: 0 }
    }

    /// How often something was gone that was in place before.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Makes the device, unless it is there. Its routes are left as they are.
    ///
    /// # Errors
    /// Netlink refuses, or the name is somebody else's.
    pub async fn make(&mut self) -> io::Result<()> {
        self.reach(&Wanted { link: self.link.clone(), routes: None }).await
    }

    /// Brings the device, and routes to all of these ranges, in place. Routes are only led by a device that is `attached`,
    /// by its index; without ranges what there is stays. `world` is what netlink last said, and looked at first: it costs
    /// nothing.
    ///
    /// # Errors
    /// Netlink refuses, or the name is somebody else's.
    pub async fn sync(
        &mut self,
        world: &World,
        survey: &Survey,
        ranges: Option<&BTreeSet<Cidr>>,
        attached: Option<u32>,
    ) -> io::Result<()> {
        let routes = ranges.zip(attached).map(|(ranges, index)| routes(ranges, survey, index));
        let wanted = Wanted { link: self.link.clone(), routes };
        if !plan(world, &wanted, &self.alias)?.is_empty() {
            self.reach(&wanted).await?;
        }
        self.settled = Some(wanted);
        Ok(())
    }

    async fn reach(&mut self, wanted: &Wanted) -> io::Result<()> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let mut task = JoinSet::new();
        task.spawn(connection);
        for _ in 0..PASSES {
            let world = netlink::read(&handle).await?;
            let steps = plan(&world, wanted, &self.alias)?;
            if steps.is_empty() {
                return Ok(());
            }
            for step in steps {
                if self.lost(&step, wanted) {
                    self.repairs += 1;
                    tracing::warn!("the service device is no longer as it was: {step}");
                } else {
                    tracing::debug!("service device: {step}");
                }
                let failed = |error| io::Error::other(format!("cannot {step}: {error}"));
                take(&handle, &step, wanted, &self.alias).await.map_err(failed)?;
            }
        }
        Err(io::Error::other("others change it as fast as it is made"))
    }

    /// Whether a step brings back what was in place before.
    fn lost(&self, step: &Step, wanted: &Wanted) -> bool {
        let Some(settled) = &self.settled else { return false };
        match step {
            Step::Make | Step::Finish(_) | Step::Admit(true) => settled.link == wanted.link,
            Step::Put(route) => settled.routes.as_ref().is_some_and(|routes| routes.contains(route)),
            Step::Remove(_) | Step::Take(_) | Step::Admit(false) => false,
        }
    }
}

/// Removes the devices of the agent that pins in this folder, and with them their routes. How many there were.
///
/// # Errors
/// Netlink refuses.
pub async fn remove_service_devices(pins: &Path) -> io::Result<usize> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let mut task = JoinSet::new();
    task.spawn(connection);
    let (wanted, alias) = (Wanted { link: None, routes: None }, alias(pins));
    let steps = plan(&netlink::read(&handle).await?, &wanted, &alias)?;
    for step in &steps {
        take(&handle, step, &wanted, &alias).await.map_err(io::Error::other)?;
    }
    Ok(steps.len())
}

/// The routes to ranges of virtual IPs, of those families in which the node has an address.
fn routes(ranges: &BTreeSet<Cidr>, survey: &Survey, index: u32) -> Vec<ServiceRoute> {
    let own = |v6: bool| if v6 { survey.node.v6.map(IpAddr::from) } else { survey.node.v4.map(IpAddr::from) };
    let speaks = |v6: bool| survey.own.iter().any(|ip| ip.is_ipv6() == v6 && !ip.is_loopback());
    let usable = ranges.iter().filter(|range| range.len > 0 && speaks(range.first.is_ipv6()));
    let route = |range: &Cidr| {
        let v6 = range.first.is_ipv6();
        let mtu = survey.mtu.filter(|mtu| !v6 || *mtu >= LEAST_V6);
        ServiceRoute { to: *range, index, source: own(v6), mtu }
    };
    usable.map(route).collect()
}

/// What is to be done, in order.
fn plan(world: &World, wanted: &Wanted, alias: &str) -> io::Result<Vec<Step>> {
    let ours = |link: &Link| link.alias == alias && link.bridge;
    let is_wanted = |link: &Link| wanted.link.as_ref().is_some_and(|wanted| wanted.is(link));
    let others = world.links.iter().filter(|(_, link)| ours(link) && !is_wanted(link));
    let mut steps: Vec<_> = others.map(|(index, _)| Step::Remove(*index)).collect();
    let admits = world.links.get(&LOOPBACK).is_some_and(|link| link.admits_own);
    let Some(link) = &wanted.link else {
        // With a device of ours goes what was done for it.
        let undo = (admits && !steps.is_empty()).then_some(Step::Admit(false));
        return Ok(undo.into_iter().chain(steps).collect());
    };
    if !admits && world.links.contains_key(&LOOPBACK) {
        steps.push(Step::Admit(true));
    }
    let found = world.links.iter().find(|(_, found)| found.name == link.name);
    match found {
        None => steps.push(Step::Make),
        Some((_, found)) if found.bridge && link.is(found) && found.up && found.mac == SERVICE_MAC => {}
        // Whoever made it was interrupted.
        Some((&index, found)) if found.bridge && (link.is(found) || found.alias.is_empty() && !found.up) => {
            steps.push(Step::Finish(index));
        }
        Some(_) => return Err(io::Error::other(format!("{} is a device of somebody else's", link.name))),
    }
    if let (Some(routes), true) = (&wanted.routes, steps.is_empty()) {
        let index = found.map(|(index, _)| *index);
        let is = |route: &&ServiceRoute| Some(route.index) == index;
        let here: Vec<_> = world.service_routes.iter().filter(is).collect();
        let missing = routes.iter().filter(|route| is(route) && !here.contains(route));
        steps.extend(missing.map(|route| Step::Put(*route)));
        let over = here.iter().filter(|route| routes.iter().all(|wanted| wanted.to != route.to));
        steps.extend(over.map(|route| Step::Take(**route)));
    }
    Ok(steps)
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Make => f.write_str("make the device"),
            Self::Finish(_) => f.write_str("switch the device on"),
            Self::Remove(index) => write!(f, "remove the device with the index {index}"),
            Self::Admit(true) => f.write_str("let answers of the node to itself in through the loopback device"),
            Self::Admit(false) => f.write_str("let nothing in through the loopback device that comes from elsewhere"),
            Self::Put(route) => write!(f, "lead {} by the device", route.to),
            Self::Take(route) => write!(f, "remove the route to {}", route.to),
        }
    }
}

async fn take(handle: &Handle, step: &Step, wanted: &Wanted, alias: &str) -> Result<(), rtnetlink::Error> {
    match step {
        Step::Make => {
            let name = wanted.link.as_ref().map_or("", |link| &link.name);
            // A pass finds it, and finishes it: the kernel takes no alias with a new device.
            handle.link().add(LinkBridge::new(name).down().mtu(MTU).build()).execute().await
        }
        Step::Finish(index) => finish(handle, *index, alias).await,
        Step::Remove(index) => handle.link().del(*index).execute().await,
        Step::Admit(yes) => handle.link().set(admitting(*yes)).execute().await,
        Step::Put(route) => handle.route().add(message(route)).replace().execute().await,
        Step::Take(route) => handle.route().del(message(route)).execute().await,
    }
}

/// Owner first, switched on last. It needs no address, asks nobody for theirs, and hears no multicast.
async fn finish(handle: &Handle, index: u32, alias: &str) -> Result<(), rtnetlink::Error> {
    let device = || LinkUnspec::new_with_index(index);
    handle.link().set(device().alias(alias).address(SERVICE_MAC.to_vec()).build()).execute().await?;
    let silent = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let silent = device().append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![silent])).build();
    match handle.link().set(silent).execute().await {
        // A kernel without IPv6 gives no addresses of it.
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EAFNOSUPPORT => {}
        result => result?,
    }
    handle.link().set(device().arp(false).multicast(false).up().build()).execute().await
}

/// The loopback device, as it admits addresses of the node's own, or does not. (The crate writes no setting that is 0.)
fn admitting(yes: bool) -> LinkMessage {
    let value = u32::from(yes).to_ne_bytes().to_vec();
    let settings = [ACCEPT_LOCAL, ROUTE_LOCALNET].map(|setting| DefaultNla::new(setting, value.clone()));
    let mut bytes = vec![0; settings.as_slice().buffer_len()];
    settings.as_slice().emit(&mut bytes);
    let settings = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, bytes));
    let spec = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![settings])]);
    LinkUnspec::new_with_index(LOOPBACK).append_extra_attribute(spec).build()
}

fn message(route: &ServiceRoute) -> RouteMessage {
    let Cidr { first, len } = route.to;
    let gateway = if first.is_ipv6() { IpAddr::V6(GATEWAY.1) } else { IpAddr::V4(GATEWAY.0) };
    let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(route.index).priority(METRIC).protocol(OURS);
    let mut message = builder.onlink().build();
    message.header.address_family = if first.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.destination_prefix_length = len;
    message.attributes.extend([RouteAttribute::Destination(first.into()), RouteAttribute::Gateway(gateway.into())]);
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

#[cfg(test)]
mod tests {
    use super::super::classify::Nodes;
    use super::*;

    const NAME: &str = "sluice0";

    fn link(name: &str, alias: &str, up: bool) -> Link {
        let mac = if alias.is_empty() { vec![2; 6] } else { SERVICE_MAC.to_vec() };
        Link {
            name: name.to_owned(),
            alias: alias.to_owned(),
            ethernet: true,
            bridge: true,
            up,
            mac,
            ..Link::default()
        }
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn survey() -> Survey {
        Survey {
            node: Nodes { v4: "192.0.2.1".parse().ok(), v6: None },
            own: ["127.0.0.1", "::1", "192.0.2.1"].map(|ip| ip.parse().unwrap()).into(),
            mtu: Some(1450),
            ..Survey::default()
        }
    }

    #[test]
    fn only_ranges_of_families_that_the_node_speaks_are_led() {
        let ranges = ["10.96.0.0/16", "10.97.0.0/16", "fd00:96::/108", "0.0.0.0/0"].map(cidr).into();
        let found = routes(&ranges, &survey(), 7);
        let to: Vec<_> = found.iter().map(|route| route.to.to_string()).collect();
        assert_eq!(to, ["10.96.0.0/16", "10.97.0.0/16"]);
        assert!(found.iter().all(|route| (route.index, route.mtu) == (7, Some(1450)) && route.source.is_some()));
    }

    #[test]
    fn the_device_and_its_routes_come_to_what_they_shall_be() {
        let pins = Path::new("/pins");
        let (ours, others) = (alias(pins), alias(Path::new("/other")));
        let route = |to: &str| routes(&[cidr(to)].into(), &survey(), 7).remove(0);
        let (a, b) = (route("10.96.0.0/16"), route("10.97.0.0/16"));
        let moved = ServiceRoute { source: None, ..a };
        let on = Some(ServiceLink::new(NAME, pins));
        let with = |link: Link, routes: &[ServiceRoute]| World {
            links: [(7, link)].into(),
            service_routes: routes.to_vec(),
            ..World::default()
        };
        let lo = |admits_own| (LOOPBACK, Link { admits_own, ..Link::default() });
        let [closed, open] = [false, true]
            .map(|admits_own| move |link| World { links: [lo(admits_own), (7, link)].into(), ..World::default() });
        let rows = [
            ("nothing there", World::default(), on.clone(), None, Some(vec![Step::Make])),
            ("interrupted", with(link(NAME, "", false), &[]), on.clone(), None, Some(vec![Step::Finish(7)])),
            ("switched off", with(link(NAME, &ours, false), &[]), on.clone(), None, Some(vec![Step::Finish(7)])),
            ("of another agent", with(link(NAME, &others, true), &[]), on.clone(), None, None),
            ("of somebody else", with(link(NAME, "", true), &[]), on.clone(), None, None),
            ("renamed", with(link("old", &ours, true), &[]), on.clone(), None, Some(vec![Step::Remove(7), Step::Make])),
            ("not wanted", with(link(NAME, &ours, true), &[a]), None, None, Some(vec![Step::Remove(7)])),
            ("all is well", with(link(NAME, &ours, true), &[a]), on.clone(), Some(vec![a]), Some(vec![])),
            ("nothing is known", with(link(NAME, &ours, true), &[a]), on.clone(), None, Some(vec![])),
            (
                "one came, one went",
                with(link(NAME, &ours, true), &[a]),
                on.clone(),
                Some(vec![b]),
                Some(vec![Step::Put(b), Step::Take(a)]),
            ),
            (
                "packets of its own are refused",
                closed(link(NAME, &ours, true)),
                on.clone(),
                None,
                Some(vec![Step::Admit(true)]),
            ),
            (
                "admitted, and not wanted",
                open(link(NAME, &ours, true)),
                None,
                None,
                Some(vec![Step::Admit(false), Step::Remove(7)]),
            ),
            ("admitted by others", open(link(NAME, "", false)), None, None, Some(vec![])),
            ("another source", with(link(NAME, &ours, true), &[moved]), on, Some(vec![a]), Some(vec![Step::Put(a)])),
        ];
        for (case, world, link, routes, expected) in rows {
            assert_eq!(plan(&world, &Wanted { link, routes }, &ours).ok(), expected, "{case}");
        }
    }
}
