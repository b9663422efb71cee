//! The life of a flow: how it begins, what it survives, when it is over.

use lb_common::flow;
use lb_common::ip::Be16;
use lb_common::tables::{Backend, Flow, FlowKey};

use super::*;

both_families! {
    a_handshake_makes_a_pair_and_promotes_it_as_one
    udp_is_established_when_both_sides_have_spoken
    a_retried_syn_reaches_the_same_backend_though_the_set_has_changed
    a_retried_syn_leaves_a_backend_that_is_gone
    an_established_flow_stays_with_its_backend_when_that_leaves
    ports_of_a_closed_connection_can_be_used_again
    a_closed_connection_does_not_claim_the_answers_of_a_direct_one
    a_pair_that_lost_a_half_is_made_whole
    a_full_table_serves_new_flows_and_counts_them
    a_segment_without_a_flow_gets_one_and_a_reset_does_not
    a_flow_whose_half_was_lost_after_the_answer_is_promoted
    a_reset_that_the_other_side_ignores_ends_nothing
    an_established_flow_outlives_its_service
    of_two_first_packets_at_once_one_chooses_for_both
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

    /// The client's port, to the backend itself: the answers have the tuple of those of the flow that is over.
    pub(super) fn a_closed_connection_does_not_claim_the_answers_of_a_direct_one<A: Net>() {
        for end in [&[(FIN_ACK, true), (FIN_ACK, false)][..], &[(RST, true)]] {
            let mut path = Path::<A>::three();
            let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
            let backend = path.connect(me, service);
            for (l4, from_client) in end {
                match from_client {
                    true => drop(path.call(me, service, *l4, Reason::EstablishedFlow)),
                    false => drop(path.answer(backend, me, *l4)),
                }
            }
            for (side, from, to, l4) in [
                (Side::Ingress, me, backend, SYN),
                (Side::Egress, backend, me, SYN_ACK),
                (Side::Ingress, me, backend, ACK),
                (Side::Egress, backend, me, ACK),
            ] {
                assert_eq!(path.send(side, from, to, l4), (Verdict::Pass(Reason::NotService), from, to), "{l4:?}");
            }
            assert_eq!(path.entries(), (0, 0));
        }
    }

    pub(super) fn a_pair_that_lost_a_half_is_made_whole<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.call(me, service, SYN, Reason::NewFlow);
        let whole = A::flows(&path.tables).flows.clone();
        let lose = |path: &mut Path<A>, there: bool| {
            let table = &mut A::flows_mut(&mut path.tables).flows;
            table.retain(|key, _| (key.side == Side::Ingress as u8) != there);
            assert_eq!(table.len(), 1);
        };
        lose(&mut path, false);
        path.call(me, service, SYN, Reason::HalfOpenFlow);
        assert_eq!(A::flows(&path.tables).flows, whole);
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

    pub(super) fn a_segment_without_a_flow_gets_one_and_a_reset_does_not<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.call(me, service, RST, Reason::Stateless);
        assert_eq!(path.entries(), (0, 0));
        assert_eq!(path.call(me, service, ACK, Reason::NewFlow), backend);
        assert_eq!(path.entries(), (2, 0));
    }

    pub(super) fn a_flow_whose_half_was_lost_after_the_answer_is_promoted<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.call(me, service, SYN, Reason::NewFlow);
        path.answer(backend, me, SYN_ACK);
        A::flows_mut(&mut path.tables).flows.retain(|key, _| key.side == Side::Egress as u8);
        assert_eq!(path.call(me, service, ACK, Reason::NewFlow), backend);
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
        assert_eq!(path.entries(), (0, 2));
        // The same with the way back, and a SYN that is sent again.
        let mut path = Path::<A>::three();
        let backend = path.call(me, service, SYN, Reason::NewFlow);
        path.answer(backend, me, SYN_ACK);
        A::flows_mut(&mut path.tables).flows.retain(|key, _| key.side == Side::Ingress as u8);
        path.call(me, service, SYN, Reason::HalfOpenFlow);
        assert_eq!(path.answer(backend, me, SYN_ACK), service);
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
    }

    pub(super) fn a_reset_that_the_other_side_ignores_ends_nothing<A: Net>() {
        for from_client in [true, false] {
            let mut path = Path::<A>::three();
            let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
            let backend = path.connect(me, service);
            let over = |path: &Path<A>| A::flows(&path.tables).flows.values().filter(|flow| flow.over()).count();
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
    /// As a resolver asks for A and AAAA: two datagrams of one socket, on two CPUs, between which the set may change.
    pub(super) fn of_two_first_packets_at_once_one_chooses_for_both<A: Net>() {
        let mut tables = Path::<A>::three().tables;
        let ip = |of: SocketAddr| A::from_ip(of.ip()).unwrap();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 53));
        let mut key = FlowKey {
            src: ip(me),
            dst: ip(service),
            sport: Be16::new(me.port()),
            dport: Be16::new(service.port()),
            proto: proto::UDP,
            side: Side::Ingress as u8,
            zero: 0,
        };
        // Each has found no flow, and has chosen.
        let chosen = |n: u8| {
            let backend = Backend { addr: ip(pod::<A>(n)), port: Be16::new(8080), flags: 0 };
            Flow { backend: n.into(), ..flow::there(&key, &backend, key.src, 0, 100) }
        };
        let (mut first, mut second) = (chosen(1), chosen(2));
        assert_eq!(flow::open(&mut tables, &mut key, &mut first), Reason::NewFlow);
        assert_eq!(flow::open(&mut tables, &mut key, &mut second), Reason::HalfOpenFlow);
        assert_eq!((second.dst, second.backend), (first.dst, 1), "it goes where the first one went");
        let flows = &A::flows(&tables).flows;
        assert_eq!(flows.len(), 2, "no way back is left from a backend that nobody was led to");
        assert!(flows.keys().all(|key| key.src == ip(me) || key.src == ip(pod::<A>(1))));
    }
}
