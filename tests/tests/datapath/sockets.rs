//! The socket path: the same choice as for packets, where the client is known.

use lb_common::ip::Be16;
use lb_common::socket::{Call, Decision, forward};
use lb_common::tables::{AffinityKey, Filter, RangeKey, frontend};
use sluice_tests::packets::world;

use super::*;

both_families! {
    a_process_of_the_node_stays_with_its_backend_and_a_pod_is_left_to_its_packets
    a_process_of_the_node_is_judged_by_the_nodes_address_and_a_pod_by_its_packets
    a_node_port_is_found_by_its_port
}

impl<A: Net> Path<A> {
    /// Where socket number `cookie` is led that calls `to`.
    fn socket(&mut self, cookie: u32, to: SocketAddr, host: bool) -> Option<SocketAddr> {
        let addr = A::from_ip(to.ip()).unwrap();
        let call = Call { cookie: [cookie, 0], addr, port: Be16::new(to.port()), proto: proto::TCP };
        let now = self.now;
        match forward(&mut self.tables, &call, || host, || now) {
            Decision::Pass => None,
            Decision::To(backend) => Some(SocketAddr::new(backend.addr.into(), backend.port.get())),
            Decision::Refuse => Some(to),
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
}
