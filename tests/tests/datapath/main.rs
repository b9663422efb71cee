//! What the packet path promises, one flow at a time, on the in-memory tables: the same code that runs in the kernel.
//! After each step all tables are looked at, not only the packet.

use std::net::SocketAddr;

use lb_common::datapath;
use lb_common::ip::{V4, V6};
use lb_common::mem::{Frame, Native};
use lb_common::packet::proto;
use lb_common::reject;
use lb_common::tables::{Origin, Side, device};
use lb_common::verdict::{Reason, Verdict};
use sluice_tests::packets::world::{self, Net, add_service, client, empty, node, pod, vip};
use sluice_tests::packets::{self, ACK, FIN_ACK, L4, RST, SYN, SYN_ACK, UDP, ends, verify_checksums};

macro_rules! both_families {
    ($($test:ident)*) => {$(
        #[test]
        fn $test() {
            rules::$test::<V4>();
            rules::$test::<V6>();
        }
    )*};
}

mod flows;
mod fragments;
mod handover;
mod icmp;
mod leaving;
mod next_hop;
mod plain;
mod policies;
mod sctp;
mod sockets;
mod verdicts;

struct Path<A> {
    tables: Native,
    now: u32,
    family: std::marker::PhantomData<A>,
}

impl<A: Net> Path<A> {
    fn new(services: &[(SocketAddr, u8, &[SocketAddr])]) -> Self {
        let mut image = empty();
        for (frontend, proto, backends) in services {
            add_service::<A>(&mut image, *frontend, *proto, backends);
        }
        let mut path = Self { tables: Native::new(image), now: 100, family: std::marker::PhantomData };
        path.from(Origin::Inside);
        path
    }

    /// One Service of TCP and UDP over pods 1 to 3.
    fn three() -> Self {
        let pods = [pod::<A>(1), pod::<A>(2), pod::<A>(3)];
        Self::new(&[(vip::<A>(1, 80), proto::TCP, &pods), (vip::<A>(1, 53), proto::UDP, &pods)])
    }

    /// From here on, packets come from there.
    fn from(&mut self, origin: Origin) {
        let bits = if origin == Origin::Inside { device::INSIDE } else { 0 };
        self.tables.devices.insert(Frame::DEVICE, bits);
        // XDP does not stand where pods are.
        self.tables.at_xdp = origin == Origin::Outside;
    }

    fn send(&mut self, side: Side, from: SocketAddr, to: SocketAddr, l4: L4) -> (Verdict, SocketAddr, SocketAddr) {
        let mut frame = Frame(packets::packet(from, to, l4, b"payload"));
        let now = self.now;
        let verdict = datapath::run(&mut frame, &mut self.tables, side, || now);
        verify_checksums(&frame.0).expect("right checksums after translation");
        let (src, dst) = ends(&frame.0);
        (verdict, src, dst)
    }

    /// A packet from a client; the backend it went to.
    fn call(&mut self, from: SocketAddr, to: SocketAddr, l4: L4, reason: Reason) -> SocketAddr {
        let (verdict, src, dst) = self.send(Side::Ingress, from, to, l4);
        assert_eq!((verdict, src), (Verdict::Forward(reason), from));
        dst
    }

    /// The answer of a backend as the client sees it.
    fn answer(&mut self, from: SocketAddr, to: SocketAddr, l4: L4) -> SocketAddr {
        let (verdict, src, dst) = self.send(Side::Egress, from, to, l4);
        assert_eq!((verdict, dst), (Verdict::Forward(Reason::Reply), to));
        src
    }

    /// A handshake; the backend.
    fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let backend = self.call(from, to, SYN, Reason::NewFlow);
        assert_eq!(self.answer(backend, from, SYN_ACK), to);
        assert_eq!(self.call(from, to, ACK, Reason::EstablishedFlow), backend);
        backend
    }

    /// Entries of half-open and of established flows.
    fn entries(&self) -> (usize, usize) {
        let flows = A::flows(&self.tables);
        (flows.entries(false).count(), flows.entries(true).count())
    }
}
