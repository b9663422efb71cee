//! Neighbours that the kernel has begun to doubt (`NUD_STALE`). It asks whether they are still there when a packet is next sent to them
//! by the stack. XDP sends past it: where nobody else calls a neighbour it would be doubted for ever, packets would go on to
//! the MAC that it once had, and at last it would be dropped as unused. So where XDP sends, the agent uses it in the place
//! of these packets (`NTF_USE`): the kernel asks, as it does for itself.
//!
//! Which neighbours packets go to is known to the programs alone, and to tell would cost them; so it is all at such a device. A device
//! may have thousands, and each is asked once in as long as the kernel believes it (`base_reachable_time`, half a minute); hence the
//! pace. That of one is the traffic of a node that sends to it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::Handle;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};

use super::ways::key;

/// At most so many are used at once,
const AT_ONCE: usize = 16;
/// and then none for so long.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A device, by its index, and the address of a neighbour there.
type Neighbour = (u32, IpAddr);

/// Those of all devices that nobody has used since.
#[derive(Debug, Default)]
pub(super) struct Doubted {
    all: BTreeSet<Neighbour>,
    /// Which was used last: those behind it are next, so that all have their turn.
    last: Option<Neighbour>,
}

impl Doubted {
    /// Those that there are.
    pub(super) fn of(messages: &[NeighbourMessage]) -> Self {
        let stale = messages.iter().filter(|message| message.header.state == NeighbourState::Stale);
        Self { all: stale.filter_map(key).collect(), last: None }
    }

    /// Takes in what the kernel tells of a neighbour.
    pub(super) fn hear(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) {
        use RouteNetlinkMessage::{DelNeighbour, NewNeighbour};
        let (message, is_doubted) = match &message.payload {
            NetlinkPayload::InnerMessage(NewNeighbour(new)) => (new, new.header.state == NeighbourState::Stale),
            NetlinkPayload::InnerMessage(DelNeighbour(old)) => (old, false),
            _ => return,
        };
        let Some(key) = key(message) else { return };
        if is_doubted {
            self.all.insert(key);
        } else {
            self.all.remove(&key);
        }
    }

    /// Whether there are any at one of these devices.
    pub(super) fn is_any_at(&self, devices: &BTreeSet<u32>) -> bool {
        self.all.iter().any(|(index, _)| devices.contains(index))
    }

    /// Takes the next at these devices, as many as may be used at once.
    fn take(&mut self, devices: &BTreeSet<u32>) -> Vec<Neighbour> {
        let there = || self.all.iter().filter(|(index, _)| devices.contains(index));
        let behind = there().filter(|neighbour| Some(**neighbour) > self.last);
        let before = there().filter(|neighbour| Some(**neighbour) <= self.last);
        let next: Vec<_> = behind.chain(before).take(AT_ONCE).copied().collect();
        self.all.retain(|neighbour| !next.contains(neighbour));
        self.last = next.last().copied().or(self.last);
        next
    }

    /// Uses the next at these devices. One that vanished meanwhile is asked for anew.
    pub(super) async fn use_next(&mut self, handle: &Handle, devices: &BTreeSet<u32>) {
        for (index, ip) in self.take(devices) {
            let request = handle.neighbours().add(index, ip).replace();
            let used = request.state(NeighbourState::None).flags(NeighbourFlags::Use).execute().await;
            if let Err(error) = used {
                tracing::debug!("cannot have the kernel ask for {ip} at device {index}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ways::tests::{neighbour, told};
    use super::*;

    fn hosts(taken: &[Neighbour]) -> Vec<u8> {
        let last = |ip: &IpAddr| if let IpAddr::V4(ip) = ip { ip.octets()[3] } else { 0 };
        taken.iter().map(|(_, ip)| last(ip)).collect()
    }

    #[test]
    fn a_neighbour_is_doubted_until_it_is_used_found_or_gone() {
        use NeighbourState::{Delay, Failed, Reachable, Stale};
        use RouteNetlinkMessage::{DelNeighbour, NewNeighbour};
        let at = BTreeSet::from([3]);
        let mut doubted = Doubted::of(&[neighbour(3, 1, Stale, 1), neighbour(3, 2, Reachable, 2)]);
        assert_eq!(hosts(&doubted.take(&at)), [1]);
        assert!(!doubted.is_any_at(&at), "it was used");
        for (message, left) in [
            (NewNeighbour(neighbour(3, 1, Stale, 1)), true),
            (NewNeighbour(neighbour(3, 1, Delay, 1)), false),
            (NewNeighbour(neighbour(3, 1, Stale, 1)), true),
            (NewNeighbour(neighbour(3, 1, Failed, 1)), false),
            (NewNeighbour(neighbour(3, 1, Stale, 1)), true),
            (DelNeighbour(neighbour(3, 1, Stale, 1)), false),
            (NewNeighbour(neighbour(4, 1, Stale, 1)), false),
        ] {
            doubted.hear(&told(message.clone()));
            assert_eq!(doubted.is_any_at(&at), left, "{message:?}");
        }
    }

    #[test]
    fn of_many_all_have_their_turn_some_at_a_time() {
        let at = BTreeSet::from([3]);
        let stale = |host| neighbour(3, host, NeighbourState::Stale, host);
        let mut doubted = Doubted::of(&(0..40).map(stale).collect::<Vec<_>>());
        let mut taken = Vec::new();
        for _ in 0..3 {
            let next = hosts(&doubted.take(&at));
            assert!(next.len() <= AT_ONCE);
            // Those that were used are doubted again, soon.
            next.iter().for_each(|host| doubted.hear(&told(RouteNetlinkMessage::NewNeighbour(stale(*host)))));
            taken.extend(next);
        }
        assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), (0..40).collect());
    }
}
