//! What the packet path promises, one flow at a time, on the in-memory tables: the same code that runs in the kernel.
//! After each step all tables are looked at, not only the packet.

use std::net::SocketAddr;

use lb_common::datapath;
use lb_common::ip::{V4, V6};
use lb_common::mem::{Frame, Native};
use lb_common::packet::proto;
use lb_common::reject;
use lb_common::tables::Side;
use lb_common::verdict::{Reason, Verdict};
use sluice_tests::packets::world::{Net, add_service, client, empty, node, pod, vip};
use sluice_tests::packets::{self, ACK, FIN_ACK, L4, RST, SYN, SYN_ACK, UDP, ends, verify_checksums};

struct Path<A> {
    tables: Native,
    now: u32,
    family: std::marker::PhantomData<A>,
}

impl<A: Net> Path<A> {
    fn new(services: &[(SocketAddr, u8, &[SocketAddr])]) -> Self {
        let mut image = empty();
        for (frontend, proto, backends) in services {
            add_service::<A>(&mut image, *frontend, *proto, backends);
        }
        Self { tables: Native::new(image), now: 100, family: std::marker::PhantomData }
    }

    /// One Service of TCP and UDP over pods 1 to 3.
    fn three() -> Self {
        let pods = [pod::<A>(1), pod::<A>(2), pod::<A>(3)];
        Self::new(&[(vip::<A>(1, 80), proto::TCP, &pods), (vip::<A>(1, 53), proto::UDP, &pods)])
    }

    fn send(&mut self, side: Side, from: SocketAddr, to: SocketAddr, l4: L4) -> (Verdict, SocketAddr, SocketAddr) {
        let mut frame = Frame(packets::packet(from, to, l4, b"payload"));
        let now = self.now;
        let verdict = datapath::run(&mut frame, &mut self.tables, side, || now);
        verify_checksums(&frame.0).expect("right checksums after translation");
        let (src, dst) = ends(&frame.0);
        (verdict, src, dst)
    }

    /// A packet from a client; the backend it went to.
    fn call(&mut self, from: SocketAddr, to: SocketAddr, l4: L4, reason: Reason) -> SocketAddr {
        let (verdict, src, dst) = self.send(Side::Ingress, from, to, l4);
        assert_eq!((verdict, src), (Verdict::Forward(reason), from));
        dst
    }

    /// The answer of a backend as the client sees it.
    fn answer(&mut self, from: SocketAddr, to: SocketAddr, l4: L4) -> SocketAddr {
        let (verdict, src, dst) = self.send(Side::Egress, from, to, l4);
        assert_eq!((verdict, dst), (Verdict::Forward(Reason::Reply), to));
        src
    }

    /// A handshake; the backend.
    fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let backend = self.call(from, to, SYN, Reason::NewFlow);
        assert_eq!(self.answer(backend, from, SYN_ACK), to);
        assert_eq!(self.call(from, to, ACK, Reason::EstablishedFlow), backend);
        backend
    }

    /// Entries in the half-open and the established table.
    fn entries(&self) -> (usize, usize) {
        let flows = A::flows(&self.tables);
        (flows.half_open.len(), flows.established.len())
    }
}

macro_rules! both_families {
    ($($test:ident)*) => {$(
        #[test]
        fn $test() {
            rules::$test::<V4>();
            rules::$test::<V6>();
        }
    )*};
}

