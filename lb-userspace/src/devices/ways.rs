//! Which news of the kernel may mean other ways out of the node: programs keep a next hop with each flow until they are told.

use std::collections::HashMap;
use std::net::IpAddr;

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

/// The MACs of neighbours, by device and address. What the kernel tells of a neighbour is mostly that it still has the one it had.
#[derive(Debug, Default)]
pub(super) struct Neighbours(HashMap<(u32, IpAddr), Vec<u8>>);

impl Neighbours {
    /// Those that there are.
    pub(super) fn of(messages: &[NeighbourMessage]) -> Self {
        Self(messages.iter().filter_map(known).collect())
    }

    /// Whether packets may leave by another way after these news.
    pub(super) fn turn(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
        use RouteNetlinkMessage as Message;
        match &message.payload {
            NetlinkPayload::InnerMessage(Message::NewNeighbour(neighbour)) => {
                match (key(neighbour), known(neighbour)) {
                    // Where none was known, no flow can have kept it.
                    (_, Some((key, mac))) => self.0.insert(key, mac.clone()).is_some_and(|before| before != mac),
                    (Some(key), None) => self.0.remove(&key).is_some(),
                    (None, None) => false,
                }
            }
            NetlinkPayload::InnerMessage(Message::DelNeighbour(neighbour)) => {
                key(neighbour).is_some_and(|key| self.0.remove(&key).is_some())
            }
            NetlinkPayload::InnerMessage(
                Message::NewLink(_)
                | Message::DelLink(_)
                | Message::NewAddress(_)
                | Message::DelAddress(_)
                | Message::NewRoute(_)
                | Message::DelRoute(_)
                | Message::NewRule(_)
                | Message::DelRule(_),
            )
            | NetlinkPayload::Overrun(_) => true,
            _ => false,
        }
    }
}

/// Whom a message is about, at which device; `None` for entries of bridges and the like, which are no neighbours.
pub(super) fn key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    Some((message.header.ifindex, ip))
}

/// It and the MAC, where that counts.
fn known(message: &NeighbourMessage) -> Option<((u32, IpAddr), Vec<u8>)> {
    use NeighbourState::{Failed, Incomplete, None as Unknown};
    if matches!(message.header.state, Failed | Incomplete | Unknown) {
        return None;
    }
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
        _ => None,
    })?;
    Some((key(message)?, mac))
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use rtnetlink::packet_core::NetlinkHeader;
    use rtnetlink::packet_route::route::RouteMessage;

    use super::*;

    pub(in super::super) fn neighbour(index: u32, host: u8, state: NeighbourState, mac: u8) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(192, 0, 2, host))),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, mac]),
        ];
        message
    }

    pub(in super::super) fn told(message: RouteNetlinkMessage) -> NetlinkMessage<RouteNetlinkMessage> {
        NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message))
    }

    #[test]
    fn a_neighbour_is_news_when_it_has_another_mac_or_none_any_more() {
        use NeighbourState::{Failed, Incomplete, Probe, Reachable, Stale};
        use RouteNetlinkMessage::{DelNeighbour, NewNeighbour};
        let mut neighbours = Neighbours::of(&[neighbour(3, 1, Stale, 1), neighbour(3, 9, Failed, 0)]);
        for (message, turns) in [
            (NewNeighbour(neighbour(3, 1, Probe, 1)), false),
            (NewNeighbour(neighbour(3, 1, Reachable, 1)), false),
            (NewNeighbour(neighbour(3, 1, Reachable, 2)), true),
            (NewNeighbour(neighbour(3, 1, Stale, 2)), false),
            (NewNeighbour(neighbour(4, 1, Stale, 7)), false),
            (NewNeighbour(neighbour(3, 1, Failed, 2)), true),
            (NewNeighbour(neighbour(3, 1, Incomplete, 2)), false),
            (NewNeighbour(neighbour(3, 1, Reachable, 2)), false),
            (DelNeighbour(neighbour(3, 1, Stale, 2)), true),
            (DelNeighbour(neighbour(3, 1, Stale, 2)), false),
            (NewNeighbour(neighbour(3, 9, Failed, 0)), false),
            (DelNeighbour(neighbour(4, 1, Failed, 0)), true),
        ] {
            assert_eq!(neighbours.turn(&told(message.clone())), turns, "{message:?}");
        }
        let mut bridge = neighbour(3, 1, Reachable, 1);
        bridge.header.family = AddressFamily::Bridge;
        assert!(!neighbours.turn(&told(NewNeighbour(bridge))));
        assert!(neighbours.turn(&told(RouteNetlinkMessage::NewRoute(RouteMessage::default()))));
    }
}
