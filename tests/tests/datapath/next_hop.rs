//! Next hops that established flows keep: which packets go there without a question to the kernel.

use std::net::IpAddr;

use lb_common::route::{Hop, NextHop};
use sluice_tests::packets::world::{Network, far};

use super::*;

both_families! {
    a_next_hop_is_kept_for_a_tick_and_an_epoch
    only_an_established_flow_keeps_one
    what_is_too_long_for_it_or_at_its_last_hop_is_judged_anew
    at_tc_the_packet_that_asks_goes_by_the_neighbours_and_the_others_follow_it
    what_tc_keeps_spares_xdp_the_question
    without_macs_nothing_is_kept
}

const FIRST: NextHop = NextHop::new(7, 1500, [2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 7]);
const SECOND: NextHop = NextHop::new(8, 1500, [2, 0, 0, 0, 0, 10], [2, 0, 0, 0, 0, 8]);

/// A flow from outside to a backend on another node, answered, with its next hops.
struct Flow<A> {
    path: Path<A>,
    me: SocketAddr,
    to: SocketAddr,
}

impl<A: Net> Flow<A> {
    fn new(hop: Hop) -> Self {
        let (me, to) = (client::<A>(1, 20_000), vip::<A>(1, 53));
        let mut path = Path::<A>::new(&[(to, proto::UDP, &[far::<A>(1)])]);
        path.from(Origin::Outside);
        path.tables.longest = 1500;
        for ip in [A::host(Network::Client, 1), A::host(Network::Far, 1)] {
            path.tables.hops.insert(ip, hop);
        }
        Self { path, me, to }
    }

    fn established(hop: Hop) -> Self {
        let mut flow = Self::new(hop);
        let (_, port, backend) = flow.path.send(Side::Ingress, flow.me, flow.to, UDP);
        flow.path.send(Side::Ingress, backend, port, UDP);
        flow.send(b"");
        flow
    }

    /// The kernel would send the client's packets there from now on.
    fn lead(&mut self, hop: Hop) {
        let to: IpAddr = A::host(Network::Far, 1);
        self.path.tables.hops.insert(to, hop);
    }

    /// A datagram of the client; what becomes of it, and its first twelve bytes then.
    fn send(&mut self, payload: &[u8]) -> (Verdict, Vec<u8>) {
        let mut frame = Frame(packets::packet(self.me, self.to, UDP, payload));
        let verdict = frame.run(&mut self.path.tables, Side::Ingress, self.path.now);
        verify_checksums(&frame.0).expect("right checksums after translation");
        (verdict, frame.0[..12].to_vec())
    }

    /// Expects it to leave by a next hop whose MACs are known.
    fn leaves(&mut self, next: &NextHop) {
        let macs = [&next.head.to_ne_bytes()[..], &next.tail.to_ne_bytes()].concat();
        assert_eq!(self.send(b"payload"), (Verdict::Leave(Reason::EstablishedFlow, next.device), macs));
    }
}

mod rules {
    use super::*;

    pub(super) fn a_next_hop_is_kept_for_a_tick_and_an_epoch<A: Net>() {
        let mut flow = Flow::<A>::established(Hop::Direct(FIRST));
        flow.lead(Hop::Direct(SECOND));
        flow.leaves(&FIRST);
        flow.path.tables.epoch += 1;
        flow.leaves(&SECOND);
        flow.lead(Hop::Direct(FIRST));
        flow.leaves(&SECOND);
        flow.path.now += 1;
        flow.leaves(&FIRST);
        // The way back has one of its own.
        let (port, backend) = (SocketAddr::new(node::<A>(), 20_000), far::<A>(1));
        flow.path.tables.hops.insert(A::host(Network::Client, 1), Hop::Direct(SECOND));
        for next in [SECOND, SECOND] {
            let (verdict, ..) = flow.path.send(Side::Ingress, backend, port, UDP);
            assert_eq!(verdict, Verdict::Leave(Reason::Reply, next.device));
            flow.path.tables.hops.insert(A::host(Network::Client, 1), Hop::Nowhere);
        }
    }

