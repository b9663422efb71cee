//! Netlink: what there is, and the news of it.

use std::io;
use std::net::IpAddr;

use futures_util::{Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;

use super::world::{Address, Link, Route, World};

/// Follows the kernel. Ends when the receiver is dropped.
#[derive(Debug)]
pub struct Watcher {
    /// What there is now.
    pub world: watch::Receiver<World>,
    /// Ends with an error when netlink does.
    pub task: tokio::task::JoinHandle<io::Result<()>>,
}

/// Reads what there is and follows it.
///
/// # Errors
/// Netlink cannot be opened or read.
pub async fn watch() -> io::Result<Watcher> {
    // News first: what happens while we read is then read again.
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (news, _, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(news);
    let (requests, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(requests);
    let mut world = World::default();
    Stale::ALL.read(&handle, &mut world).await?;
    let (sender, receiver) = watch::channel(world.clone());
    let task = tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let mut stale = Stale::by(&message, &world);
            // A new pod is a burst of messages: read once for all that are here.
            while let Ok((message, _)) = messages.try_recv() {
                stale = stale.or(Stale::by(&message, &world));
            }
            stale.read(&handle, &mut world).await?;
            let changed = sender.send_if_modified(|old| {
                let changed = *old != world;
                if changed {
                    old.clone_from(&world);
                }
                changed
            });
            if changed {
                tracing::debug!(devices = world.links.len(), "devices, addresses or default routes changed");
            }
            if sender.is_closed() {
                return Ok(());
            }
        }
        Err(io::Error::other("the kernel closed the netlink socket"))
    });
    Ok(Watcher { world: receiver, task })
}

/// What must be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stale {
    links: bool,
    addresses: bool,
    routes: bool,
}

impl Stale {
    const NONE: Self = Self { links: false, addresses: false, routes: false };
    const ALL: Self = Self { links: true, addresses: true, routes: true };

    fn by(message: &NetlinkMessage<RouteNetlinkMessage>, world: &World) -> Self {
        use RouteNetlinkMessage as Message;
        match &message.payload {
            NetlinkPayload::InnerMessage(Message::NewLink(link) | Message::DelLink(link)) => {
                // Routes of IPv4 go with their device without a word.
                let routes = world.routes.iter().any(|route| route.index == link.header.index);
                Self { links: true, routes, ..Self::NONE }
            }
            NetlinkPayload::InnerMessage(Message::NewAddress(_) | Message::DelAddress(_)) => {
                Self { addresses: true, ..Self::NONE }
            }
            NetlinkPayload::InnerMessage(Message::NewRoute(route) | Message::DelRoute(route)) => {
                Self { routes: route.header.destination_prefix_length == 0, ..Self::NONE }
            }
            NetlinkPayload::Overrun(_) => Self::ALL,
            _ => Self::NONE,
        }
    }

    const fn or(self, other: Self) -> Self {
        Self {
            links: self.links || other.links,
            addresses: self.addresses || other.addresses,
            routes: self.routes || other.routes,
        }
    }

    async fn read(self, handle: &Handle, world: &mut World) -> io::Result<()> {
        if self.links {
            let links = all(handle.link().get().execute()).await?;
            world.links = links.iter().map(|message| (message.header.index, link(message))).collect();
        }
        if self.addresses {
            let addresses = all(handle.address().get().execute()).await?;
            world.addresses = addresses.iter().filter_map(address).collect();
        }
        if self.routes {
            world.routes.clear();
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let mut request = RouteMessage::default();
                request.header.address_family = family;
                let found = all(handle.route().get(request).execute()).await?;
                world.routes.extend(found.iter().flat_map(routes));
            }
        }
        Ok(())
    }
}

async fn all<T>(stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> io::Result<Vec<T>> {
    let mut stream = std::pin::pin!(stream);
    let mut found = Vec::new();
    while let Some(item) = stream.next().await {
        found.push(item.map_err(io::Error::other)?);
    }
    Ok(found)
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link { ethernet: message.header.link_layer_type == LinkLayerType::Ether, ..Link::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    link
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut ip, mut flags) = (None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            // With a peer (point to point), ADDRESS is the peer's and LOCAL our own.
            AddressAttribute::Local(local) => ip = Some(*local),
            AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let bad = AddressFlags::Secondary | AddressFlags::Tentative | AddressFlags::Deprecated | AddressFlags::Dadfailed;
    let ip: IpAddr = ip?;
    let own = message.header.scope == AddressScope::Universe && !flags.intersects(bad) && !ip.is_loopback();
    Some(Address { index: message.header.index, ip, own })
}

fn routes(message: &RouteMessage) -> Vec<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut devices, mut metric, mut to_all) = (Vec::new(), 0, true);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to_all = ip.is_unspecified(),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => to_all = ip.is_unspecified(),
            _ => {}
        }
    }
    let main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    if header.destination_prefix_length != 0 || !to_all || !main || header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let v6 = header.address_family == AddressFamily::Inet6;
    devices.into_iter().map(|index| Route { v6, index, metric }).collect()
}
