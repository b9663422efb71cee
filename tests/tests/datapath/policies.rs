//! Who may call, and where a client's flow goes: traffic policies, source ranges, session affinity, NodePorts.

use lb_common::ip::Be16;
use lb_common::tables::{AffinityKey, Filter, Frontend, FrontendKey, Kind, RangeKey, Table, frontend};

use sluice_tests::packets::world;

use super::*;

both_families! {
    clients_inside_and_outside_have_a_table_each
    a_policy_that_finds_no_local_endpoint_lets_packets_of_its_own_clients_vanish
    only_sources_in_a_range_may_call
    a_source_that_may_not_call_is_not_even_refused
    a_range_counts_for_its_own_service
    an_established_flow_outlives_a_change_of_ranges
    a_client_stays_with_its_backend
    a_stay_that_was_too_long_ago_is_forgotten
    a_stay_is_refreshed_by_new_flows
    a_backend_that_is_gone_keeps_nobody
    the_ports_of_two_services_are_two_stays
    two_policies_of_a_service_are_two_stays
    a_node_port_is_found_and_other_ports_of_the_node_are_left_alone
}

impl<A: Net> Path<A> {
    /// The length of the prefix of one address.
    const WHOLE: u32 = size_of::<A>() as u32 * 8;

    fn frontend(&mut self, addr: SocketAddr, proto: u8) -> &mut Frontend {
        world::frontend::<A>(&mut self.tables.image, addr, proto)
    }

    /// A Service whose clients inside are led to pod 1, those outside to pod 2.
    fn split() -> (Self, SocketAddr) {
        let (service, other) = (vip::<A>(1, 80), vip::<A>(2, 80));
        let mut path = Self::new(&[(service, proto::TCP, &[pod::<A>(1)]), (other, proto::TCP, &[pod::<A>(2)])]);
        let table = path.frontend(other, proto::TCP).outside;
        path.frontend(service, proto::TCP).outside = table;
        (path, service)
    }

    fn allow(&mut self, service: SocketAddr, range: SocketAddr, len: u32) {
        let frontend = self.frontend(service, proto::TCP);
        frontend.flags |= frontend::SOURCE_RANGES;
        let key = RangeKey { service: frontend.service, addr: A::from_ip(range.ip()).unwrap() };
        A::side_mut(&mut self.tables.image).ranges.insert((key, 32 + len));
    }

    /// Where the first packets of clients 1 to 20 go, each from another port.
    fn spread(&mut self, service: SocketAddr, port: u16) -> Vec<SocketAddr> {
        (1..=20).map(|n| self.call(client::<A>(n, port), service, SYN, Reason::NewFlow)).collect()
    }
}

mod rules {
    use super::*;

    pub(super) fn clients_inside_and_outside_have_a_table_each<A: Net>() {
        let (mut path, service) = Path::<A>::split();
        for (origin, port, backend) in [(Origin::Inside, 40_001, pod::<A>(1)), (Origin::Outside, 40_002, pod::<A>(2))] {
            path.from(origin);
            assert_eq!(path.call(client::<A>(1, port), service, SYN, Reason::NewFlow), backend);
        }
        // Of a device that nobody knows nobody is inside.
        path.tables.devices.clear();
        assert_eq!(path.call(client::<A>(1, 40_003), service, SYN, Reason::NewFlow), pod::<A>(2));
    }

    pub(super) fn a_policy_that_finds_no_local_endpoint_lets_packets_of_its_own_clients_vanish<A: Net>() {
        for (origin, other, flag) in [
            (Origin::Inside, Origin::Outside, frontend::ELSEWHERE_INSIDE),
            (Origin::Outside, Origin::Inside, frontend::ELSEWHERE_OUTSIDE),
        ] {
            let (mut path, service) = Path::<A>::split();
            let found = path.frontend(service, proto::TCP);
            found.flags |= flag;
            *(if origin == Origin::Inside { &mut found.inside } else { &mut found.outside }) = Table::EMPTY;
            path.from(origin);
            let me = client::<A>(1, 40_000);
            let vanishes = (Verdict::Drop(Reason::NoLocalEndpoints), me, service);
            assert_eq!(path.send(Side::Ingress, me, service, SYN), vanishes);
            path.from(other);
            path.call(me, service, SYN, Reason::NewFlow);
        }
    }

