//! From another proxy to this one and on to the next: whose is a packet that belongs to no flow?

use super::*;

both_families! {
    connections_that_another_proxy_began_pass_for_a_time
    a_flow_of_ours_that_lost_a_half_is_not_taken_for_a_strangers
    who_drains_takes_on_no_new_flow_and_goes_on_with_those_it_has
}

mod rules {
    use super::*;

    /// A packet that must leave as it came.
    fn pass<A: Net>(path: &mut Path<A>, from: SocketAddr, to: SocketAddr, l4: L4, reason: Reason) {
        let before = path.entries();
        assert_eq!(path.send(Side::Ingress, from, to, l4), (Verdict::Pass(reason), from, to), "{l4:?}");
        assert_eq!(path.entries(), before, "{l4:?}");
    }

    pub(super) fn connections_that_another_proxy_began_pass_for_a_time<A: Net>() {
        let mut path = Path::<A>::three();
        add_service::<A>(&mut path.tables.image, vip::<A>(2, 80), proto::TCP, &[]);
        path.tables.filter.extend(path.tables.image.filter.iter());
        path.tables.image.config.strangers_until = path.now + 1;
        let me = client::<A>(1, 40_000);
        for service in [vip::<A>(1, 80), vip::<A>(2, 80), vip::<A>(1, 81)] {
            for l4 in [ACK, FIN_ACK, RST, SYN_ACK] {
                pass(&mut path, me, service, l4, Reason::Stranger);
            }
        }
        assert_eq!(path.tables.counters[&Reason::Stranger], 12);
        // What begins here is served, and datagrams have no beginning.
        path.connect(client::<A>(1, 40_001), vip::<A>(1, 80));
        path.call(client::<A>(1, 40_001), vip::<A>(1, 53), UDP, Reason::NewFlow);
        path.now += 1;
        path.call(me, vip::<A>(1, 80), ACK, Reason::NewFlow);
        assert_eq!(path.tables.counters[&Reason::Stranger], 12);
    }

    pub(super) fn a_flow_of_ours_that_lost_a_half_is_not_taken_for_a_strangers<A: Net>() {
        for draining in [0, 1] {
            let mut path = Path::<A>::three();
            let service = vip::<A>(1, 80);
            for port in 40_000..40_050 {
                let me = client::<A>(1, port);
                path.tables.image.config.strangers_until = path.now + 1;
                let backend = path.call(me, service, SYN, Reason::NewFlow);
                path.answer(backend, me, SYN_ACK);
                let flows = A::flows_mut(&mut path.tables);
                flows.flows.retain(|key, flow| flow.is_established() || key.side == Side::Egress as u8);
                path.tables.image.config.draining = draining;
                assert_eq!(path.call(me, service, ACK, Reason::NewFlow), backend);
                assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
                path.tables.image.config.draining = 0;
            }
            assert_eq!(path.entries(), (0, 100));
        }
    }

    pub(super) fn who_drains_takes_on_no_new_flow_and_goes_on_with_those_it_has<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, late) = (client::<A>(1, 40_000), client::<A>(2, 40_000));
        let (service, datagrams) = (vip::<A>(1, 80), vip::<A>(1, 53));
        add_service::<A>(&mut path.tables.image, vip::<A>(2, 80), proto::TCP, &[]);
        path.tables.filter.extend(path.tables.image.filter.iter());
        let backend = path.connect(me, service);
        let asked = path.call(me, datagrams, UDP, Reason::NewFlow);
        let half = client::<A>(1, 40_001);
        let other = path.call(half, service, SYN, Reason::NewFlow);

        path.tables.image.config.draining = 1;
        for (to, l4) in [(service, SYN), (service, ACK), (datagrams, UDP), (vip::<A>(2, 80), SYN)] {
            pass(&mut path, late, to, l4, Reason::Draining);
        }
        assert_eq!(path.answer(asked, me, UDP), datagrams);
        assert_eq!(path.call(me, datagrams, UDP, Reason::EstablishedFlow), asked);
        assert_eq!(path.call(half, service, SYN, Reason::HalfOpenFlow), other);
        assert_eq!(path.call(me, service, FIN_ACK, Reason::EstablishedFlow), backend);
        assert_eq!(path.answer(backend, me, FIN_ACK), service);
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
        // The same port once more is another connection.
        let (verdict, ..) = path.send(Side::Ingress, me, service, SYN);
        assert_eq!(verdict, Verdict::Pass(Reason::Draining));
    }
}
