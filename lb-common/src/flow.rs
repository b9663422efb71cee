//! Flows: pairs of entries, there (client to backend) and back, made, promoted and removed as one.
//!
//! Each entry of a pair can be computed from the other ([`mirror`]), so a half-open pair that lost one half is made whole
//! by the next packet of the other half.
//!
//! What few packets need stays out of line: the kernel gives all that a program inlines one stack of 512 bytes.

use crate::csum;
use crate::hash;
use crate::ip::{Be16, Ip};
use crate::packet::tcp;
use crate::tables::{Backend, Filter, Flow, FlowKey, InsertError, Refused, Side, Tables};
use crate::verdict::Reason;

pub mod table;

/// Bits of [`Flow::state`].
pub mod state {
    /// The entry translates from client to backend; the other of the pair does not have this bit.
    pub const THERE: u32 = 1;
    /// Both entries apply at ingress: the backend answers to the node, not to the client. Without [`HAIRPIN`], packets leave
    /// the node at once.
    pub const MASQUERADE: u32 = 2;
    /// Client and backend are behind the same device: packets go back out of it at once.
    pub const HAIRPIN: u32 = 4;
    /// The backend has spoken.
    pub const REPLIED: u32 = 8;
    /// The client has said FIN.
    pub const FIN_THERE: u32 = 16;
    /// The backend has said FIN.
    pub const FIN_BACK: u32 = 32;
    /// One of them has said RST.
    pub const RST: u32 = 64;
    /// The client's packets came by the service device, and answers go in through it: the stack has seen those off, and
    /// knows these. With [`HAIRPIN`], the backend is the node itself.
    pub const SERVICE: u32 = 128;
    /// Both sides have spoken: nothing pushes the entry out.
    pub const ESTABLISHED: u32 = 256;
    /// With [`SERVICE`]: the client called an address of the node's own, by the loopback device, so answers come in there.
    pub const LOOPBACK: u32 = 512;
    /// Both have said FIN.
    pub const FINS: u32 = FIN_THERE | FIN_BACK;
    /// What entries keep.
    pub const KEPT: u32 = (1 << 10) - 1;
    /// Only while a flow is opened: its client may call the same backend from the same port past this node, so its source port
    /// is another from the start.
    pub const APART: u32 = 1 << 16;
}

/// Source ports for masqueraded flows, clear of the host's ephemeral ports (from 32768, `ip_local_port_range`) and of
/// NodePorts (from 30000).
const PORTS: core::ops::Range<u16> = 1024..30_000;

/// Source ports for flows that are [`state::APART`]: neither the client's ephemeral ones (from 32768), nor those behind which
/// the client, where it is another node, masquerades flows itself ([`PORTS`]).
const APART: core::ops::Range<u16> = 30_000..32_768;

impl<A: Ip> Flow<A> {
    /// Whether the connection is over, so that its ports may be used anew.
    #[inline(always)]
    pub const fn over(&self) -> bool {
        self.state & state::RST != 0 || self.state & state::FINS == state::FINS
    }

    /// Whether its packets leave the node at once.
    #[inline(always)]
    pub const fn leaves(&self) -> bool {
        self.state & (state::MASQUERADE | state::HAIRPIN) == state::MASQUERADE
    }

    /// Whether both sides have spoken.
    #[inline(always)]
    pub const fn is_established(&self) -> bool {
        self.state & state::ESTABLISHED != 0
    }
}

/// The other entry of a pair.
#[inline(always)]
pub fn mirror<A: Ip>(key: &FlowKey<A>, flow: &Flow<A>) -> (FlowKey<A>, Flow<A>) {
    let there = flow.state & state::THERE != 0;
    let side = if there && flow.state & state::MASQUERADE == 0 { Side::Egress } else { Side::Ingress };
    let other = FlowKey {
        src: flow.dst,
        dst: flow.src,
        sport: flow.dport,
        dport: flow.sport,
        proto: key.proto,
        side: side as u8,
        zero: 0,
    };
    let back = Flow {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        addrs: !flow.addrs,
        ports: !flow.ports,
        state: flow.state ^ state::THERE,
        seen: flow.seen,
        backend: flow.backend,
        service: flow.service,
    };
    (other, back)
}