    pub(super) fn only_sources_in_a_range_may_call<A: Net>() {
        let service = vip::<A>(1, 80);
        let whole = Path::<A>::WHOLE;
        // The range, the length of its prefix, and which of clients 1, 4, 5 and 200 may call.
        for (range, len, may) in [
            (client::<A>(4, 0), whole, [false, true, false, false]),
            (client::<A>(4, 0), whole - 1, [false, true, true, false]),
            (client::<A>(0, 0), whole - 3, [true, true, true, false]),
            (client::<A>(0, 0), whole - 8, [true; 4]),
            (pod::<A>(0), whole - 8, [false; 4]),
            (pod::<A>(0), 0, [true; 4]),
        ] {
            let mut path = Path::<A>::three();
            path.allow(service, range, len);
            for (n, may) in [1, 4, 5, 200].into_iter().zip(may) {
                let (verdict, ..) = path.send(Side::Ingress, client::<A>(n, 40_000), service, SYN);
                let expected = if may { Verdict::Forward(Reason::NewFlow) } else { Verdict::Drop(Reason::SourceRange) };
                assert_eq!(verdict, expected, "client {n}, range {range}/{len}");
            }
        }
    }

    pub(super) fn a_source_that_may_not_call_is_not_even_refused<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::new(&[(service, proto::TCP, &[])]);
        path.allow(service, client::<A>(4, 0), Path::<A>::WHOLE);
        for (n, expected) in [(1, Verdict::Drop(Reason::SourceRange)), (4, Verdict::Reject(Reason::NoEndpoints))] {
            let (verdict, ..) = path.send(Side::Ingress, client::<A>(n, 40_000), service, SYN);
            assert_eq!(verdict, expected);
        }
    }

    pub(super) fn a_range_counts_for_its_own_service<A: Net>() {
        let (first, second) = (vip::<A>(1, 80), vip::<A>(2, 80));
        let pods = [pod::<A>(1)];
        let mut path = Path::<A>::new(&[(first, proto::TCP, &pods), (second, proto::TCP, &pods)]);
        path.allow(first, client::<A>(1, 0), 8);
        path.allow(second, pod::<A>(1), Path::<A>::WHOLE);
        let me = client::<A>(1, 40_000);
        path.call(me, first, SYN, Reason::NewFlow);
        let (verdict, ..) = path.send(Side::Ingress, me, second, SYN);
        assert_eq!(verdict, Verdict::Drop(Reason::SourceRange));
    }

    pub(super) fn an_established_flow_outlives_a_change_of_ranges<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.connect(me, service);
        path.allow(service, pod::<A>(1), Path::<A>::WHOLE);
        assert_eq!(path.call(me, service, ACK, Reason::EstablishedFlow), backend);
        let (verdict, ..) = path.send(Side::Ingress, client::<A>(1, 40_001), service, SYN);
        assert_eq!(verdict, Verdict::Drop(Reason::SourceRange));
    }

    pub(super) fn a_client_stays_with_its_backend<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::three();
        path.frontend(service, proto::TCP).affinity = 10;
        let first = path.spread(service, 40_000);
        assert!(first.iter().any(|backend| *backend != first[0]), "all clients were led to one backend");
        for port in 40_001..40_005 {
            assert_eq!(path.spread(service, port), first);
        }
        // A set of backends that is another one, in which each of them still is.
        for run in path.tables.image.runs.values_mut() {
            *run = run.iter().map(|id| id % 3 + 1).collect::<Vec<_>>().into();
        }
        assert_eq!(path.spread(service, 40_006), first);
        assert_eq!(A::flows(&path.tables).affinity.len(), 20);
    }

    pub(super) fn a_stay_that_was_too_long_ago_is_forgotten<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::three();
        path.frontend(service, proto::TCP).affinity = 10;
        let first = path.spread(service, 40_000);
        path.now += 10;
        assert_eq!(path.spread(service, 40_001), first);
        path.now += 11;
        assert_ne!(path.spread(service, 40_002), first);
    }

    pub(super) fn a_stay_is_refreshed_by_new_flows<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::three();
        path.frontend(service, proto::TCP).affinity = 10;
        let first = path.spread(service, 40_000);
        for port in 40_001..40_010 {
            path.now += 9;
            assert_eq!(path.spread(service, port), first);
        }
        // Not by packets of a flow that is known.
        path.now += 9;
        path.call(client::<A>(1, 40_000), service, SYN, Reason::HalfOpenFlow);
        let key = AffinityKey {
            client: A::from_ip(client::<A>(1, 0).ip()).unwrap(),
            service: path.frontend(service, proto::TCP).service,
        };
        assert_eq!(A::flows(&path.tables).affinity[&key].seen, path.now - 9);
    }

    pub(super) fn a_backend_that_is_gone_keeps_nobody<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::three();
        path.frontend(service, proto::TCP).affinity = 10;
        let gone = path.call(client::<A>(1, 40_000), service, SYN, Reason::NewFlow);
        let backends = &mut A::side_mut(&mut path.tables.image).backends;
        backends.retain(|_, backend| backend.addr.into() != gone.ip());
        let left: Vec<u32> = backends.keys().copied().collect();
        path.tables
            .image
            .runs
            .values_mut()
            .for_each(|run| *run = run.iter().map(|_| left[0]).collect::<Vec<_>>().into());
        let next = path.call(client::<A>(1, 40_001), service, SYN, Reason::NewFlow);
        assert_ne!(next, gone);
        assert_eq!(path.call(client::<A>(1, 40_002), service, SYN, Reason::NewFlow), next);
    }

    pub(super) fn the_ports_of_two_services_are_two_stays<A: Net>() {
        let mut path = Path::<A>::three();
        let (tcp, udp) = (vip::<A>(1, 80), vip::<A>(1, 53));
        path.frontend(tcp, proto::TCP).affinity = 10;
        path.frontend(udp, proto::UDP).affinity = 10;
        path.call(client::<A>(1, 40_000), tcp, SYN, Reason::NewFlow);
        path.call(client::<A>(1, 40_000), udp, UDP, Reason::NewFlow);
        assert_eq!(A::flows(&path.tables).affinity.len(), 2);
    }

    pub(super) fn two_policies_of_a_service_are_two_stays<A: Net>() {
        let (mut path, service) = Path::<A>::split();
        let frontend = path.frontend(service, proto::TCP);
        frontend.affinity = 10;
        frontend.flags |= frontend::LOCAL | Kind::LoadBalancer.flags();
        for (origin, port, expected) in [
            (Origin::Inside, 40_000, pod::<A>(1)),
            (Origin::Outside, 40_001, pod::<A>(2)),
            (Origin::Inside, 40_002, pod::<A>(1)),
        ] {
            path.from(origin);
            assert_eq!(path.call(client::<A>(1, port), service, SYN, Reason::NewFlow), expected, "{origin:?}");
        }
        assert_eq!(A::flows(&path.tables).affinity.len(), 2);
    }

    pub(super) fn a_node_port_is_found_and_other_ports_of_the_node_are_left_alone<A: Net>() {
        let port = SocketAddr::new(node::<A>(), 30_080);
        let mut path = Path::<A>::new(&[(port, proto::TCP, &[pod::<A>(1)])]);
        let addr = A::from_ip(node::<A>()).unwrap();
        // As the agent writes it: no entry for the address as a whole, and the bit with the port.
        A::side_mut(&mut path.tables.image).frontends.remove(&FrontendKey::whole(addr));
        path.tables.filter = [Filter::Frontend.bit(&addr, Be16::new(30_080))].into();
        let me = client::<A>(1, 40_000);
        assert_eq!(path.connect(me, port), pod::<A>(1));
        for (to, l4) in [(SocketAddr::new(node::<A>(), 22), SYN), (port, UDP)] {
            let passes = (Verdict::Pass(Reason::NotService), me, to);
            assert_eq!(path.send(Side::Ingress, me, to, l4), passes);
        }
    }
}
