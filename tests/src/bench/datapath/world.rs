//! Tables of many Services, and packets to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::ip::{Be16, Family};
use lb_common::mem::{self, Image};
use lb_common::packet::proto;
use lb_common::tables::{Frontend, FrontendKey};

use crate::packets::world::{Net, Network, add_service, empty, pod};

/// Virtual IP number `n`, counted from the first: beyond 256 the last bytes carry.
pub(super) fn vip<A: Net>(n: u32) -> SocketAddr {
    // Far from the other networks of the tests: 100,000 addresses go through more than one of them.
    let far = if A::FAMILY == Family::V4 { 128 << 16 } else { 0 };
    SocketAddr::new(plus(A::host(Network::Service, 0), far + n), 80)
}

fn plus(ip: IpAddr, n: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) + n).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) + u128::from(n)).into(),
    }
}

/// A Service with one backend, so that it is known whom a client's answers come from.
pub(super) struct Solo;

/// The one that all tables have.
pub(super) const SOLO: Solo = Solo;

impl Solo {
    /// Its address, above all others.
    pub(super) fn vip<A: Net>(&self) -> SocketAddr {
        vip::<A>(1 << 20)
    }

    /// Its backend.
    pub(super) fn backend<A: Net>(&self) -> SocketAddr {
        pod::<A>(250)
    }
}

/// Clients of one address.
const PORTS: u32 = 1 << 12;

/// The first of the clients.
pub(super) fn client<A: Net>() -> SocketAddr {
    client_number::<A>(0)
}

/// The client of a number, a multiple of [`PORTS`]. Those after it have the next ports, then the next address.
pub(super) fn client_number<A: Net>(n: u32) -> SocketAddr {
    SocketAddr::new(plus(A::host(Network::Client, 0), n / PORTS), 30_000)
}

/// `count` Services of one port over one set of `backends`, and [`SOLO`].
pub(super) fn services<A: Net>(count: u32, backends: u8) -> Image {
    let mut image = empty();
    let pods: Vec<_> = (1..=backends).map(pod::<A>).collect();
    add_service::<A>(&mut image, vip::<A>(0), proto::TCP, &pods);
    add_service::<A>(&mut image, SOLO.vip::<A>(), proto::TCP, &[SOLO.backend::<A>()]);
    let address = |n| A::from_ip(vip::<A>(n).ip()).expect("an address of the family");
    let key = |n| FrontendKey::new(address(n), Be16::new(80), proto::TCP);
    let (first, name) = (A::side(&image).frontends[&key(0)], image.names[&1]);
    for n in 1..count {
        let service = n + 2;
        image.names.insert(service, name);
        let frontends = &mut A::side_mut(&mut image).frontends;
        frontends.insert(key(n), Frontend { service, ..first });
        frontends.insert(FrontendKey::whole(address(n)), Frontend::refusing(service));
    }
    image.filter = mem::frontend_bits(&image);
    image
}