/// Makes an entry the other one of its pair: done twice, it is as before. The room of one entry is then enough for both.
#[inline(never)]
pub fn turn<A: Ip>(key: &mut FlowKey<A>, flow: &mut Flow<A>) {
    let (other, back) = mirror(key, flow);
    (key.src, key.dst, key.sport, key.dport, key.side) = (other.src, other.dst, other.sport, other.dport, other.side);
    flow.copy(&back);
}

/// The entry that leads packets of `key` to a backend. `from` is the source address they get, and `state` is
/// [`state::MASQUERADE`], also with [`state::HAIRPIN`], or neither.
#[inline(always)]
pub fn there<A: Ip>(key: &FlowKey<A>, to: &Backend<A>, from: A, state: u32, now: u32) -> Flow<A> {
    Flow {
        src: from,
        dst: to.addr,
        sport: key.sport,
        dport: to.port,
        addrs: csum::addresses([&key.src, &key.dst], [&from, &to.addr]),
        ports: csum::words([key.sport.wire(), key.dport.wire()], [key.sport.wire(), to.port.wire()]),
        state: state::THERE | state,
        seen: now,
        backend: 0,
        service: 0,
    }
}

/// The entry of packets of `key` that stay as they are: room for another. Zeros in a row would be written by a function, which
/// the compiler brings along and whose return is dear.
#[inline(always)]
pub fn unchanged<A: Ip>(key: &FlowKey<A>, now: u32) -> Flow<A> {
    Flow { src: key.src, dst: key.dst, sport: key.sport, dport: key.dport, seen: now, ..Flow::zeroed() }
}

/// Source ports that are tried before a flow is given up: where nine of ten are taken, one in five such flows.
const TRIES: u32 = 16;

/// Gives a flow another source port than its first, one whose answers no other flow has; the last one tried where there
/// is none. Only looks, so that many tries cost the kernel's verifier little.
#[inline(never)]
pub fn search_source_port<A: Ip, T: Tables<A>>(tables: &T, key: &mut FlowKey<A>, flow: &mut Flow<A>) {
    let hash = hash::tuple(&key.src, key.sport, &key.dst, key.dport, key.proto);
    turn(key, flow);
    for attempt in 1..TRIES {
        // What the answers are sent to. The ports that are apart are few: the client's own comes next.
        let own = attempt == 1 && flow.state & state::MASQUERADE == 0;
        key.dport = if own { flow.dport } else { port(hash, attempt, PORTS) };
        if tables.other(key).is_none() {
            break;
        }
    }
    turn(key, flow);
    flow.ports = csum::words([key.sport.wire(), key.dport.wire()], [flow.sport.wire(), flow.dport.wire()]);
}

/// The source port of an attempt.
#[inline(always)]
fn port(hash: u32, attempt: u32, of: core::ops::Range<u16>) -> Be16 {
    let span = u32::from(of.end - of.start);
    // An odd stride walks through other ports from each start.
    let offset = hash.wrapping_add(attempt.wrapping_mul(hash >> 16 | 1)) % span;
    Be16::new(of.start + offset as u16)
}

/// Gives a flow its first source port: the client's own, where it is the client's to choose.
#[inline(always)]
pub fn set_source_port<A: Ip>(key: &FlowKey<A>, flow: &mut Flow<A>) {
    let hash = || hash::tuple(&key.src, key.sport, &key.dst, key.dport, key.proto);
    flow.sport = match flow.state & (state::MASQUERADE | state::APART) {
        state::APART => port(hash(), 0, APART),
        // Under the node's address a port of the ephemeral range could be a socket of the host itself.
        state::MASQUERADE if !PORTS.contains(&key.sport.get()) => port(hash(), 0, PORTS),
        _ => key.sport,
    };
    flow.ports = csum::words([key.sport.wire(), key.dport.wire()], [flow.sport.wire(), flow.dport.wire()]);
}

