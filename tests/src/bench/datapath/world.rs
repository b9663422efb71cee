//! Tables of many Services, and packets to them.

use std::net::SocketAddr;

use lb_common::ip::Be16;
use lb_common::mem::{self, Image};
use lb_common::packet::proto;
use lb_common::tables::{Frontend, FrontendKey};

use crate::packets::world::{Net, Network, add_service, empty, pod};

/// Virtual IP number `n`, counted from the first: beyond 256 the last bytes carry.
pub(super) fn vip<A: Net>(n: u32) -> SocketAddr {
    let base = A::host(Network::Service, 0);
    let ip = match base {
        // Far from the other networks of the tests: 100,000 addresses go through more than one of them.
        std::net::IpAddr::V4(ip) => std::net::Ipv4Addr::from((u32::from(ip) | 128 << 16) + n).into(),
        std::net::IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) + u128::from(n)).into(),
    };
    SocketAddr::new(ip, 80)
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

/// The first of the clients, whose number goes up in the last bytes.
pub(super) fn client<A: Net>() -> SocketAddr {
    SocketAddr::new(A::host(Network::Client, 0), 30_000)
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
