//! The socket path: the same choice as for packets, where the client is known.

use lb_common::ip::Be16;
use lb_common::socket::{Call, Decision, Socket, backward, forward};
use lb_common::tables::{AffinityKey, Filter, RangeKey, frontend};
use sluice_tests::packets::world;

use super::*;

both_families! {
    a_process_of_the_node_stays_with_its_backend_and_a_pod_is_left_to_its_packets
    a_process_of_the_node_is_judged_by_the_nodes_address_and_a_pod_by_its_packets
    a_node_port_is_found_by_its_port
    sockets_are_led_where_nobody_need_turn_them_later
    who_drains_leads_no_socket
}

/// A socket with its number, of the node or of a pod.
#[derive(Clone, Copy)]
struct Caller {
    cookie: u32,
    host: bool,
}

impl Socket for Caller {
    fn cookie(&self) -> [u32; 2] {
        [self.cookie, 0]
    }
    fn is_host(&self) -> bool {
        self.host
    }
}

impl<A: Net> Path<A> {
    /// Where socket number `cookie` is led that calls `to`.
    fn socket(&mut self, cookie: u32, to: SocketAddr, host: bool) -> Option<SocketAddr> {
        let addr = A::from_ip(to.ip()).unwrap();
        self.call_of(
            Caller { cookie, host },
            Call { addr, port: Be16::new(to.port()), proto: proto::TCP, lasting: true, host_only: false },
        )
        .map(|led| led.unwrap_or(to))
    }

    /// The same of any call; none inside where it is refused.
    fn call_of(&mut self, caller: Caller, call: Call<A>) -> Option<Option<SocketAddr>> {
        let now = self.now;
        match forward(&mut self.tables, &caller, &call, || now) {
            Decision::Pass => None,
            Decision::To(backend) => Some(Some(SocketAddr::new(backend.addr.into(), backend.port.get()))),
            Decision::Refuse => Some(None),
        }
    }
}

mod rules {
    use super::*;

    pub(super) fn a_process_of_the_node_stays_with_its_backend_and_a_pod_is_left_to_its_packets<A: Net>() {
        let service = vip::<A>(1, 80);
        let mut path = Path::<A>::three();
        let pods: std::collections::BTreeSet<_> = (0..50).map(|n| path.socket(n, service, true)).collect();
        assert_eq!(pods.len(), 3, "without affinity all are used");
        world::frontend::<A>(&mut path.tables.image, service, proto::TCP).affinity = 10;
        let stays = path.socket(0, service, true).expect("a backend");
        assert_ne!(stays, service);
        for cookie in 1..50 {
            path.now += 9;
            assert_eq!(path.socket(cookie, service, true), Some(stays));
            assert_eq!(path.socket(cookie, service, false), None);
        }
        // As a packet from the node's address would.
        let service_id = world::frontend::<A>(&mut path.tables.image, service, proto::TCP).service;
        let client = A::from_ip(node::<A>()).unwrap();
        let key = AffinityKey { client, service: service_id };
        assert_eq!(A::flows(&path.tables).affinity[&key].seen, path.now);
        assert_eq!(A::flows(&path.tables).affinity.len(), 1);
    }

    pub(super) fn a_process_of_the_node_is_judged_by_the_nodes_address_and_a_pod_by_its_packets<A: Net>() {
        let service = vip::<A>(1, 80);
        for (allowed, expected) in [(node::<A>(), true), (client::<A>(1, 0).ip(), false)] {
            let mut path = Path::<A>::three();
            let found = world::frontend::<A>(&mut path.tables.image, service, proto::TCP);
            found.flags |= frontend::SOURCE_RANGES;
            let key = RangeKey { service: found.service, addr: A::from_ip(allowed).unwrap() };
            A::side_mut(&mut path.tables.image).ranges.insert((key, 32 + size_of::<A>() as u32 * 8));
            let led = path.socket(1, service, true).expect("an answer");
            assert_eq!(led != service, expected);
            assert_eq!(path.socket(1, service, false), None);
        }
    }

    pub(super) fn a_node_port_is_found_by_its_port<A: Net>() {
        let port = SocketAddr::new(node::<A>(), 30_080);
        let mut path = Path::<A>::new(&[(port, proto::TCP, &[pod::<A>(1)])]);
        path.tables.filter = [Filter::Frontend.bit(&A::from_ip(node::<A>()).unwrap(), Be16::new(30_080))].into();
        assert_eq!(path.socket(1, port, true), Some(pod::<A>(1)));
        assert_eq!(path.socket(1, SocketAddr::new(node::<A>(), 22), true), None);
    }

    /// Whether a call to a Service of pods 1 to 3 is led to one of them.
    fn is_led<A: Net>(path: &mut Path<A>, proto: u8, lasting: bool, host: bool) -> bool {
        let to = if proto == proto::UDP { vip::<A>(1, 53) } else { vip::<A>(1, 80) };
        let (addr, port) = (A::from_ip(to.ip()).expect("of this family"), Be16::new(to.port()));
        let call = Call { addr, port, proto, lasting, host_only: false };
        let Some(led) = path.call_of(Caller { cookie: 1, host }, call) else { return false };
        let led = led.expect("there are backends");
        let seen = backward(&path.tables, [1, 0], A::from_ip(led.ip()).expect("the same"), Be16::new(led.port()));
        assert_eq!(seen.map(|peer| (peer.addr, peer.port)), Some((addr, port)));
        true
    }

    pub(super) fn sockets_are_led_where_nobody_need_turn_them_later<A: Net>() {
        let mut path = Path::<A>::three();
        for (proto, lasting, host, expected) in [
            (proto::TCP, true, true, true),
            (proto::TCP, true, false, true),
            (proto::UDP, true, true, true),
            (proto::UDP, true, false, false),
            (proto::UDP, false, true, true),
            (proto::UDP, false, false, true),
        ] {
            assert_eq!(is_led(&mut path, proto, lasting, host), expected, "{proto} {lasting} {host}");
        }
    }

    pub(super) fn who_drains_leads_no_socket<A: Net>() {
        let mut path = Path::<A>::three();
        path.tables.image.config.draining = 1;
        for (proto, lasting) in [(proto::TCP, true), (proto::UDP, true), (proto::UDP, false)] {
            assert!(!is_led(&mut path, proto, lasting, true), "{proto} {lasting}");
        }
    }
}
