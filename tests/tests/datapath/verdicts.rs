//! Which packets are translated, refused, passed or dropped.

use super::*;

both_families! {
    two_frontends_one_backend_one_client_port_do_not_collide
    many_frontends_one_backend_one_client_port_do_not_collide
    a_client_that_is_its_own_backend_is_masqueraded
    what_cannot_be_served_is_refused
    what_only_other_nodes_serve_vanishes
    an_entry_matches_on_its_own_side_only
    strangers_leave_as_they_came
    nobody_is_masqueraded_behind_no_address
    what_cannot_be_translated_is_counted
    the_refusal_is_one_that_the_client_accepts
}

mod rules {
    use super::*;

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

    pub(super) fn many_frontends_one_backend_one_client_port_do_not_collide<A: Net>() {
        let only = [pod::<A>(1)];
        let services: Vec<_> = (1..=100).map(|n| (vip::<A>(n, 80), proto::TCP, &only[..])).collect();
        let mut path = Path::<A>::new(&services);
        for port in [40_000, 40_001] {
            let me = client::<A>(1, port);
            for (service, ..) in &services {
                let (verdict, src, dst) = path.send(Side::Ingress, me, *service, SYN);
                assert_eq!((verdict, dst), (Verdict::Forward(Reason::NewFlow), only[0]));
                let (verdict, from, to) = path.send(Side::Egress, only[0], src, SYN_ACK);
                assert_eq!((verdict, from, to), (Verdict::Forward(Reason::Reply), *service, me));
            }
        }
        assert_eq!(path.tables.counters.get(&Reason::NoSourcePort), None);
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

    pub(super) fn what_only_other_nodes_serve_vanishes<A: Net>() {
        let mut path = Path::<A>::new(&[(vip::<A>(1, 80), proto::TCP, &[])]);
        for frontend in A::side_mut(&mut path.tables.image).frontends.values_mut() {
            frontend.flags = lb_common::tables::frontend::ELSEWHERE_INSIDE;
        }
        let (verdict, ..) = path.send(Side::Ingress, client::<A>(1, 40_000), vip::<A>(1, 80), SYN);
        assert_eq!(verdict, Verdict::Drop(Reason::NoLocalEndpoints));
        let (verdict, ..) = path.send(Side::Ingress, client::<A>(1, 40_000), vip::<A>(1, 81), SYN);
        assert_eq!(verdict, Verdict::Reject(Reason::NoSuchPort));
        assert_eq!(path.entries(), (0, 0));
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
        let echo = packets::echo(client::<A>(1, 0).ip(), pod::<A>(1).ip());
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