    pub(super) fn only_an_established_flow_keeps_one<A: Net>() {
        let mut flow = Flow::<A>::new(Hop::Direct(FIRST));
        for reason in [Reason::NewFlow, Reason::HalfOpenFlow] {
            assert_eq!(flow.send(b"").0, Verdict::Leave(reason, 7));
        }
        flow.lead(Hop::Nowhere);
        assert_eq!(flow.send(b"").0, Verdict::Drop(Reason::NoRoute));
        assert!(A::flows(&flow.path.tables).next_hops.is_empty());
    }

    pub(super) fn what_is_too_long_for_it_or_at_its_last_hop_is_judged_anew<A: Net>() {
        let mut flow = Flow::<A>::established(Hop::Direct(FIRST));
        let room = |mtu: usize| vec![0x5a; mtu - A::HEADER - 8];
        flow.path.tables.longest = 1600;
        flow.lead(Hop::Direct(SECOND));
        assert_eq!(flow.send(&room(1500)).0, Verdict::Leave(Reason::EstablishedFlow, 7));
        assert_eq!(flow.send(&room(1501)).0, Verdict::Leave(Reason::EstablishedFlow, 8));
        // Which is kept in turn.
        flow.lead(Hop::Nowhere);
        assert_eq!(flow.send(&room(1600)).0, Verdict::Leave(Reason::EstablishedFlow, 8));
        flow.lead(Hop::Direct(FIRST));
        assert_eq!(flow.send(&room(1601)).0, Verdict::Answer(Reason::TooLong));
        for (hops, verdict) in [(2, Verdict::Leave(Reason::EstablishedFlow, 8)), (1, Verdict::Drop(Reason::HopLimit))] {
            let mut frame = Frame(packets::packet(flow.me, flow.to, UDP, b""));
            frame.0[14 + A::HOPS] = hops;
            assert_eq!(frame.run(&mut flow.path.tables, Side::Ingress, flow.path.now), verdict);
        }
    }

    pub(super) fn at_tc_the_packet_that_asks_goes_by_the_neighbours_and_the_others_follow_it<A: Net>() {
        let mut flow = Flow::<A>::established(Hop::Neighbour(FIRST));
        flow.path.tables.at_xdp = false;
        for _ in 0..2 {
            flow.path.now += 1;
            let (verdict, macs) = flow.send(b"");
            assert_eq!(verdict, Verdict::LeaveToNeighbour(Reason::EstablishedFlow, 7));
            assert_eq!(macs[..6], [2, 0, 0, 0, 0, 9]);
            flow.leaves(&FIRST);
        }
    }

    pub(super) fn what_tc_keeps_spares_xdp_the_question<A: Net>() {
        let mut flow = Flow::<A>::established(Hop::Direct(FIRST));
        flow.path.now += 1;
        flow.lead(Hop::HandOver);
        assert_eq!(flow.send(b"").0, Verdict::Pass(Reason::HandedOver));
        flow.lead(Hop::Neighbour(FIRST));
        flow.path.tables.at_xdp = false;
        flow.send(b"");
        flow.leaves(&FIRST);
        // XDP would send it there, if it asked.
        flow.lead(Hop::Direct(SECOND));
        flow.path.tables.at_xdp = true;
        assert_eq!(flow.send(b"").0, Verdict::Pass(Reason::HandedOver));
        flow.path.tables.epoch += 1;
        flow.leaves(&SECOND);
        // And what XDP keeps is not for TC.
        flow.path.tables.at_xdp = false;
        flow.lead(Hop::Neighbour(FIRST));
        assert_eq!(flow.send(b"").0, Verdict::LeaveToNeighbour(Reason::EstablishedFlow, 7));
    }

    pub(super) fn without_macs_nothing_is_kept<A: Net>() {
        let mut flow = Flow::<A>::established(Hop::Neighbour(NextHop { device: 7, ..NextHop::NONE }));
        flow.path.tables.at_xdp = false;
        for _ in 0..2 {
            let (verdict, macs) = flow.send(b"");
            assert_eq!(verdict, Verdict::LeaveToNeighbour(Reason::EstablishedFlow, 7));
            assert_eq!(macs[..6], packets::TO, "the kernel writes the MACs");
        }
    }
}
