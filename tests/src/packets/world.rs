//! Tables for tests of the packet path, written by hand: they need no agent.

use std::net::{IpAddr, SocketAddr};

use lb_common::ip::{Be16, Ip, V4, V6};
use lb_common::maglev::{self, Candidate};
use lb_common::mem::{self, Image, Of};
use lb_common::tables::{Backend, Frontend, FrontendKey, Name, Table, backend};

/// A family, and its addresses in these tests.
pub trait Net: lb_common::parse::Header + Of {
    /// The address of host `n` of a network; `n` is 0 to 255.
    fn host(network: Network, n: u8) -> IpAddr;
}

/// The networks of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Clients.
    Client,
    /// Virtual IPs.
    Service,
    /// Backends.
    Pod,
    /// Nodes.
    Node,
    /// Backends on other nodes.
    Far,
}

impl Net for V4 {
    fn host(network: Network, n: u8) -> IpAddr {
        IpAddr::from([10, network as u8, 0, n])
    }
}

impl Net for V6 {
    fn host(network: Network, n: u8) -> IpAddr {
        IpAddr::from([0xfd00, network as u16, 0, 0, 0, 0, 0, u16::from(n)])
    }
}

/// A client's address.
pub fn client<A: Net>(n: u8, port: u16) -> SocketAddr {
    SocketAddr::new(A::host(Network::Client, n), port)
}

/// A virtual IP and port.
pub fn vip<A: Net>(n: u8, port: u16) -> SocketAddr {
    SocketAddr::new(A::host(Network::Service, n), port)
}

/// A backend.
pub fn pod<A: Net>(n: u8) -> SocketAddr {
    SocketAddr::new(A::host(Network::Pod, n), 8080)
}

/// A backend on another node.
pub fn far<A: Net>(n: u8) -> SocketAddr {
    SocketAddr::new(A::host(Network::Far, n), 8080)
}

/// The node's address.
pub fn node<A: Net>() -> IpAddr {
    A::host(Network::Node, 1)
}

/// An image that knows the node's addresses and no Service.
pub fn empty() -> Image {
    let mut image = Image::default();
    image.config.node_v4 = V4::from_ip(node::<V4>()).expect("IPv4");
    image.config.node_v6 = V6::from_ip(node::<V6>()).expect("IPv6");
    image
}

/// Adds a Service to an image. Ids of backends are their order of appearance; they stay.
///
/// # Panics
/// When an address is not of family `A`.
pub fn add_service<A: Net>(image: &mut Image, frontend: SocketAddr, proto: u8, backends: &[SocketAddr]) {
    let address = |ip| A::from_ip(ip).expect("an address of the family");
    let len = maglev::table_len(backends.len() as u32);
    let mut candidates = Vec::new();
    for backend in backends {
        let is_far = (0..=u8::MAX).any(|n| A::host(Network::Far, n) == backend.ip());
        let flags = if is_far { 0 } else { backend::LOCAL };
        let entry = Backend { addr: address(backend.ip()), port: Be16::new(backend.port()), flags };
        let known = &mut A::side_mut(image).backends;
        let next = known.len() as u32 + 1;
        let id = known.iter().find(|(_, other)| **other == entry).map_or(next, |(id, _)| *id);
        known.insert(id, entry);
        candidates.push(Candidate::new(id, &entry.addr, entry.port, len));
    }
    let mut slots = vec![0; len as usize];
    maglev::fill(&mut candidates, &mut slots);
    let at = image.runs.last_key_value().map_or(0, |(at, run)| at + run.len() as u32);
    if len > 0 {
        image.runs.insert(at, slots.into());
    }
    let service = image.names.len() as u32 + 1;
    image.names.insert(service, name(&format!("service-{service}")));
    let addr = address(frontend.ip());
    let frontends = &mut A::side_mut(image).frontends;
    let table = if len == 0 { Table::EMPTY } else { Table { at, len } };
    let key = FrontendKey::new(addr, Be16::new(frontend.port()), proto);
    frontends.insert(key, Frontend::with_table(service, table));
    frontends.insert(FrontendKey::whole(addr), Frontend::refusing(service));
    image.filter = mem::frontend_bits(image);
}

/// The frontend of an image at an address.
///
/// # Panics
/// When it has none there.
pub fn frontend<A: Net>(image: &mut Image, addr: SocketAddr, proto: u8) -> &mut Frontend {
    let ip = A::from_ip(addr.ip()).expect("an address of the family");
    let key = FrontendKey::new(ip, Be16::new(addr.port()), proto);
    A::side_mut(image).frontends.get_mut(&key).expect("the frontend")
}

fn name(service: &str) -> Name {
    fn padded<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| text.as_bytes().get(i).copied().unwrap_or(0))
    }
    Name { namespace: padded("default"), service: padded(service), port: padded("http") }
}
