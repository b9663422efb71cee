//! Random packets around a small set of Services: near enough to hit flows again and again, wrong often enough to be
//! refused. The same seed gives the same packets.

use std::net::SocketAddr;

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, Ipv6RawExtHeader};
use lb_common::flow::{set_source_port, state};
use lb_common::ip::Be16;
use lb_common::mem::Image;
use lb_common::packet::proto;
use lb_common::tables::{Flow, FlowKey, Frontend, Side, Table, frontend as flags};

use super::fragments::apart;
use super::icmp::{TROUBLES, error};
use super::sctp::chunk;
use super::world::{Net, add_service, client, empty, far, frontend, node, pod, vip};
use super::{ACK, FIN_ACK, L4, RST, SYN, SYN_ACK, UDP, echo_with, ip, packet_with};

/// A number that the environment may set, such as the seed of a run (`SLUICE_SEED`).
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A stream of numbers, repeatable from its seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Seed(pub u64);

impl Seed {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n
    }

    /// One of several.
    pub fn of<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len() as u64) as usize]
    }
}

/// The tables that [`packet`] aims at: Services of three backends, of one, of none, one whose backend is a client, one whose
/// clients stay, one that has nothing for clients outside, and two with backends on other nodes, where some can be reached.
pub fn image<A: Net>() -> Image {
    let mut image = empty();
    let pods = [pod::<A>(1), pod::<A>(2), pod::<A>(3)];
    let own = SocketAddr::new(client::<A>(1, 0).ip(), 8080);
    add_service::<A>(&mut image, vip::<A>(4, 80), proto::TCP, &[own]);
    add_service::<A>(&mut image, vip::<A>(4, 5000), proto::SCTP, &[own]);
    // Of SCTP it matters whether the ports stay.
    add_service::<A>(&mut image, vip::<A>(2, 8080), proto::SCTP, &pods);
    for (l4, port) in [(proto::TCP, 80), (proto::UDP, 53), (proto::SCTP, 5000)] {
        add_service::<A>(&mut image, vip::<A>(1, port), l4, &pods);
        add_service::<A>(&mut image, vip::<A>(2, port), l4, &pods[..1]);
        add_service::<A>(&mut image, vip::<A>(3, port), l4, &[]);
        add_service::<A>(&mut image, vip::<A>(5, port), l4, &pods);
        frontend::<A>(&mut image, vip::<A>(5, port), l4).affinity = u32::MAX;
        add_service::<A>(&mut image, vip::<A>(6, port), l4, &pods);
        let local = frontend::<A>(&mut image, vip::<A>(6, port), l4);
        *local = Frontend { outside: Table::EMPTY, flags: flags::ELSEWHERE_OUTSIDE, ..*local };
        add_service::<A>(&mut image, vip::<A>(7, port), l4, &[far::<A>(1)]);
        add_service::<A>(
            &mut image,
            vip::<A>(8, port),
            l4,
            &[pods[0], far::<A>(1), far::<A>(2), far::<A>(3), far::<A>(4)],
        );
    }
    image
}

