//! Clients outside whose backend is on another node: masqueraded, and sent on at once, there and back.

use std::net::IpAddr;

use lb_common::route::{Hop, NextHop};
use lb_common::tables::{Kind, frontend};
use sluice_tests::packets::fragments::{apart, together};
use sluice_tests::packets::icmp::{TROUBLES, Told, Trouble, error, told};
use sluice_tests::packets::world::{Network, far};

use super::*;

both_families! {
    a_client_outside_is_led_to_another_node_and_its_answers_come_back_the_same_way
    a_backend_on_this_node_keeps_the_clients_address
    behind_a_node_port_a_client_gets_a_port_that_it_uses_for_nothing_else
    a_pod_keeps_its_address_to_whatever_node
    a_syn_that_comes_again_by_another_device_leaves_no_second_way_back
    clients_with_one_port_do_not_collide
    two_virtual_ips_with_one_backend_do_not_collide
    what_xdp_cannot_send_stays_as_it_came_and_tc_sends_it
    what_leads_nowhere_is_dropped_and_counted
    who_sends_what_is_too_long_is_told_the_mtu
    of_fragments_that_are_too_long_the_first_is_answered
    a_packet_without_hops_left_goes_no_further
    a_backend_that_calls_its_own_service_is_masqueraded
    without_an_address_nothing_is_masqueraded
    an_error_from_the_backend_s_side_leaves_toward_the_client
    an_error_from_the_client_s_side_leaves_toward_the_backend_as_the_nodes_own
    what_has_no_ports_stays_as_it_came_where_xdp_cannot_send_it
    fragments_leave_behind_the_first_one_in_both_directions
}

/// Where packets leave in these tests, and by which MACs.
const NEXT: NextHop = NextHop::new(7, 1500, [2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 7]);
const OUT: Hop = Hop::Direct(NEXT);
/// The same where no MAC is known.
const UNKNOWN: Hop = Hop::Neighbour(NextHop { device: 7, ..NextHop::NONE });

impl<A: Net> Path<A> {
    /// A client's first packet, which leaves; source and destination that it leaves with.
    fn forth(&mut self, from: SocketAddr, to: SocketAddr, l4: L4, reason: Reason) -> (SocketAddr, SocketAddr) {
        let (verdict, src, dst) = self.send(Side::Ingress, from, to, l4);
        assert_eq!(verdict, Verdict::Leave(reason, 7));
        assert_eq!(src.ip(), node::<A>());
        (src, dst)
    }

    /// An answer to the node, which leaves; source and destination that it leaves with.
    fn back(&mut self, from: SocketAddr, to: SocketAddr, l4: L4) -> (SocketAddr, SocketAddr) {
        let (verdict, src, dst) = self.send(Side::Ingress, from, to, l4);
        assert_eq!(verdict, Verdict::Leave(Reason::Reply, 7));
        (src, dst)
    }

    /// Services, called from outside, where every client and every pod of other nodes can be reached.
    fn outside(services: &[(SocketAddr, u8, &[SocketAddr])]) -> Self {
        let mut path = Self::new(services);
        path.from(Origin::Outside);
        let hosts = |network| (0..=20).map(move |n| A::host(network, n));
        path.tables.hops = hosts(Network::Client).chain(hosts(Network::Far)).map(|ip| (ip, OUT)).collect();
        path
    }
}

/// Sends an error that leaves; what it says then.
fn leaves<A: Net>(path: &mut Path<A>, error: &[u8]) -> Told {
    let mut frame = Frame(error.to_vec());
    assert_eq!(frame.run(&mut path.tables, Side::Ingress, 100), Verdict::Leave(Reason::IcmpError, 7));
    verify_checksums(&frame.0).expect("right checksums after translation");
    assert_eq!(frame.0[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 7], "the MACs of the way");
    assert_eq!(frame.0[14 + A::HOPS], 63, "one hop less");
    told(&frame.0)
}

mod rules {
    use super::*;

