//! Netlink: what there is, and the news of it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::doubted::{self, Doubted};
use super::ways::Neighbours;
use super::world::{Address, Link, Route, ServiceRoute, World};
use crate::model::Cidr;

/// The mark of routes to Services: nobody else's in `/etc/iproute2/rt_protos`.
pub(super) const OURS: RouteProtocol = RouteProtocol::Other(81);

/// Follows the kernel. Ends when the receiver is dropped.
#[derive(Debug)]
pub struct Watcher {
    /// What there is now.
    pub world: watch::Receiver<World>,
    /// Lasts through errors of netlink.
    pub task: tokio::task::JoinHandle<io::Result<()>>,
}

/// The shortest pause before netlink is opened again; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// And the longest. Whoever follows for longer than this has no trouble any more.
const LONGEST: Duration = Duration::from_secs(10);

/// What is done when packets may leave the node by other ways.
type Turned = Arc<dyn Fn() + Send + Sync>;

/// Reads what there is and follows it. An error later on ends nothing: all is opened and read again. Calls `turned` as soon as
/// the kernel may lead packets out of the node by other ways than before, and has it look after the neighbours at devices, by their
/// index, where packets are sent `past` it.
///
/// # Errors
/// Netlink cannot be opened or read at the start.
pub async fn watch(
    turned: impl Fn() + Send + Sync + 'static,
    past: watch::Receiver<BTreeSet<u32>>,
) -> io::Result<Watcher> {
    let turned: Turned = Arc::new(turned);
    let session = Session::open(turned.clone(), past.clone()).await?;
    let (sender, receiver) = watch::channel(session.world.clone());
    let (mut session, sender) = (Some(session), Arc::new(sender));
    let follow = move || {
        let (session, sender, turned, past) = (session.take(), sender.clone(), turned.clone(), past.clone());
        let follow = async move {
            match session {
                Some(session) => session.follow(&sender).await,
                None => Session::open(turned, past).await?.follow(&sender).await,
            }
        };
        follow.boxed()
    };
    Ok(Watcher { world: receiver, task: tokio::spawn(forever(follow)) })
}

/// Follows until nobody wants to know any more.
async fn forever(mut follow: impl FnMut() -> BoxFuture<'static, io::Result<()>>) -> io::Result<()> {
    let mut pause = PAUSE;
    loop {
        let began = Instant::now();
        let Err(error) = follow().await else { return Ok(()) };
        if began.elapsed() > LONGEST {
            pause = PAUSE;
        }
        tracing::warn!("cannot follow the devices of this node, trying again in {pause:?}: {error}");
        tokio::time::sleep(pause).await;
        pause = LONGEST.min(pause * 2);
    }
}

/// One connection to netlink, and what was read through it.
struct Session {
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    handle: Handle,
    world: World,
    neighbours: Neighbours,
    doubted: Doubted,
    /// When the next of these may be used.
    use_at: Instant,
    turned: Turned,
    past: watch::Receiver<BTreeSet<u32>>,
    /// The connections; they end with it.
    _tasks: JoinSet<()>,
}

impl Session {
    async fn open(turned: Turned, past: watch::Receiver<BTreeSet<u32>>) -> io::Result<Self> {
        // News first: what happens while we read is then read again.
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Neigh,
        ];
        let (news, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(news);
        let (requests, handle, _) = rtnetlink::new_connection()?;
        tasks.spawn(requests);
        let messages = messages.map(|(message, _)| message).boxed();
        let (world, neighbours, doubted) = (World::default(), Neighbours::default(), Doubted::default());
        let mut session =
            Self { messages, handle, world, neighbours, doubted, use_at: Instant::now(), turned, past, _tasks: tasks };
        session.read(Stale::ALL).await?;
        // Whatever happened while nobody listened.
        (session.turned)();
        Ok(session)
    }

    async fn read(&mut self, stale: Stale) -> io::Result<()> {
        if stale.neighbours {
            let neighbours = all(self.handle.neighbours().get().execute()).await?;
            (self.neighbours, self.doubted) = (Neighbours::of(&neighbours), Doubted::of(&neighbours));
        }
        stale.read(&self.handle, &mut self.world).await
    }

    /// Until the receiver is dropped.
    async fn follow(mut self, sender: &watch::Sender<World>) -> io::Result<()> {
        loop {
            let changed = sender.send_if_modified(|old| {
                let changed = *old != self.world;
                if changed {
                    old.clone_from(&self.world);
                }
                changed
            });
            if changed {
                tracing::debug!(devices = self.world.links.len(), "devices, addresses or default routes changed");
            }
            if sender.is_closed() {
                return Ok(());
            }
            let message = self.next().await?;
            let mut stale = Stale::by(&message, &self.world);
            let mut turned = self.neighbours.turn(&message);
            self.doubted.hear(&message);
            // A new pod is a burst of messages: read once for all that are here.
            while let Some(Some(message)) = self.messages.next().now_or_never() {
                stale = stale.or(Stale::by(&message, &self.world));
                turned |= self.neighbours.turn(&message);
                self.doubted.hear(&message);
            }
            if turned {
                (self.turned)();
            }
            self.read(stale).await?;
        }
    }

