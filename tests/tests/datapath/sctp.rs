//! Associations of SCTP: led like connections, their checksums right.

use sluice_tests::packets::fragments::{apart, together};
use sluice_tests::packets::icmp::{TROUBLES, error, told};
use sluice_tests::packets::sctp::{CHECKSUM, chunk};

use super::*;

both_families! {
    an_association_lives_and_ends_like_a_connection
    an_abort_that_nobody_believes_ends_nothing
    the_ports_of_a_flow_that_is_masqueraded_or_collides_are_in_its_checksum
    a_checksum_that_is_yet_to_come_stays_away
    a_packet_in_mid_stream_is_a_strangers_or_begins_a_flow
    an_association_to_nobody_is_refused_as_linux_believes_it
    fragments_whose_ports_stay_go_on_and_others_are_dropped
    an_error_about_a_packet_reaches_the_other_side
    a_port_of_tcp_is_none_of_sctp
}

const INIT: L4 = L4::Sctp(chunk::INIT);
const INIT_ACK: L4 = L4::Sctp(chunk::INIT_ACK);
const COOKIE_ECHO: L4 = L4::Sctp(chunk::COOKIE_ECHO);
const DATA: L4 = L4::Sctp(chunk::DATA);
const ABORT: L4 = L4::Sctp(chunk::ABORT);

/// A Service at port 5000 over two pods.
fn path<A: Net>() -> Path<A> {
    Path::new(&[(vip::<A>(1, 5000), proto::SCTP, &[pod::<A>(1), pod::<A>(2)])])
}

/// A handshake; the backend.
fn associate<A: Net>(path: &mut Path<A>, me: SocketAddr, service: SocketAddr) -> SocketAddr {
    let backend = path.call(me, service, INIT, Reason::NewFlow);
    assert_eq!(path.call(me, service, INIT, Reason::HalfOpenFlow), backend, "sent again");
    assert_eq!(path.answer(backend, me, INIT_ACK), service);
    assert_eq!(path.call(me, service, COOKIE_ECHO, Reason::EstablishedFlow), backend);
    assert_eq!(path.answer(backend, me, DATA), service);
    assert_eq!(path.entries(), (0, 2));
    backend
}

mod rules {
    use super::*;

