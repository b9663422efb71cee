//! Fragments (RFC 791, RFC 8200): only the first has the ports, so these are remembered for those behind it.
//!
//! No hook can keep a packet back until another comes. A fragment to a virtual IP that overtook its first one goes where
//! the newest packet of that client went which came in fragments: right for one socket that sends such, and where it is
//! wrong, the packet is lost, as it would have been. To other addresses strangers' fragments go as well, which are not to be
//! guessed about.

use crate::csum;
use crate::datapath;
use crate::icmp;
use crate::packet::{ETHERNET, Packet};
use crate::parse::{Extent, Fragment, Header, Network, Parsed};
use crate::rewrite;
use crate::route::Exit;
use crate::tables::{FlowKey, FragmentKey, FragmentPorts, Side, Tables};
use crate::verdict::{Reason, Verdict};

/// Remembers the ports of a packet whose first fragment has just been translated; `parsed` is what it was before.
///
/// Out of line, and reading the packet anew: few packets are fragments.
#[inline(never)]
pub fn remember<A: Header, P: Packet, T: Tables<A>>(packet: &P, tables: &mut T, parsed: &Parsed<A>) {
    let Some((_, fragment)) = read::<A, P>(packet) else { return };
    let key = key(parsed.src, parsed.dst, &fragment);
    let ports = FragmentPorts { sport: parsed.ports.src, dport: parsed.ports.dst, proto: parsed.proto.into() };
    tables.remember_fragment(&key, &ports);
    if icmp::is_whole(tables, parsed.dst) {
        tables.remember_fragment(&key.newest(), &ports);
    }
}

/// Whether a packet is a fragment behind one that was translated.
#[inline(always)]
pub fn is_known<A: Header, P: Packet, T: Tables<A>>(packet: &P, tables: &T) -> bool {
    let found = read::<A, P>(packet).and_then(|(at, fragment)| tables.fragment(&key(at.src, at.dst, &fragment)));
    found.is_some()
}

/// Decides on a fragment behind the first, and translates it. Its flow is there: the first one has opened it. Counts the reason.
///
/// Out of line as [`remember`].
#[inline(never)]
pub fn run<A: Header, P: Packet, T: Tables<A>>(packet: &mut P, tables: &mut T, side: Side) -> Verdict {
    let verdict = decide(packet, tables, side);
    datapath::count(tables, verdict)
}

#[inline(always)]
fn decide<A: Header, P: Packet, T: Tables<A>>(packet: &mut P, tables: &mut T, side: Side) -> Verdict {
    let Some((network, fragment)) = read::<A, P>(packet) else {
        return Verdict::Pass(Reason::Malformed);
    };
    let to_service = side == Side::Ingress && icmp::is_whole(tables, network.dst);
    if to_service && network.proto == A::ICMP {
        return icmp::answer_later(packet, &network);
    }
    let key = key(network.src, network.dst, &fragment);
    let mut ports = tables.fragment(&key).unwrap_or(FragmentPorts::NONE);
    if ports == FragmentPorts::NONE && to_service {
        ports = tables.fragment(&key.newest()).unwrap_or(FragmentPorts::NONE);
    }
    let key = FlowKey {
        src: network.src,
        dst: network.dst,
        sport: ports.sport,
        dport: ports.dport,
        proto: ports.proto as u8,
        side: side as u8,
        zero: 0,
    };
    // No flow has the protocol of none.
    match tables.flow(&key) {
        Some(flow) => {
            let mut exit = Exit::of(network.proto, network.l4, network.l4_len);
            let write = |packet: &mut P| {
                rewrite::addresses(packet, &flow)?;
                packet.add(csum::in_whole::<A>(flow.addrs, 0));
                Some(())
            };
            datapath::send_along(packet, tables, &flow, &mut exit, Reason::LaterFragment, write)
        }
        None if to_service => Verdict::Drop(Reason::Fragment),
        None => Verdict::Pass(Reason::NotService),
    }
}

#[inline(always)]
fn read<A: Header, P: Packet>(packet: &P) -> Option<(Network<A>, Fragment)> {
    let network = A::network(packet, ETHERNET, Extent::Part).ok()?;
    Some((network, network.fragment?))
}

#[inline(always)]
const fn key<A: Header>(src: A, dst: A, fragment: &Fragment) -> FragmentKey<A> {
    FragmentKey { src, dst, id: fragment.id, proto: fragment.proto, newest: 0, zero: 0 }
}