/// A packet, and the side at which it shows up.
pub fn packet<A: Net>(seed: &mut Seed) -> (Side, Vec<u8>) {
    let me = client::<A>(seed.of(&[1, 2]), seed.of(&[40_000, 40_001, 2_000]));
    let own = SocketAddr::new(client::<A>(1, 0).ip(), 8080);
    let backend = seed.of(&[pod::<A>(1), pod::<A>(2), pod::<A>(3), own]);
    let sctp = L4::Sctp(seed.of(&[chunk::INIT, chunk::INIT, chunk::COOKIE_ECHO, chunk::DATA, chunk::ABORT]));
    let there = seed.of(&[SYN, SYN, ACK, ACK, ACK, FIN_ACK, RST, UDP, UDP, sctp, sctp]);
    let port = match there {
        _ if seed.below(12) == 0 => 81,
        L4::Tcp(_) => 80,
        L4::Udp => 53,
        L4::Sctp(_) => seed.of(&[5000, 5000, 8080]),
    };
    let service = vip::<A>(seed.of(&[1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 7, 7, 8, 8, 9]), port);
    let sctp = L4::Sctp(seed.of(&[chunk::INIT_ACK, chunk::INIT_ACK, chunk::DATA, chunk::SHUTDOWN_ACK]));
    let back = seed.of(&[SYN_ACK, SYN_ACK, ACK, FIN_ACK, RST, UDP, UDP, sctp, sctp]);
    let len = seed.of(&[0, 1, 7, 64, 999, 999, 1_400]);
    let payload: Vec<u8> = (0..len).map(|_| seed.number() as u8).collect();
    let (side, src, dst, l4) = match seed.below(12) {
        0..=5 => (Side::Ingress, me, service, there),
        6..=7 => (Side::Egress, backend, me, back),
        8 => (Side::Ingress, own, SocketAddr::new(node::<A>(), seed.of(&[2_000, 40_000])), back),
        9 | 10 => {
            let port = masqueraded::<A>(me);
            (Side::Ingress, far::<A>(seed.of(&[1, 1, 2, 3])), SocketAddr::new(node::<A>(), port), back)
        }
        _ => (seed.of(&[Side::Ingress, Side::Egress]), me, backend, there),
    };
    let mut frame = match seed.below(40) {
        4..=9 => {
            // About an answer to this packet, if the addresses are real, or about the packet itself.
            let (src, dst) = if seed.below(8) == 0 { (src, dst) } else { (dst, src) };
            let lost = packet_with(
                maybe_with_options(seed, ip(src.ip(), dst.ip(), l4.number())),
                src.port(),
                dst.port(),
                l4,
                &payload,
            );
            let from = if seed.below(2) == 0 { dst.ip() } else { client::<A>(9, 0).ip() };
            error(from, src.ip(), seed.of(&TROUBLES), &lost, A::HEADER + seed.of(&[4, 8, 8, 17, 18, 20, 500]))
        }
        0 => echo_with(src.ip(), dst.ip(), &payload),
        1 => packet_with(with_options(ip(src.ip(), dst.ip(), l4.number())), src.port(), dst.port(), l4, &payload),
        2 => packet_with(with_hops(ip(src.ip(), dst.ip(), l4.number()), 1), src.port(), dst.port(), l4, &payload),
        _ => packet_with(ip(src.ip(), dst.ip(), l4.number()), src.port(), dst.port(), l4, &payload),
    };
    if l4 == UDP && A::ICMP == 1 && seed.below(8) == 0 {
        // No checksum, as UDP over IPv4 may do.
        let at = 14 + 20 + 6;
        if frame.len() > at + 2 && frame[14] == 0x45 {
            frame[at..at + 2].fill(0);
        }
    }
    if seed.below(8) == 0 && frame.len() > 14 + A::HEADER && whole::<A>(&frame) {
        let pieces = apart(&frame, seed.of(&[1, 1, 2]), seed.of(&[24, 64, 512]));
        frame = pieces[seed.below(pieces.len().min(3) as u64) as usize].clone();
    }
    if seed.below(30) == 0 {
        let at = seed.below(frame.len() as u64) as usize;
        // Answers to a client that never was would leave by a route that no test knows.
        let source = 14 + A::SOURCE..14 + A::SOURCE + size_of::<A>();
        frame[at] ^= u8::from(!source.contains(&at)) << seed.below(8);
    }
    if seed.below(40) == 0 {
        // Prog run takes no frame below 14 bytes, nor TC one without an IP header.
        let least = 14 + A::HEADER as u64;
        let len = least + seed.below(frame.len() as u64 - least + 1);
        frame.truncate(len as usize);
    }
    (side, frame)
}

/// Whether a frame has neither options nor extension headers.
fn whole<A: Net>(frame: &[u8]) -> bool {
    if A::ICMP == 1 { frame[14] == 0x45 } else { matches!(frame[14 + 6], proto::TCP | proto::UDP | proto::SCTP | 58) }
}

fn maybe_with_options(seed: &mut Seed, headers: IpHeaders) -> IpHeaders {
    if seed.below(8) == 0 { with_options(headers) } else { headers }
}

/// The node's port under which a client's flow goes to another node, if it is free.
fn masqueraded<A: Net>(client: SocketAddr) -> u16 {
    let src = A::from_ip(client.ip()).expect("an address of the family");
    let [sport, none] = [client.port(), 0].map(Be16::new);
    let key = FlowKey { src, dst: src, sport, dport: none, proto: proto::TCP, side: Side::Ingress as u8, zero: 0 };
    let mut flow = Flow { state: state::MASQUERADE, ..Flow::zeroed() };
    set_source_port(&key, &mut flow);
    flow.sport.get()
}

fn with_options(headers: IpHeaders) -> IpHeaders {
    match headers {
        IpHeaders::Ipv4(mut header, extensions) => {
            // No operation, four times: the least that options can be.
            header.options = Ipv4Options::from([1, 1, 1, 1]);
            IpHeaders::Ipv4(header, extensions)
        }
        IpHeaders::Ipv6(header, mut extensions) => {
            // Six bytes of padding options: the least that a hop-by-hop header can be.
            let padding = Ipv6RawExtHeader::new_raw(IpNumber(0), &[1, 4, 0, 0, 0, 0]).expect("the least there is");
            extensions.hop_by_hop_options = Some(padding);
            IpHeaders::Ipv6(header, extensions)
        }
    }
}

fn with_hops(headers: IpHeaders, hops: u8) -> IpHeaders {
    match headers {
        IpHeaders::Ipv4(header, extensions) => IpHeaders::Ipv4(Ipv4Header { time_to_live: hops, ..header }, extensions),
        IpHeaders::Ipv6(header, extensions) => IpHeaders::Ipv6(Ipv6Header { hop_limit: hops, ..header }, extensions),
    }
}

/// A packet that is not one of the kinds above at all: bytes.
pub fn bytes(seed: &mut Seed) -> Vec<u8> {
    let len = seed.below(200) as usize;
    (0..len).map(|_| seed.number() as u8).collect()
}