    /// The next news. While there are none, neighbours are used that the kernel doubts.
    async fn next(&mut self) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
        loop {
            let devices = self.past.borrow_and_update().clone();
            tokio::select! {
                message = self.messages.next() => {
                    return message.ok_or_else(|| io::Error::other("the kernel closed the netlink socket"));
                }
                Ok(()) = self.past.changed() => {}
                () = tokio::time::sleep_until(self.use_at), if self.doubted.is_any_at(&devices) => {
                    self.doubted.use_next(&self.handle, &devices).await;
                    self.use_at = Instant::now() + doubted::PAUSE;
                }
            }
        }
    }
}

/// What must be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stale {
    links: bool,
    addresses: bool,
    routes: bool,
    neighbours: bool,
}

impl Stale {
    const NONE: Self = Self { links: false, addresses: false, routes: false, neighbours: false };
    const ALL: Self = Self { links: true, addresses: true, routes: true, neighbours: true };

    fn by(message: &NetlinkMessage<RouteNetlinkMessage>, world: &World) -> Self {
        use RouteNetlinkMessage as Message;
        match &message.payload {
            NetlinkPayload::InnerMessage(Message::NewLink(link) | Message::DelLink(link)) => {
                // Routes of IPv4 go with their device without a word.
                let index = link.header.index;
                let routes = world.routes.iter().any(|route| route.index == index)
                    || world.service_routes.iter().any(|route| route.index == index);
                Self { links: true, routes, ..Self::NONE }
            }
            NetlinkPayload::InnerMessage(Message::NewAddress(_) | Message::DelAddress(_)) => {
                Self { addresses: true, ..Self::NONE }
            }
            NetlinkPayload::InnerMessage(Message::NewRoute(route) | Message::DelRoute(route)) => {
                let ours = route.header.protocol == OURS;
                Self { routes: ours || route.header.destination_prefix_length == 0, ..Self::NONE }
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
            neighbours: self.neighbours || other.neighbours,
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
            world.service_routes.clear();
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let mut request = RouteMessage::default();
                request.header.address_family = family;
                let found = all(handle.route().get(request).execute()).await?;
                world.routes.extend(found.iter().flat_map(routes));
                world.service_routes.extend(found.iter().filter_map(service_route));
            }
            world.service_routes.sort_unstable();
        }
        Ok(())
    }
}

/// All that there is now.
pub(super) async fn read(handle: &Handle) -> io::Result<World> {
    let mut world = World::default();
    Stale::ALL.read(handle, &mut world).await?;
    Ok(world)
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
    let mut link = Link {
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    let (mut vlan, mut lower) = (false, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::IfAlias(text) => link.alias.clone_from(text),
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::AfSpecUnspec(families) => link.admits_own = families.iter().any(admits_own),
            LinkAttribute::LinkInfo(infos) => {
                let is = |kinds: &[InfoKind]| {
                    infos.iter().any(|info| matches!(info, LinkInfo::Kind(kind) if kinds.contains(kind)))
                };
                link.veth = is(&[InfoKind::Veth]);
                link.bridge = is(&[InfoKind::Bridge]);
                link.overlay = is(&[InfoKind::Vxlan, InfoKind::Geneve]);
                vlan = is(&[InfoKind::Vlan]);
            }
            _ => {}
        }
    }
    // An index is one of this namespace only where the other device is here, too.
    link.vlan_of = lower.filter(|_| vlan && !link.peer_elsewhere);
    link
}

fn admits_own(family: &AfSpecUnspec) -> bool {
    let AfSpecUnspec::Inet(specs) = family else { return false };
    specs
        .iter()
        .any(|spec| matches!(spec, AfSpecInet::DevConf(conf) if conf.accept_local != 0 && conf.route_localnet != 0))
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

/// A route of ours; none where it is another's.
fn service_route(message: &RouteMessage) -> Option<ServiceRoute> {
    let header = &message.header;
    if header.protocol != OURS {
        return None;
    }
    let (mut first, mut index, mut source, mut mtu) = (None, 0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => first = ip(address),
            RouteAttribute::Oif(device) => index = *device,
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                let of = |metric: &RouteMetric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None };
                mtu = metrics.iter().find_map(of);
            }
            _ => {}
        }
    }
    let to = Cidr::around(first?, header.destination_prefix_length)?;
    Some(ServiceRoute { to, index, source, mtu })
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_is_followed_by_another_try_ever_later() {
        let begun = Arc::new(Mutex::new(vec![Instant::now()]));
        let log = begun.clone();
        let follow = move || {
            let mut log = log.lock().unwrap();
            log.push(Instant::now());
            let error = Err(io::Error::other("the dump was interrupted"));
            match log.len() - 1 {
                10 => tokio::time::sleep(LONGEST * 2).map(|()| error).boxed(),
                12 => async { Ok(()) }.boxed(),
                _ => async { error }.boxed(),
            }
        };
        forever(follow).await.unwrap();
        let at = begun.lock().unwrap();
        let pauses: Vec<_> = at.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 20_100, 200]);
    }

    #[test]
    fn a_vlan_is_above_the_device_that_it_names_if_that_is_here() {
        let link_of = |kind: InfoKind, more: &[LinkAttribute]| {
            let mut message = LinkMessage::default();
            message.attributes = vec![LinkAttribute::Link(3), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
            message.attributes.extend(more.iter().cloned());
            link(&message)
        };
        assert_eq!(link_of(InfoKind::Vlan, &[]).vlan_of, Some(3));
        assert_eq!(link_of(InfoKind::Vlan, &[LinkAttribute::LinkNetNsId(0)]).vlan_of, None);
        assert_eq!(link_of(InfoKind::Veth, &[]).vlan_of, None);
    }
}