/// Whether the way back of a flow is there, so that only its entry there was lost: half-open ones are pushed out one by one.
#[inline(never)]
pub fn has_way_back<A: Ip, T: Tables<A>>(tables: &T, key: &mut FlowKey<A>, flow: &mut Flow<A>) -> bool {
    // Another port than the first was only taken where that was another flow's.
    set_source_port(key, flow);
    turn(key, flow);
    let is_there = tables.other(key).is_some_and(|holder| same(&holder, flow));
    turn(key, flow);
    is_there
}

/// Whether two entries translate to the same.
#[inline(always)]
fn same<A: Ip>(one: &Flow<A>, other: &Flow<A>) -> bool {
    one.src == other.src && one.dst == other.dst && one.sport == other.sport && one.dport == other.dport
}

/// Opens a flow for its first packet: claims the answer's tuple, then adds the entry there. Where another CPU was first
/// with a packet of the same flow, `flow` becomes what its entry says.
///
/// The result is [`Reason::NewFlow`], [`Reason::HalfOpenFlow`] or [`Reason::Stateless`], or [`Reason::NoSourcePort`]
/// where a different flow has the answer's tuple: try again with another port.
#[inline(always)]
pub fn open<A: Ip, T: Tables<A>>(tables: &mut T, key: &mut FlowKey<A>, flow: &mut Flow<A>) -> Reason {
    for bit in filter_bits(key, flow) {
        tables.set_filter(bit);
    }
    match tables.insert_both(key, flow) {
        Ok(()) => Reason::NewFlow,
        Err(refused) => contend(tables, key, flow, refused),
    }
}

/// What becomes of a flow whose entries are not both its own.
#[inline(never)]
fn contend<A: Ip, T: Tables<A>>(tables: &mut T, key: &mut FlowKey<A>, flow: &mut Flow<A>, refused: Refused) -> Reason {
    let is_ours = match refused {
        Refused::There(_) => true,
        Refused::Back(InsertError::Full) => return Reason::Stateless,
        Refused::Back(InsertError::Exists) => match holder(tables, key, flow) {
            Holder::Other => return Reason::NoSourcePort,
            Holder::Established => {
                // Another CPU established this flow between our two look-ups.
                if let Some(entry) = tables.other(key) {
                    flow.copy(&entry);
                    return Reason::EstablishedFlow;
                }
                forget_answer(tables, key, flow);
                return Reason::Stateless;
            }
            Holder::This if tables.insert_flow(key, flow).is_ok() => return Reason::NewFlow,
            Holder::This => false,
        },
    };
    // Beside which the way back is looked up, if it is to be forgotten.
    let Some(winner) = tables.flow(key) else {
        return Reason::Stateless;
    };
    // Whether answers to both have one key.
    let agreed = same(&winner, flow) && (winner.state ^ flow.state) & state::MASQUERADE == 0;
    if is_ours && !agreed {
        forget_answer(tables, key, flow);
    }
    flow.copy(&winner);
    if flow.is_established() { Reason::EstablishedFlow } else { Reason::HalfOpenFlow }
}

/// Removes the way back of a flow.
#[inline(never)]
fn forget_answer<A: Ip, T: Tables<A>>(tables: &mut T, key: &mut FlowKey<A>, flow: &mut Flow<A>) {
    turn(key, flow);
    tables.remove_flow(key);
    turn(key, flow);
}

/// Whose the answer's tuple is that a flow wants.
#[derive(Clone, Copy)]
enum Holder {
    /// This flow's already.
    This,
    /// This flow's, and the flow is established.
    Established,
    /// Another flow's.
    Other,
}

#[inline(always)]
fn holder<A: Ip, T: Tables<A>>(tables: &T, key: &mut FlowKey<A>, flow: &mut Flow<A>) -> Holder {
    turn(key, flow);
    let holder = match tables.other(key) {
        Some(holder) if same(&holder, flow) && holder.is_established() => Holder::Established,
        Some(holder) if same(&holder, flow) => Holder::This,
        // Also of a flow that is over: the agent removes it soon, and until then another port serves as well.
        _ => Holder::Other,
    };
    turn(key, flow);
    holder
}