both_families! {
    a_handshake_makes_a_pair_and_promotes_it_as_one
    udp_is_established_when_both_sides_have_spoken
    a_retried_syn_reaches_the_same_backend_though_the_set_has_changed
    a_retried_syn_leaves_a_backend_that_is_gone
    an_established_flow_stays_with_its_backend_when_that_leaves
    ports_of_a_closed_connection_can_be_used_again
    a_pair_that_lost_a_half_is_made_whole
    a_full_table_serves_new_flows_and_counts_them
    two_frontends_one_backend_one_client_port_do_not_collide
    a_client_that_is_its_own_backend_is_masqueraded
    what_cannot_be_served_is_refused
    a_segment_without_a_flow_gets_one_and_a_reset_does_not
    an_entry_matches_on_its_own_side_only
    strangers_leave_as_they_came
    the_refusal_is_one_that_the_client_accepts
    a_flow_whose_half_was_lost_after_the_answer_is_promoted
    a_reset_that_the_other_side_ignores_ends_nothing
    an_established_flow_outlives_its_service
    nobody_is_masqueraded_behind_no_address
    what_cannot_be_translated_is_counted
}

mod rules {
    use super::*;

    pub(super) fn a_handshake_makes_a_pair_and_promotes_it_as_one<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.call(me, service, SYN, Reason::NewFlow);
        assert_eq!(path.entries(), (2, 0));
        assert_eq!(path.answer(backend, me, SYN_ACK), service);
        assert_eq!(path.entries(), (2, 0));
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
        assert_eq!(path.entries(), (0, 2));
        assert_eq!(path.answer(backend, me, ACK), service);
        assert_eq!(
            path.tables.counters.into_iter().collect::<Vec<_>>(),
            [(Reason::NewFlow, 1), (Reason::EstablishedFlow, 1), (Reason::Reply, 2)]
        );
    }

    pub(super) fn udp_is_established_when_both_sides_have_spoken<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 53));
        let backend = path.call(me, service, UDP, Reason::NewFlow);
        assert_eq!(path.call(me, service, UDP, Reason::HalfOpenFlow), backend);
        assert_eq!(path.entries(), (2, 0));
        assert_eq!(path.answer(backend, me, UDP), service);
        assert_eq!(path.call(me, service, UDP, Reason::EstablishedFlow), backend);
        assert_eq!(path.entries(), (0, 2));
    }

    pub(super) fn a_retried_syn_reaches_the_same_backend_though_the_set_has_changed<A: Net>() {
        for port in 40_000..40_050 {
            let mut path = Path::<A>::three();
            let (me, service) = (client::<A>(1, port), vip::<A>(1, 80));
            let backend = path.call(me, service, SYN, Reason::NewFlow);
            for run in path.tables.image.runs.values_mut() {
                *run = vec![3; run.len()].into();
            }
            assert_eq!(path.call(me, service, SYN, Reason::HalfOpenFlow), backend);
        }
    }

    pub(super) fn a_retried_syn_leaves_a_backend_that_is_gone<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let gone = path.call(me, service, SYN, Reason::NewFlow);
        let left = if gone == pod::<A>(1) { pod::<A>(2) } else { pod::<A>(1) };
        let mut image = empty();
        add_service::<A>(&mut image, service, proto::TCP, &[left]);
        // Ids are stable: the one that is left keeps its own.
        let backends = &A::side(&path.tables.image).backends;
        let (id, entry) = backends.iter().find(|(_, b)| b.addr.into() == left.ip()).map(|(i, b)| (*i, *b)).unwrap();
        A::side_mut(&mut image).backends = [(id, entry)].into();
        image.runs = [(0, vec![id].into())].into();
        path.tables.image = image;
        assert_eq!(path.call(me, service, SYN, Reason::NewFlow), left);
        assert_eq!(path.entries(), (2, 0));
    }

    pub(super) fn an_established_flow_stays_with_its_backend_when_that_leaves<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.connect(me, service);
        path.tables.image = empty();
        add_service::<A>(&mut path.tables.image, service, proto::TCP, &[]);
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
        assert_eq!(path.answer(backend, me, ACK), service);
    }

    pub(super) fn ports_of_a_closed_connection_can_be_used_again<A: Net>() {
        for end in [&[(FIN_ACK, true), (FIN_ACK, false)][..], &[(RST, true)], &[(RST, false)]] {
            let mut path = Path::<A>::three();
            let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
            let backend = path.connect(me, service);
            for (l4, from_client) in end {
                match from_client {
                    true => assert_eq!(path.call(me, service, *l4, Reason::EstablishedFlow), backend),
                    false => assert_eq!(path.answer(backend, me, *l4), service),
                }
            }
            // The last ACK still finds its flow.
            let mut later = Path::<A> { tables: path.tables.clone(), ..path };
            assert_eq!(later.call(me, service, ACK, Reason::EstablishedFlow), backend);
            assert_eq!(later.entries(), (0, 2));
            path.call(me, service, SYN, Reason::NewFlow);
            assert_eq!(path.entries(), (2, 0));
        }
    }

    pub(super) fn a_pair_that_lost_a_half_is_made_whole<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.call(me, service, SYN, Reason::NewFlow);
        let whole = A::flows(&path.tables).half_open.clone();
        let lose = |path: &mut Path<A>, there: bool| {
            let table = &mut A::flows_mut(&mut path.tables).half_open;
            table.retain(|key, _| (key.side == Side::Ingress as u8) != there);
            assert_eq!(table.len(), 1);
        };
        lose(&mut path, false);
        path.call(me, service, SYN, Reason::HalfOpenFlow);
        assert_eq!(A::flows(&path.tables).half_open, whole);
        lose(&mut path, true);
        assert_eq!(path.answer(backend, me, SYN_ACK), service);
        assert_eq!(path.entries(), (2, 0));
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
        assert_eq!(path.entries(), (0, 2));
    }

    pub(super) fn a_full_table_serves_new_flows_and_counts_them<A: Net>() {
        let mut path = Path::<A>::three();
        path.tables.capacity = 4;
        let service = vip::<A>(1, 80);
        path.connect(client::<A>(1, 40_001), service);
        path.connect(client::<A>(1, 40_002), service);
        let late = client::<A>(1, 40_003);
        let backend = path.call(late, service, SYN, Reason::NewFlow);
        path.answer(backend, late, SYN_ACK);
        for _ in 0..3 {
            assert_eq!(path.call(late, service, ACK, Reason::HalfOpenFlow), backend);
            assert_eq!(path.answer(backend, late, ACK), service);
        }
        assert_eq!(path.entries(), (2, 4));
        assert_eq!(path.tables.counters[&Reason::FlowTableFull], 3);
    }

    pub(super) fn two_frontends_one_backend_one_client_port_do_not_collide<A: Net>() {
        let only = [pod::<A>(1)];
        let (first, second) = (vip::<A>(1, 80), vip::<A>(2, 80));
        let mut path = Path::<A>::new(&[(first, proto::TCP, &only), (second, proto::TCP, &only)]);
        let me = client::<A>(1, 40_000);
        path.connect(me, first);
        let (verdict, src, dst) = path.send(Side::Ingress, me, second, SYN);
        assert_eq!((verdict, dst), (Verdict::Forward(Reason::NewFlow), only[0]));
        assert_eq!(src.ip(), me.ip());
        assert_ne!(src.port(), me.port());
        // Each answer goes to the connection it belongs to.
        let (verdict, from, to) = path.send(Side::Egress, only[0], src, SYN_ACK);
        assert_eq!((verdict, from, to), (Verdict::Forward(Reason::Reply), second, me));
        assert_eq!(path.answer(only[0], me, ACK), first);
    }

    pub(super) fn a_client_that_is_its_own_backend_is_masqueraded<A: Net>() {
        let own = pod::<A>(1);
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::new(&[(service, proto::TCP, &[own])]);
        let me = SocketAddr::new(own.ip(), 40_000);
        let (verdict, src, dst) = path.send(Side::Ingress, me, service, SYN);
        assert_eq!((verdict, src.ip(), dst), (Verdict::Return(Reason::NewFlow), node::<A>(), own));
        assert!((1024..30_000).contains(&src.port()), "port {} may be the host's own", src.port());
        let (verdict, from, to) = path.send(Side::Ingress, own, src, SYN_ACK);
        assert_eq!((verdict, from, to), (Verdict::Return(Reason::Reply), service, me));
        let (verdict, ..) = path.send(Side::Ingress, me, service, ACK);
        assert_eq!(verdict, Verdict::Return(Reason::EstablishedFlow));
        assert_eq!(path.entries(), (0, 2));
    }

    pub(super) fn what_cannot_be_served_is_refused<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::new(&[(service, proto::TCP, &[])]);
        let me = client::<A>(1, 40_000);
        let cases = [
            (service, SYN, Verdict::Reject(Reason::NoEndpoints)),
            (service, RST, Verdict::Drop(Reason::NoEndpoints)),
            (service, UDP, Verdict::Reject(Reason::NoSuchPort)),
            (vip::<A>(1, 81), SYN, Verdict::Reject(Reason::NoSuchPort)),
            (vip::<A>(9, 80), SYN, Verdict::Pass(Reason::NotService)),
        ];
        for (to, l4, expected) in cases {
            assert_eq!(path.send(Side::Ingress, me, to, l4), (expected, me, to));
        }
        assert_eq!(path.entries(), (0, 0));
    }

    pub(super) fn a_segment_without_a_flow_gets_one_and_a_reset_does_not<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.call(me, service, RST, Reason::Stateless);
        assert_eq!(path.entries(), (0, 0));
        assert_eq!(path.call(me, service, ACK, Reason::NewFlow), backend);
        assert_eq!(path.entries(), (2, 0));
    }

    pub(super) fn an_entry_matches_on_its_own_side_only<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.connect(me, service);
        let pass = Verdict::Pass(Reason::NotService);
        assert_eq!(path.send(Side::Egress, me, service, ACK), (pass, me, service));
        assert_eq!(path.send(Side::Ingress, backend, me, ACK), (pass, backend, me));
    }

    pub(super) fn strangers_leave_as_they_came<A: Net>() {
        let mut path = Path::<A>::three();
        path.connect(client::<A>(1, 40_000), vip::<A>(1, 80));
        let before = path.tables.clone();
        let echo = packets::echo(client::<A>(1, 0).ip(), vip::<A>(1, 0).ip());
        let other = packets::packet(client::<A>(1, 40_000), pod::<A>(1), SYN, b"direct");
        let mut arp = other.clone();
        arp[12..14].copy_from_slice(&[8, 6]);
        let mut frames = vec![echo, arp];
        // Every truncation of a packet to the Service, and every truncation that lies about its length.
        let whole = packets::packet(client::<A>(1, 40_000), vip::<A>(1, 80), SYN, b"x");
        frames.extend((0..whole.len()).map(|len| whole[..len].to_vec()));
        frames.push(other);
        for bytes in frames {
            for side in [Side::Ingress, Side::Egress] {
                let mut frame = Frame(bytes.clone());
                let verdict = datapath::run(&mut frame, &mut path.tables, side, || 200);
                assert!(matches!(verdict, Verdict::Pass(_)), "{verdict:?} for {bytes:x?}");
                assert_eq!(frame.0, bytes);
            }
        }
        path.tables.counters = before.counters.clone();
        assert_eq!(path.tables, before);
    }

    pub(super) fn a_flow_whose_half_was_lost_after_the_answer_is_promoted<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.call(me, service, SYN, Reason::NewFlow);
        path.answer(backend, me, SYN_ACK);
        A::flows_mut(&mut path.tables).half_open.retain(|key, _| key.side == Side::Egress as u8);
        assert_eq!(path.call(me, service, ACK, Reason::NewFlow), backend);
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
        assert_eq!(path.entries(), (0, 2));
        // The same with the way back, and a SYN that is sent again.
        let mut path = Path::<A>::three();
        let backend = path.call(me, service, SYN, Reason::NewFlow);
        path.answer(backend, me, SYN_ACK);
        A::flows_mut(&mut path.tables).half_open.retain(|key, _| key.side == Side::Ingress as u8);
        path.call(me, service, SYN, Reason::HalfOpenFlow);
        assert_eq!(path.answer(backend, me, SYN_ACK), service);
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
    }

    pub(super) fn a_reset_that_the_other_side_ignores_ends_nothing<A: Net>() {
        for from_client in [true, false] {
            let mut path = Path::<A>::three();
            let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
            let backend = path.connect(me, service);
            let over = |path: &Path<A>| A::flows(&path.tables).established.values().filter(|flow| flow.over()).count();
            match from_client {
                true => assert_eq!(path.call(me, service, RST, Reason::EstablishedFlow), backend),
                false => assert_eq!(path.answer(backend, me, RST), service),
            }
            assert_eq!(over(&path), 2);
            assert_eq!(path.answer(backend, me, ACK), service);
            assert_eq!(over(&path), 0);
        }
    }

    pub(super) fn an_established_flow_outlives_its_service<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.connect(me, service);
        let gone: Vec<u32> = path.tables.image.filter.iter().copied().collect();
        path.tables.image = empty();
        path.tables.filter.retain(|bit| !gone.contains(bit));
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
        let (verdict, ..) = path.send(Side::Ingress, client::<A>(1, 40_001), service, SYN);
        assert_eq!(verdict, Verdict::Pass(Reason::NotService));
    }

    pub(super) fn nobody_is_masqueraded_behind_no_address<A: Net>() {
        let own = pod::<A>(1);
        let mut path = Path::<A>::new(&[(vip::<A>(1, 80), proto::TCP, &[own])]);
        path.tables.image.config = lb_common::tables::Config::EMPTY;
        let me = SocketAddr::new(own.ip(), 40_000);
        let (verdict, ..) = path.send(Side::Ingress, me, vip::<A>(1, 80), SYN);
        assert_eq!(verdict, Verdict::Drop(Reason::NoNodeAddress));
        assert_eq!(path.entries(), (0, 0));
    }

    pub(super) fn what_cannot_be_translated_is_counted<A: Net>() {
        let mut path = Path::<A>::three();
        let mut short = packets::packet(client::<A>(1, 40_000), vip::<A>(1, 80), SYN, b"");
        short.pop();
        Frame(short).run(&mut path.tables, Side::Ingress, 0);
        assert_eq!(path.tables.counters.into_iter().collect::<Vec<_>>(), [(Reason::Malformed, 1)]);
    }

    pub(super) fn the_refusal_is_one_that_the_client_accepts<A: Net>() {
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        for (l4, seq, ack) in [(SYN, 0, packets::SEQUENCE + 1 + 3), (ACK, packets::ACKNOWLEDGED, 0)] {
            let mut frame = Frame(packets::packet(me, service, l4, b"abc"));
            reject::refuse(&mut frame).expect("a refusal");
            verify_checksums(&frame.0).unwrap();
            assert_eq!(ends(&frame.0), (service, me));
            let parsed = etherparse::PacketHeaders::from_ethernet_slice(&frame.0).unwrap();
            let tcp = parsed.transport.unwrap().tcp().unwrap();
            assert!(tcp.rst);
            assert_eq!((tcp.sequence_number, tcp.acknowledgment_number, tcp.ack), (seq, ack, l4 == SYN));
            assert_eq!(parsed.link.unwrap().ethernet2().unwrap().destination, packets::FROM);
        }
        let refused = packets::packet(me, service, UDP, b"abc");
        let mut frame = Frame(refused.clone());
        reject::refuse(&mut frame).expect("a refusal");
        verify_checksums(&frame.0).unwrap();
        let quoted = &frame.0[14 + A::HEADER + 8..];
        assert_eq!(quoted, &refused[14..14 + A::HEADER + 8]);
        let kind = &frame.0[14 + A::HEADER..][..2];
        assert_eq!(kind, if A::ICMP == 1 { [3, 3] } else { [1, 4] });
    }
}