    pub(super) fn a_client_outside_is_led_to_another_node_and_its_answers_come_back_the_same_way<A: Net>() {
        for (l4, reply) in [(SYN, SYN_ACK), (UDP, UDP)] {
            let service = vip::<A>(1, 80);
            let mut path = Path::<A>::outside(&[(service, l4.number(), &[far::<A>(1)])]);
            let me = client::<A>(1, 40_000);
            let mut frame = Frame(packets::packet(me, service, l4, b"payload"));
            let verdict = datapath::run(&mut frame, &mut path.tables, Side::Ingress, || 100);
            assert_eq!(verdict, Verdict::Leave(Reason::NewFlow, 7));
            let (port, backend) = ends(&frame.0);
            assert_eq!((port.ip(), backend), (node::<A>(), far::<A>(1)));
            // But for the MACs and a hop less, it is what the node itself would have sent.
            let mut expected = packets::packet(port, backend, l4, b"payload");
            expected[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 7]);
            expected[14 + A::HOPS] = 63;
            verify_checksums(&frame.0).unwrap();
            if let Some(at) = A::CHECKSUM {
                expected[14 + at..][..2].copy_from_slice(&frame.0[14 + at..][..2]);
            }
            assert_eq!(frame.0, expected);

            assert_eq!(path.back(backend, port, reply), (service, me));
            let then = if l4 == UDP { UDP } else { ACK };
            assert_eq!(path.forth(me, service, then, Reason::EstablishedFlow), (port, backend));
            assert_eq!(path.entries(), (0, 2));
            // Nobody answers past us: at egress there is nothing to undo.
            let (verdict, ..) = path.send(Side::Egress, backend, me, reply);
            assert_eq!(verdict, Verdict::Pass(Reason::NotService));
        }
    }

    pub(super) fn a_backend_on_this_node_keeps_the_clients_address<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[pod::<A>(1)])]);
        assert_eq!(path.connect(client::<A>(1, 40_000), service), pod::<A>(1));
    }

    /// Connections that were led there by other nodes have the client's own port, and are not seen here.
    pub(super) fn behind_a_node_port_a_client_gets_a_port_that_it_uses_for_nothing_else<A: Net>() {
        let (service, backend, me) = (SocketAddr::new(node::<A>(), 31_007), pod::<A>(1), client::<A>(1, 40_000));
        for (kind, flags, origin, own) in [
            (Kind::NodePort, 0, Origin::Outside, false),
            (Kind::NodePort, 0, Origin::Inside, true),
            (Kind::NodePort, frontend::LOCAL, Origin::Outside, true),
            (Kind::LoadBalancer, 0, Origin::Outside, true),
        ] {
            for (l4, reply) in [(SYN, SYN_ACK), (UDP, UDP)] {
                let mut path = Path::<A>::outside(&[(service, l4.number(), &[backend])]);
                path.from(origin);
                world::frontend::<A>(&mut path.tables.image, service, l4.number()).flags = kind.flags() | flags;
                let connect = |path: &mut Path<A>, port| {
                    let from = SocketAddr::new(me.ip(), port);
                    let (verdict, seen, to) = path.send(Side::Ingress, from, service, l4);
                    assert_eq!((verdict, seen.ip(), to), (Verdict::Forward(Reason::NewFlow), me.ip(), backend));
                    let again = path.send(Side::Ingress, from, service, l4);
                    assert_eq!(again, (Verdict::Forward(Reason::HalfOpenFlow), seen, to));
                    let answer = path.send(Side::Egress, backend, seen, reply);
                    assert_eq!(answer, (Verdict::Forward(Reason::Reply), service, from));
                    seen.port()
                };
                let row = format!("{kind:?} {flags} {origin:?}");
                let port = connect(&mut path, me.port());
                assert_eq!(own, port == me.port(), "{row}");
                assert!(own || (30_000..32_768).contains(&port), "{row}: {port}");
                if own {
                    continue;
                }
                let direct = path.send(Side::Egress, backend, me, reply);
                assert_eq!(direct, (Verdict::Pass(Reason::NotService), backend, me), "{row}");
                // Who holds so many connections to one backend that they are gone has its own ports, too.
                let mut ports: Vec<_> = (32_768..36_768).map(|port| connect(&mut path, port)).collect();
                ports.push(port);
                ports.sort_unstable();
                ports.dedup();
                assert_eq!(ports.len(), 4_001, "{row}");
            }
        }
    }

    pub(super) fn a_pod_keeps_its_address_to_whatever_node<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[far::<A>(1)])]);
        path.from(Origin::Inside);
        assert_eq!(path.connect(client::<A>(1, 40_000), service), far::<A>(1));
    }

    pub(super) fn a_syn_that_comes_again_by_another_device_leaves_no_second_way_back<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[far::<A>(1)])]);
        path.from(Origin::Inside);
        let me = client::<A>(1, 2_000);
        path.call(me, service, SYN, Reason::NewFlow);
        // Who comes in there would be masqueraded, and keeps the port that he has.
        path.from(Origin::Outside);
        assert_eq!(path.call(me, service, SYN, Reason::HalfOpenFlow), far::<A>(1));
        assert_eq!(path.entries(), (2, 0));
        assert_eq!(path.answer(far::<A>(1), me, SYN_ACK), service);
    }

    pub(super) fn clients_with_one_port_do_not_collide<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[far::<A>(1)])]);
        let mut ports = std::collections::BTreeMap::new();
        // In the range of ports that the node may take: all of them ask for the same one.
        for n in 1..=4 {
            let me = client::<A>(n, 2_000);
            let (verdict, src, _) = path.send(Side::Ingress, me, service, SYN);
            if verdict == Verdict::Leave(Reason::NewFlow, 7) {
                assert_eq!(ports.insert(src, me), None, "{src} is two clients'");
            }
        }
        assert!(ports.len() >= 3, "{ports:?}");
        assert!(ports.keys().any(|port| port.port() == 2_000), "nobody kept its own port");
        for (port, me) in ports {
            assert_eq!(path.back(far::<A>(1), port, SYN_ACK), (service, me));
        }
    }

    pub(super) fn two_virtual_ips_with_one_backend_do_not_collide<A: Net>() {
        let (first, second) = (vip::<A>(1, 80), vip::<A>(2, 80));
        let mut path = Path::<A>::outside(&[(first, proto::TCP, &[far::<A>(1)]), (second, proto::TCP, &[far::<A>(1)])]);
        let me = client::<A>(1, 40_000);
        let (one, _) = path.forth(me, first, SYN, Reason::NewFlow);
        let (other, _) = path.forth(me, second, SYN, Reason::NewFlow);
        assert_ne!(one, other);
        assert_eq!(path.back(far::<A>(1), other, SYN_ACK), (second, me));
        assert_eq!(path.back(far::<A>(1), one, SYN_ACK), (first, me));
    }

    pub(super) fn what_xdp_cannot_send_stays_as_it_came_and_tc_sends_it<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[far::<A>(1)])]);
        let me = client::<A>(1, 40_000);
        let to = A::host(Network::Far, 1);
        let mut frame = Frame(packets::packet(me, service, SYN, b""));
        let before = frame.clone();
        path.tables.hops.insert(to, Hop::HandOver);
        assert_eq!(frame.run(&mut path.tables, Side::Ingress, 100), Verdict::Pass(Reason::HandedOver));
        assert_eq!(frame, before);
        path.tables.hops.insert(to, UNKNOWN);
        let verdict = frame.run(&mut path.tables, Side::Ingress, 100);
        assert_eq!(verdict, Verdict::LeaveToNeighbour(Reason::HalfOpenFlow, 7));
        assert_eq!(frame.0[..12], before.0[..12], "the kernel writes the MACs");
        assert_eq!(path.entries(), (2, 0));
    }

    pub(super) fn what_leads_nowhere_is_dropped_and_counted<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[far::<A>(1)])]);
        path.tables.hops.insert(A::host(Network::Far, 1), Hop::Nowhere);
        let me = client::<A>(1, 40_000);
        let dropped = (Verdict::Drop(Reason::NoRoute), me, service);
        assert_eq!(path.send(Side::Ingress, me, service, SYN), dropped);
        assert_eq!(path.tables.counters[&Reason::NoRoute], 1);
    }

    pub(super) fn who_sends_what_is_too_long_is_told_the_mtu<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[far::<A>(1)])]);
        let me = client::<A>(1, 40_000);
        let (port, backend) = path.forth(me, service, SYN, Reason::NewFlow);
        path.back(backend, port, SYN_ACK);
        path.tables.longest = 1300;
        // There and back, of established and of new flows.
        let new = client::<A>(1, 40_001);
        for (n, (from, to, l4)) in (1..).zip([(me, service, ACK), (backend, port, ACK), (new, service, SYN)]) {
            let headers = packets::packet(from, to, l4, b"").len() - 14;
            let fits = packets::packet(from, to, l4, &vec![0x5a; 1300 - headers]);
            let too_long = packets::packet(from, to, l4, &vec![0x5a; 1301 - headers]);
            let mut frame = Frame(too_long.clone());
            assert_eq!(frame.run(&mut path.tables, Side::Ingress, 100), Verdict::Answer(Reason::TooLong));
            verify_checksums(&frame.0).expect("right checksums of the answer");
            let told = told(&frame.0);
            assert_eq!((told.ends, told.quoted), ((to.ip(), from.ip()), (from, to)));
            assert_eq!(told.mtu, Some(1300));
            assert_eq!(told.quote, too_long[14..][..told.quote.len()], "the packet as it came");
            assert_eq!(frame.0[..6], packets::FROM, "back to whom it came from");
            assert_eq!(path.tables.counters[&Reason::TooLong], n);
            let verdict = Frame(fits).run(&mut path.tables, Side::Ingress, 100);
            assert!(matches!(verdict, Verdict::Leave(..)), "{verdict:?}");
        }
    }

    pub(super) fn of_fragments_that_are_too_long_the_first_is_answered<A: Net>() {
        let service = vip::<A>(1, 53);
        let mut path = Path::<A>::outside(&[(service, proto::UDP, &[far::<A>(1)])]);
        path.tables.longest = 500;
        let (me, mut verdicts) = (client::<A>(1, 40_000), Vec::new());
        for fragment in apart(&packets::packet(me, service, UDP, &[0x5a; 1500]), 7, 512) {
            let mut frame = Frame(fragment);
            verdicts.push(frame.run(&mut path.tables, Side::Ingress, 100));
            if verdicts.len() == 1 {
                verify_checksums(&frame.0).expect("right checksums of the answer");
                assert_eq!(told(&frame.0).mtu, Some(500));
            }
        }
        assert_eq!(verdicts[..2], [Verdict::Answer(Reason::TooLong), Verdict::Drop(Reason::Fragment)]);
        // An error is never answered by another (RFC 1122, 3.2.2).
        let lost = packets::packet(service, me, UDP, &[0xa5; 600]);
        let mut frame = Frame(error(me.ip(), service.ip(), Trouble::Port, &lost, 600));
        assert_eq!(frame.run(&mut path.tables, Side::Ingress, 100), Verdict::Drop(Reason::TooLong));
    }

    pub(super) fn a_packet_without_hops_left_goes_no_further<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[far::<A>(1)])]);
        for hops in [0, 1] {
            let mut bytes = packets::packet(client::<A>(1, 40_000), service, SYN, b"");
            bytes[14 + A::HOPS] = hops;
            let verdict = Frame(bytes).run(&mut path.tables, Side::Ingress, 100);
            assert_eq!(verdict, Verdict::Drop(Reason::HopLimit));
        }
    }

    /// A process on another node that calls a Service here whose backend it is itself.
    pub(super) fn a_backend_that_calls_its_own_service_is_masqueraded<A: Net>() {
        let (own, service) = (far::<A>(1), vip::<A>(1, 80));
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[own])]);
        let me = SocketAddr::new(own.ip(), 40_000);
        let (port, backend) = path.forth(me, service, SYN, Reason::NewFlow);
        assert_eq!(backend, own);
        assert_eq!(path.back(own, port, SYN_ACK), (service, me));
    }

    pub(super) fn without_an_address_nothing_is_masqueraded<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[far::<A>(1)])]);
        path.tables.image.config = lb_common::tables::Config::EMPTY;
        let (verdict, ..) = path.send(Side::Ingress, client::<A>(1, 40_000), service, SYN);
        assert_eq!(verdict, Verdict::Drop(Reason::NoNodeAddress));
        assert_eq!(path.entries(), (0, 0));
    }

    pub(super) fn an_error_from_the_backend_s_side_leaves_toward_the_client<A: Net>() {
        let service = vip::<A>(1, 80);
        for (l4, reply) in [(SYN, None), (SYN, Some(SYN_ACK)), (UDP, Some(UDP))] {
            let mut path = Path::<A>::outside(&[(service, l4.number(), &[far::<A>(1)])]);
            let me = client::<A>(1, 40_000);
            let (port, backend) = path.forth(me, service, l4, Reason::NewFlow);
            if let Some(reply) = reply {
                path.back(backend, port, reply);
            }
            let lost = packets::packet(port, backend, l4, b"payload");
            let router: IpAddr = A::host(Network::Far, 20);
            for (trouble, from) in TROUBLES.into_iter().flat_map(|t| [(t, backend.ip()), (t, router)]) {
                let told = leaves(&mut path, &error(from, port.ip(), trouble, &lost, 1000));
                let from = if from == router { router } else { service.ip() };
                assert_eq!((told.ends, told.quoted), ((from, me.ip()), (me, service)), "{trouble:?}");
            }
        }
    }

    pub(super) fn an_error_from_the_client_s_side_leaves_toward_the_backend_as_the_nodes_own<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::outside(&[(service, proto::TCP, &[far::<A>(1)])]);
        let me = client::<A>(1, 40_000);
        let (port, backend) = path.forth(me, service, SYN, Reason::NewFlow);
        path.back(backend, port, SYN_ACK);
        let lost = packets::packet(service, me, ACK, b"payload");
        let router: IpAddr = A::host(Network::Client, 20);
        for (trouble, from) in TROUBLES.into_iter().flat_map(|t| [(t, me.ip()), (t, router)]) {
            let told = leaves(&mut path, &error(from, service.ip(), trouble, &lost, 1000));
            assert_eq!((told.ends, told.quoted), ((port.ip(), backend.ip()), (backend, port)), "{trouble:?}");
        }
    }

    pub(super) fn what_has_no_ports_stays_as_it_came_where_xdp_cannot_send_it<A: Net>() {
        let service = vip::<A>(1, 53);
        let mut path = Path::<A>::outside(&[(service, proto::UDP, &[far::<A>(1)])]);
        let me = client::<A>(1, 40_000);
        let whole = packets::packet(me, service, UDP, &[0x5a; 900]);
        let lost = packets::packet(service, me, UDP, b"answer");
        let error = error(me.ip(), service.ip(), Trouble::Port, &lost, 1000);
        let fragments = apart(&whole, 7, 512);
        path.tables.hops.insert(A::host(Network::Far, 1), Hop::HandOver);
        for bytes in fragments.iter().chain([&error]) {
            let mut frame = Frame(bytes.clone());
            assert_eq!(frame.run(&mut path.tables, Side::Ingress, 100), Verdict::Pass(Reason::HandedOver));
            assert_eq!(frame.0, *bytes);
        }
        path.tables.hops.insert(A::host(Network::Far, 1), UNKNOWN);
        for (bytes, reason) in [(&fragments[1], Reason::LaterFragment), (&error, Reason::IcmpError)] {
            let mut frame = Frame(bytes.clone());
            let verdict = frame.run(&mut path.tables, Side::Ingress, 100);
            assert_eq!(verdict, Verdict::LeaveToNeighbour(reason, 7));
            assert_eq!(frame.0[..12], bytes[..12], "the kernel writes the MACs");
        }
    }

    pub(super) fn fragments_leave_behind_the_first_one_in_both_directions<A: Net>() {
        let service = vip::<A>(1, 53);
        let mut path = Path::<A>::outside(&[(service, proto::UDP, &[far::<A>(1)])]);
        let me = client::<A>(1, 40_000);
        let mut send = |whole: &[u8], reason| {
            let mut left = Vec::new();
            for (n, fragment) in apart(whole, 7, 256).into_iter().enumerate() {
                let mut frame = Frame(fragment);
                let verdict = frame.run(&mut path.tables, Side::Ingress, 100);
                assert_eq!(verdict, Verdict::Leave(if n == 0 { reason } else { Reason::LaterFragment }, 7));
                assert_eq!(frame.0[14 + A::HOPS], 63, "one hop less");
                left.push(frame.0);
            }
            let whole = together(&left);
            verify_checksums(&whole).expect("right checksums after translation");
            ends(&whole)
        };
        let (port, backend) = send(&packets::packet(me, service, UDP, &[0x5a; 900]), Reason::NewFlow);
        assert_eq!((port.ip(), backend), (node::<A>(), far::<A>(1)));
        assert_eq!(send(&packets::packet(backend, port, UDP, &[0xa5; 900]), Reason::Reply), (service, me));
    }
}