/// Removes both entries of a flow.
#[inline(never)]
pub fn remove<A: Ip, T: Tables<A>>(tables: &mut T, key: &mut FlowKey<A>, flow: &mut Flow<A>) {
    tables.remove_flow(key);
    forget_answer(tables, key, flow);
}

/// Notes on both entries that a connection ends. `flow` is a copy of `entry`.
#[inline(never)]
pub fn close<A: Ip, T: Tables<A>>(
    tables: &mut T,
    key: &mut FlowKey<A>,
    flow: &mut Flow<A>,
    entry: &mut T::Entry,
    flags: u8,
) {
    let fin = if flow.state & state::THERE != 0 { state::FIN_THERE } else { state::FIN_BACK };
    let bits = if flags & tcp::RST != 0 { state::RST } else { fin };
    if entry.state & bits == bits {
        return;
    }
    tables.mark(entry, bits);
    turn(key, flow);
    if let Some(mut other) = tables.other(key) {
        tables.mark(&mut other, bits);
    }
    turn(key, flow);
}

/// Takes a connection back for living: a segment that is no reset came after the reset, so the other side did not
/// believe it (RFC 5961, 3.2). `flow` is a copy of `entry`.
#[inline(never)]
pub fn revive<A: Ip, T: Tables<A>>(tables: &mut T, key: &mut FlowKey<A>, flow: &mut Flow<A>, entry: &mut T::Entry) {
    tables.unmark(entry, state::RST);
    turn(key, flow);
    if let Some(mut other) = tables.other(key) {
        tables.unmark(&mut other, state::RST);
    }
    turn(key, flow);
}

/// Makes a half-open pair whole again, and lets each half know what the other knows: that the backend has spoken.
/// Called for each packet of a half-open flow. One that `acknowledges` the backend's answer establishes the flow; where the
/// table has no room for one more of these it stays half-open, which is counted. `flow` is a copy of `entry`.
#[inline(never)]
pub fn half_open<A: Ip, T: Tables<A>>(
    tables: &mut T,
    key: &mut FlowKey<A>,
    flow: &mut Flow<A>,
    entry: &mut T::Entry,
    acknowledges: bool,
) {
    let is_there = entry.state & state::THERE != 0;
    if !is_there {
        if entry.state & state::REPLIED != 0 {
            return;
        }
        tables.mark(entry, state::REPLIED);
        flow.state |= state::REPLIED;
    }
    turn(key, flow);
    let found = tables.other(key);
    if found.is_none() {
        // It was pushed out. A failure here is the next packet's to repair.
        let _ = tables.insert_flow(key, flow);
    }
    turn(key, flow);
    let Some(mut found) = found else { return };
    let both = (found.state | entry.state) & state::REPLIED;
    if both & !found.state != 0 {
        tables.mark(&mut found, both);
    }
    if both & !entry.state != 0 {
        tables.mark(entry, both);
    }
    if is_there && acknowledges && both != 0 {
        // The way back first: an answer must find it as soon as the way there is established.
        if !tables.establish(&mut found) {
            tables.count(Reason::FlowTableFull);
        } else if !tables.establish(entry) {
            tables.unmark(&mut found, state::ESTABLISHED);
            tables.count(Reason::FlowTableFull);
        }
    }
}

/// The bits of [`Filter::Flow`] that the packets of a flow, seen from its entry there, must find set.
#[inline(always)]
pub fn filter_bits<A: Ip>(there: &FlowKey<A>, flow: &Flow<A>) -> [u32; 2] {
    let back = match flow.state & state::MASQUERADE {
        0 => Filter::Flow(Side::Egress).bit(&flow.dst, flow.dport),
        _ => Filter::Flow(Side::Ingress).bit(&flow.src, flow.sport),
    };
    [Filter::Flow(Side::Ingress).bit(&there.dst, there.dport), back]
}