    pub(super) fn an_association_lives_and_ends_like_a_connection<A: Net>() {
        for end in [&[(chunk::SHUTDOWN_ACK, false), (chunk::SHUTDOWN_COMPLETE, true)][..], &[(chunk::ABORT, true)]] {
            let mut path = path::<A>();
            let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 5000));
            let backend = associate(&mut path, me, service);
            for (chunk, from_client) in end {
                match from_client {
                    true => assert_eq!(path.call(me, service, L4::Sctp(*chunk), Reason::EstablishedFlow), backend),
                    false => assert_eq!(path.answer(backend, me, L4::Sctp(*chunk)), service),
                }
            }
            // The ports may be used anew.
            path.call(me, service, INIT, Reason::NewFlow);
            assert_eq!(path.entries(), (2, 0));
        }
    }

    /// Its tag may be wrong.
    pub(super) fn an_abort_that_nobody_believes_ends_nothing<A: Net>() {
        let mut path = path::<A>();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 5000));
        let backend = associate(&mut path, me, service);
        path.call(me, service, ABORT, Reason::EstablishedFlow);
        assert_eq!(path.answer(backend, me, DATA), service);
        // A client that starts anew is led to the same backend, whose association knows what to do (RFC 9260, 5.2.2).
        assert_eq!(path.call(me, service, INIT, Reason::EstablishedFlow), backend);
    }

    pub(super) fn the_ports_of_a_flow_that_is_masqueraded_or_collides_are_in_its_checksum<A: Net>() {
        let own = pod::<A>(1);
        let (first, second) = (vip::<A>(1, 5000), vip::<A>(2, 5000));
        let mut path = Path::<A>::new(&[(first, proto::SCTP, &[own]), (second, proto::SCTP, &[own])]);
        let (_, src, _) = path.send(Side::Ingress, SocketAddr::new(own.ip(), 40_000), first, INIT);
        assert_eq!(src.ip(), node::<A>());
        let me = client::<A>(1, 40_000);
        path.call(me, first, INIT, Reason::NewFlow);
        let (verdict, src, dst) = path.send(Side::Ingress, me, second, INIT);
        assert_eq!((verdict, dst, src.ip()), (Verdict::Forward(Reason::NewFlow), own, me.ip()));
        assert_ne!(src.port(), me.port());
        let (verdict, from, to) = path.send(Side::Egress, own, src, INIT_ACK);
        assert_eq!((verdict, from, to), (Verdict::Forward(Reason::Reply), second, me));
    }

    /// A device is to compute it, and takes what stands there for data.
    pub(super) fn a_checksum_that_is_yet_to_come_stays_away<A: Net>() {
        let mut path = path::<A>();
        let mut frame = packets::packet(client::<A>(1, 40_000), vip::<A>(1, 5000), INIT, b"payload");
        let at = 14 + A::HEADER + CHECKSUM;
        frame[at..at + 4].fill(0);
        let mut frame = Frame(frame);
        assert_eq!(frame.run(&mut path.tables, Side::Ingress, 100), Verdict::Forward(Reason::NewFlow));
        assert_eq!(frame.0[at..at + 4], [0; 4]);
    }

    pub(super) fn a_packet_in_mid_stream_is_a_strangers_or_begins_a_flow<A: Net>() {
        let mut path = path::<A>();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 5000));
        path.tables.image.config.strangers_until = path.now + 1;
        for l4 in [DATA, COOKIE_ECHO, ABORT, INIT_ACK] {
            let passed = path.send(Side::Ingress, me, service, l4);
            assert_eq!(passed, (Verdict::Pass(Reason::Stranger), me, service), "{l4:?}");
        }
        path.now += 1;
        path.call(me, service, ABORT, Reason::Stateless);
        path.call(me, service, DATA, Reason::NewFlow);
    }

    pub(super) fn an_association_to_nobody_is_refused_as_linux_believes_it<A: Net>() {
        let service = vip::<A>(1, 5000);
        let mut path = Path::<A>::new(&[(service, proto::SCTP, &[])]);
        let mut run = |chunk, payload: &[u8]| {
            let sent = packets::packet(client::<A>(1, 40_000), service, L4::Sctp(chunk), payload);
            let mut frame = Frame(sent.clone());
            let verdict = frame.run(&mut path.tables, Side::Ingress, 100);
            (verdict, sent, frame.0)
        };
        // Where the verification tag is 0, as in an INIT, Linux wants to see the Initiate Tag: 20 bytes.
        for (payload, quoted) in [(&[7; 16][..], 20), (&[7; 4], 20), (&[7; 3], 8), (&[], 8)] {
            let (verdict, sent, refusal) = run(chunk::INIT, payload);
            assert_eq!(verdict, Verdict::Reject(Reason::NoEndpoints));
            verify_checksums(&refusal).expect("a sound error");
            let told = told(&refusal);
            assert_eq!(told.quoted, (client::<A>(1, 40_000), service));
            assert_eq!(told.quote, sent[14..14 + A::HEADER + quoted]);
        }
        assert_eq!(run(chunk::ABORT, b"").0, Verdict::Drop(Reason::NoEndpoints));
    }

    pub(super) fn fragments_whose_ports_stay_go_on_and_others_are_dropped<A: Net>() {
        let me = client::<A>(1, 40_000);
        for port in [8080, 5000] {
            let service = vip::<A>(1, port);
            let mut path = Path::<A>::new(&[(service, proto::SCTP, &[pod::<A>(1)])]);
            let mut run = |fragment: &Vec<u8>| {
                let mut frame = Frame(fragment.clone());
                (frame.run(&mut path.tables, Side::Ingress, 100), frame.0)
            };
            let fragments = apart(&packets::packet(me, service, DATA, &[0x5a; 900]), 7, 512);
            let (verdicts, frames): (Vec<_>, Vec<_>) = fragments.iter().map(&mut run).unzip();
            if port == pod::<A>(1).port() {
                assert_eq!(verdicts, [Reason::NewFlow, Reason::LaterFragment].map(Verdict::Forward));
                let arrived = together(&frames);
                assert_eq!(arrived[14..], packets::packet(me, pod::<A>(1), DATA, &[0x5a; 900])[14..]);
            } else {
                assert_eq!(verdicts, [Reason::SctpFragment, Reason::Fragment].map(Verdict::Drop));
            }
        }
    }

    pub(super) fn an_error_about_a_packet_reaches_the_other_side<A: Net>() {
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 5000));
        let mut path = path::<A>();
        let backend = associate(&mut path, me, service);
        // Who says so, to whom, of which packet; and how it has to arrive.
        let about = [
            (Side::Egress, backend, me, (service.ip(), me.ip()), (me, service)),
            (Side::Ingress, me, service, (me.ip(), backend.ip()), (backend, me)),
        ];
        for (side, from, to, ends, quoted) in about {
            let lost = packets::packet(to, from, DATA, b"payload");
            for (trouble, len) in TROUBLES.into_iter().flat_map(|t| [(t, A::HEADER + 8), (t, 1000)]) {
                let mut frame = Frame(error(from.ip(), to.ip(), trouble, &lost, len));
                let verdict = frame.run(&mut path.tables, side, 100);
                assert_eq!(verdict, Verdict::Forward(Reason::IcmpError), "{trouble:?}");
                verify_checksums(&frame.0).expect("a sound error");
                let told = told(&frame.0);
                assert_eq!((told.ends, told.quoted), (ends, quoted), "{trouble:?}");
                // Tag and checksum are the sender's own.
                let rest = A::HEADER + 4;
                assert_eq!(told.quote[rest..], lost[14..][rest..told.quote.len()]);
            }
        }
    }

    pub(super) fn a_port_of_tcp_is_none_of_sctp<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 80));
        assert_eq!(path.send(Side::Ingress, me, service, INIT), (Verdict::Reject(Reason::NoSuchPort), me, service));
    }
}
