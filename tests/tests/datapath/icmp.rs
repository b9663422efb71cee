//! Errors about packets of flows: who gets them, and what they say there.

use std::net::IpAddr;

use sluice_tests::packets::icmp::{TROUBLES, Told, Trouble, error, told};

use super::*;

both_families! {
    an_error_about_a_packet_to_a_backend_reaches_the_client_as_one_of_its_service
    an_error_about_an_answer_reaches_the_backend_as_one_of_its_client
    errors_of_a_pod_that_talks_to_itself_find_their_way
    a_quotation_may_be_cut_off
    an_error_changes_nothing_of_its_flow
    errors_about_strangers_leave_as_they_came
    an_echo_request_to_a_virtual_ip_is_answered
}

/// All of the packet.
const ALL: usize = 1000;

/// Sends an error; what became of it.
fn send<A: Net>(path: &mut Path<A>, side: Side, error: &[u8]) -> (Verdict, Told) {
    let mut frame = Frame(error.to_vec());
    let verdict = datapath::run(&mut frame, &mut path.tables, side, || 100);
    verify_checksums(&frame.0).expect("right checksums after translation");
    assert_eq!(frame.0.len(), error.len());
    (verdict, told(&frame.0))
}

/// The packet that was quoted, were it whole: its checksums are right.
fn sound<A: Net>(told: &Told) {
    let mut frame = packets::echo(client::<A>(1, 0).ip(), client::<A>(1, 0).ip())[..14].to_vec();
    frame.extend(&told.quote);
    verify_checksums(&frame).expect("right checksums in the quotation");
}

mod rules {
    use super::*;

