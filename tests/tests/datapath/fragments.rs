//! Packets that come in pieces: all go the same way, and make the whole packet again.

use sluice_tests::packets::fragments::{apart, together};

use super::*;

both_families! {
    fragments_go_where_the_first_one_goes
    fragments_in_any_order_behind_the_first_are_known
    a_fragment_that_overtook_its_first_goes_where_the_newest_packet_went
    fragments_of_strangers_leave_as_they_came
    nobody_guesses_about_fragments_to_the_node
    a_fragment_header_on_a_whole_packet_is_passed_over
}

const PAYLOAD: [u8; 900] = [0x5a; 900];

/// Sends fragments; what became of them.
fn send<A: Net>(path: &mut Path<A>, side: Side, fragments: &[Vec<u8>]) -> (Vec<Verdict>, Vec<Vec<u8>>) {
    let run = |fragment: &Vec<u8>| {
        let mut frame = Frame(fragment.clone());
        let verdict = frame.run(&mut path.tables, side, 100);
        (verdict, frame.0)
    };
    fragments.iter().map(run).unzip()
}

mod rules {
    use super::*;

    pub(super) fn fragments_go_where_the_first_one_goes<A: Net>() {
        for (l4, port) in [(UDP, 53), (ACK, 80)] {
            let mut path = Path::<A>::three();
            let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, port));
            let whole = packets::packet(me, service, l4, &PAYLOAD);
            let (verdicts, there) = send(&mut path, Side::Ingress, &apart(&whole, 7, 256));
            assert_eq!(verdicts[0], Verdict::Forward(Reason::NewFlow));
            assert!(verdicts[1..].iter().all(|verdict| *verdict == Verdict::Forward(Reason::LaterFragment)));
            let arrived = together(&there);
            let (from, backend) = ends(&arrived);
            assert_eq!((from, backend.port()), (me, 8080));
            assert_eq!(arrived[14..], packets::packet(me, backend, l4, &PAYLOAD)[14..]);

            let answer = packets::packet(backend, me, l4, &PAYLOAD);
            let (verdicts, back) = send(&mut path, Side::Egress, &apart(&answer, 7, 512));
            assert_eq!(verdicts[0], Verdict::Forward(Reason::Reply));
            assert!(verdicts[1..].iter().all(|verdict| *verdict == Verdict::Forward(Reason::LaterFragment)));
            assert_eq!(together(&back)[14..], packets::packet(service, me, l4, &PAYLOAD)[14..]);
            let [carried] = path.tables.traffic.values().collect::<Vec<_>>()[..] else { panic!("of one Service") };
            let bytes = |frames: &[Vec<u8>]| frames.iter().map(|frame| frame.len() as u64 - 14).sum::<u64>();
            assert_eq!(carried.packets, [there.len() as u64, back.len() as u64]);
            assert_eq!(carried.bytes, [bytes(&there), bytes(&back)]);
        }
    }

    pub(super) fn fragments_in_any_order_behind_the_first_are_known<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 53));
        let mut fragments = apart(&packets::packet(me, service, UDP, &PAYLOAD), 7, 128);
        fragments[1..].reverse();
        let (_, there) = send(&mut path, Side::Ingress, &fragments);
        verify_checksums(&together(&there)).expect("a whole datagram");
    }

    pub(super) fn a_fragment_that_overtook_its_first_goes_where_the_newest_packet_went<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, service) = (client::<A>(1, 40_000), vip::<A>(1, 53));
        let whole = packets::packet(me, service, UDP, &PAYLOAD);
        let mut fragments = apart(&whole, 7, 512);
        fragments.reverse();
        let (verdicts, _) = send(&mut path, Side::Ingress, &fragments);
        assert_eq!(verdicts, [Verdict::Drop(Reason::Fragment), Verdict::Forward(Reason::NewFlow)]);
        assert_eq!(path.tables.counters[&Reason::Fragment], 1);
        let mut fragments = apart(&whole, 8, 512);
        fragments.reverse();
        let (_, there) = send(&mut path, Side::Ingress, &fragments);
        verify_checksums(&together(&there)).expect("a whole datagram");
    }

    pub(super) fn fragments_of_strangers_leave_as_they_came<A: Net>() {
        let mut path = Path::<A>::three();
        let (me, other) = (client::<A>(1, 40_000), client::<A>(2, 53));
        path.call(me, vip::<A>(1, 53), UDP, Reason::NewFlow);
        for (side, l4) in [(Side::Ingress, UDP), (Side::Egress, UDP), (Side::Ingress, ACK)] {
            let fragments = apart(&packets::packet(me, other, l4, &PAYLOAD), 7, 256);
            let (verdicts, passed) = send(&mut path, side, &fragments);
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Pass(Reason::NotService)), "{verdicts:?}");
            assert_eq!(passed, fragments);
        }
        assert!(A::flows(&path.tables).fragments.is_empty());
    }

    /// A pod that talks to itself gets its answers by way of the node, to which it talks directly as well.
    pub(super) fn nobody_guesses_about_fragments_to_the_node<A: Net>() {
        let own = pod::<A>(1);
        let service = vip::<A>(1, 53);
        let mut path = Path::<A>::new(&[(service, proto::UDP, &[own])]);
        let (_, stand_in, _) = path.send(Side::Ingress, SocketAddr::new(own.ip(), 40_000), service, UDP);
        let answer = apart(&packets::packet(own, stand_in, UDP, &PAYLOAD), 7, 512);
        let (verdicts, _) = send(&mut path, Side::Ingress, &answer);
        assert_eq!(verdicts, [Verdict::Return(Reason::Reply), Verdict::Return(Reason::LaterFragment)]);
        let direct = apart(&packets::packet(own, SocketAddr::new(stand_in.ip(), 999), UDP, &PAYLOAD), 8, 512);
        let (verdicts, _) = send(&mut path, Side::Ingress, &direct);
        assert_eq!(verdicts, [Verdict::Pass(Reason::NotService); 2]);
    }

    /// IPv6 only: IPv4 has no header for it.
    pub(super) fn a_fragment_header_on_a_whole_packet_is_passed_over<A: Net>() {
        let mut path = Path::<A>::three();
        let whole = packets::packet(client::<A>(1, 40_000), vip::<A>(1, 53), UDP, b"payload");
        let (verdicts, there) = send(&mut path, Side::Ingress, &apart(&whole, 7, 512));
        assert_eq!(verdicts, [Verdict::Forward(Reason::NewFlow)]);
        verify_checksums(&there[0]).expect("right checksums");
        assert!(A::flows(&path.tables).fragments.is_empty());
    }
}