    pub(super) fn an_error_about_a_packet_to_a_backend_reaches_the_client_as_one_of_its_service<A: Net>() {
        for (l4, port) in [(SYN, 80), (UDP, 53)] {
            for established in [false, true] {
                let mut path = Path::<A>::three();
                let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, port));
                let backend = path.call(me, service, l4, Reason::NewFlow);
                if established {
                    path.answer(backend, me, if port == 80 { SYN_ACK } else { UDP });
                    path.call(me, service, if port == 80 { ACK } else { UDP }, Reason::EstablishedFlow);
                }
                let lost = packets::packet(me, backend, l4, b"payload");
                let router: IpAddr = A::host(world::Network::Node, 77);
                for (trouble, from) in TROUBLES.into_iter().flat_map(|t| [(t, backend.ip()), (t, router)]) {
                    let (verdict, told) = send(&mut path, Side::Egress, &error(from, me.ip(), trouble, &lost, ALL));
                    assert_eq!(verdict, Verdict::Forward(Reason::IcmpError), "{trouble:?}");
                    let seen = if from == router { router } else { service.ip() };
                    assert_eq!((told.ends, told.quoted), ((seen, me.ip()), (me, service)), "{trouble:?}");
                    sound::<A>(&told);
                }
                assert_eq!(path.entries(), if established { (0, 2) } else { (2, 0) });
            }
        }
    }

    pub(super) fn an_error_about_an_answer_reaches_the_backend_as_one_of_its_client<A: Net>() {
        for (l4, port) in [(SYN, 80), (UDP, 53)] {
            let mut path = Path::<A>::three();
            let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, port));
            let backend = path.call(me, service, l4, Reason::NewFlow);
            let lost = packets::packet(service, me, if port == 80 { SYN_ACK } else { UDP }, b"answer");
            let router: IpAddr = A::host(world::Network::Node, 77);
            for (trouble, from) in TROUBLES.into_iter().flat_map(|t| [(t, me.ip()), (t, router)]) {
                let (verdict, told) = send(&mut path, Side::Ingress, &error(from, service.ip(), trouble, &lost, ALL));
                assert_eq!(verdict, Verdict::Forward(Reason::IcmpError), "{trouble:?}");
                assert_eq!((told.ends, told.quoted), ((from, backend.ip()), (backend, me)), "{trouble:?}");
                sound::<A>(&told);
            }
        }
    }

    pub(super) fn errors_of_a_pod_that_talks_to_itself_find_their_way<A: Net>() {
        let own = pod::<A>(1);
        let service = vip::<A>(1, 53);
        let mut path = Path::<A>::new(&[(service, proto::UDP, &[own])]);
        let me = SocketAddr::new(own.ip(), 40_000);
        let (_, stand_in, _) = path.send(Side::Ingress, me, service, UDP);
        // The server's port is closed.
        let lost = packets::packet(stand_in, own, UDP, b"question");
        let (verdict, told) =
            send(&mut path, Side::Ingress, &error(own.ip(), stand_in.ip(), Trouble::Port, &lost, ALL));
        assert_eq!(verdict, Verdict::Return(Reason::IcmpError));
        assert_eq!((told.ends, told.quoted), ((service.ip(), me.ip()), (me, service)));
        sound::<A>(&told);
        // And the client's, when the answer comes.
        let lost = packets::packet(service, me, UDP, b"answer");
        let (verdict, told) = send(&mut path, Side::Ingress, &error(me.ip(), service.ip(), Trouble::Port, &lost, ALL));
        assert_eq!(verdict, Verdict::Return(Reason::IcmpError));
        assert_eq!((told.ends, told.quoted), ((node::<A>(), own.ip()), (own, stand_in)));
        sound::<A>(&told);
    }

    pub(super) fn a_quotation_may_be_cut_off<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.call(me, service, SYN, Reason::NewFlow);
        let lost = packets::packet(me, backend, SYN, b"payload");
        for len in A::HEADER..lost.len() - 14 {
            let mut frame = Frame(error(backend.ip(), me.ip(), Trouble::Port, &lost, len));
            let before = frame.clone();
            let verdict = frame.run(&mut path.tables, Side::Egress, 100);
            verify_checksums(&frame.0).unwrap_or_else(|error| panic!("{error} of {len} bytes"));
            if len < A::HEADER + 8 {
                assert_eq!((verdict, frame), (Verdict::Pass(Reason::Icmp), before), "of {len} bytes");
            } else {
                assert_eq!(verdict, Verdict::Forward(Reason::IcmpError), "of {len} bytes");
                assert_eq!(told(&frame.0).quoted, (me, service), "of {len} bytes");
            }
        }
    }

    pub(super) fn an_error_changes_nothing_of_its_flow<A: Net>() {
        let mut path = Path::<A>::three();
        let me = client::<A>(1, 40_000);
        let backend = path.call(me, vip::<A>(1, 53), UDP, Reason::NewFlow);
        let before = A::flows(&path.tables).flows.clone();
        path.now = 200;
        let lost = packets::packet(me, backend, UDP, b"payload");
        send(&mut path, Side::Egress, &error(backend.ip(), me.ip(), Trouble::Port, &lost, ALL));
        assert_eq!(A::flows(&path.tables).flows, before);
    }

    pub(super) fn errors_about_strangers_leave_as_they_came<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        let backend = path.call(me, service, SYN, Reason::NewFlow);
        let (other, elsewhere) = (client::<A>(2, 40_000), client::<A>(1, 40_001));
        let rows = [
            // Another client's packet to the same backend, and one to the Service itself, which no flow has sent.
            (Side::Egress, other, backend, other),
            (Side::Egress, elsewhere, backend, elsewhere),
            (Side::Ingress, service, elsewhere, service),
            // The wrong side.
            (Side::Ingress, me, backend, me),
            (Side::Egress, service, me, service),
            // An error that goes to another than the one who sent the packet.
            (Side::Egress, me, backend, other),
        ];
        for (side, src, dst, to) in rows {
            let mut frame = Frame(error(dst.ip(), to.ip(), Trouble::Port, &packets::packet(src, dst, SYN, b""), ALL));
            let before = frame.clone();
            let verdict = frame.run(&mut path.tables, side, 100);
            assert_eq!((verdict, frame), (Verdict::Pass(Reason::Icmp), before), "{side:?} {src} {dst} {to}");
        }
        let echo = packets::echo(me.ip(), backend.ip());
        let mut frame = Frame(echo.clone());
        assert_eq!(frame.run(&mut path.tables, Side::Ingress, 100), Verdict::Pass(Reason::Icmp));
        assert_eq!(frame.0, echo);
    }

    pub(super) fn an_echo_request_to_a_virtual_ip_is_answered<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 0).ip(), vip::<A>(1, 80).ip());
        let mut request = packets::echo(me, service);
        request[14 + A::HOPS] = 63;
        if let Some(at) = A::CHECKSUM {
            request[14 + at] += 1;
        }
        verify_checksums(&request).expect("right checksums of the request");
        // But for who sends it to whom, it is what the other side would send as a reply.
        let mut expected = packets::echo(service, me);
        expected[14 + A::HEADER] = if A::ICMP_PSEUDO { 129 } else { 0 };
        expected[14 + A::HEADER + 2..][..2].fill(0);
        let mut frame = Frame(request.clone());
        assert_eq!(frame.run(&mut path.tables, Side::Ingress, 100), Verdict::Answer(Reason::Echo));
        verify_checksums(&frame.0).expect("right checksums of the reply");
        let mut reply = frame.0.clone();
        reply[14 + A::HEADER + 2..][..2].fill(0);
        assert_eq!(reply[14..], expected[14..]);
        assert_eq!(frame.0[..6], packets::FROM, "back to whom it came from");
        assert_eq!(path.tables.counters[&Reason::Echo], 1);

        // A large one comes in fragments, in any order, and goes back in fragments.
        let mut large = packets::echo_with(me, service, &[0x5a; 2000]);
        let mut fragments = sluice_tests::packets::fragments::apart(&large, 7, 512);
        fragments.reverse();
        let replies: Vec<_> = fragments
            .into_iter()
            .map(|fragment| {
                let mut frame = Frame(fragment);
                assert_eq!(frame.run(&mut path.tables, Side::Ingress, 100), Verdict::Answer(Reason::Echo));
                frame.0
            })
            .collect();
        let whole = sluice_tests::packets::fragments::together(&replies);
        verify_checksums(&whole).expect("right checksums of the large reply");
        assert_eq!(whole.len(), large.len());
        assert_eq!(whole[14 + A::HEADER + 8..], large.split_off(14 + A::HEADER + 8));

        // A reply, a request that leaves through the device, and one to an address of which only ports are a Service's.
        A::side_mut(&mut path.tables.image).frontends.retain(|key, _| key.port.get() != 0);
        for (side, bytes) in [(Side::Ingress, frame.0), (Side::Egress, request.clone()), (Side::Ingress, request)] {
            let mut frame = Frame(bytes.clone());
            assert_eq!(frame.run(&mut path.tables, side, 100), Verdict::Pass(Reason::Icmp));
            assert_eq!(frame.0, bytes);
        }
    }
}
