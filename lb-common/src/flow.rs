//! Flows: pairs of entries, there (client to backend) and back, made, promoted and removed as one.
//!
//! Each entry of a pair can be computed from the other ([`mirror`]), so a pair that lost one half in the LRU table is
//! made whole by the next packet of the other half.
//!
//! What few packets need stays out of line: the kernel gives all that a program inlines one stack of 512 bytes.

use crate::csum;
use crate::hash;
use crate::ip::{Be16, Ip};
use crate::packet::tcp;
use crate::tables::{Backend, Filter, Flow, FlowKey, FlowTable, InsertError, Side, Tables};
use crate::verdict::Reason;

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
    /// Both have said FIN.
    pub const FINS: u32 = FIN_THERE | FIN_BACK;
}

/// Source ports for masqueraded flows, clear of the host's ephemeral ports (from 32768, `ip_local_port_range`) and of
/// NodePorts (from 30000).
const PORTS: core::ops::Range<u16> = 1024..30_000;

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
        ..*flow
    };
    (other, back)
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

/// Source ports that are tried before a flow is given up: where nine of ten are taken, one in five such flows.
const TRIES: u32 = 16;

/// Gives a flow another source port than its first, one whose answers no other flow has; the last one tried where there
/// is none. Only looks, so that many tries cost the kernel's verifier little.
#[inline(never)]
pub fn search_source_port<A: Ip, T: Tables<A>>(tables: &T, key: &FlowKey<A>, flow: &mut Flow<A>) {
    for attempt in 1..TRIES {
        set_source_port(key, flow, attempt);
        let (back_key, _) = mirror(key, flow);
        let is_free = |table| tables.flow(table, &back_key).is_none();
        if is_free(FlowTable::Established) && is_free(FlowTable::HalfOpen) {
            return;
        }
    }
}

/// Gives a flow the source port of an attempt: the client's own first, where it is the client's to choose.
#[inline(never)]
pub fn set_source_port<A: Ip>(key: &FlowKey<A>, flow: &mut Flow<A>, attempt: u32) {
    // Under the node's address a port of the ephemeral range could be a socket of the host itself.
    let free = flow.state & state::MASQUERADE == 0 || PORTS.contains(&key.sport.get());
    flow.sport = if attempt == 0 && free {
        key.sport
    } else {
        let hash = hash::tuple(&key.src, key.sport, &key.dst, key.dport, key.proto);
        let span = u32::from(PORTS.end - PORTS.start);
        // An odd stride walks through other ports from each start.
        let offset = hash.wrapping_add(attempt.wrapping_mul(hash >> 16 | 1)) % span;
        Be16::new(PORTS.start + offset as u16)
    };
    flow.ports = csum::words([key.sport.wire(), key.dport.wire()], [flow.sport.wire(), flow.dport.wire()]);
}

/// Whether the way back of a flow is there, so that only its entry there was lost: the LRU table takes them one by one.
#[inline(never)]
pub fn has_way_back<A: Ip, T: Tables<A>>(tables: &T, key: &FlowKey<A>, flow: &mut Flow<A>) -> bool {
    // Another port than the first was only taken where that was another flow's.
    set_source_port(key, flow, 0);
    let (back_key, back) = mirror(key, flow);
    let is_there = |table| tables.flow(table, &back_key).is_some_and(|holder| same(&holder, &back));
    is_there(FlowTable::HalfOpen) || is_there(FlowTable::Established)
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
#[inline(never)]
pub fn open<A: Ip, T: Tables<A>>(tables: &mut T, key: &FlowKey<A>, flow: &mut Flow<A>) -> Reason {
    let (back_key, back) = mirror(key, flow);
    let claimed = match claim(tables, &back_key, &back) {
        Claim::Taken => return Reason::NoSourcePort,
        Claim::Stateless => return Reason::Stateless,
        Claim::Established => {
            // Another CPU promoted this flow between our two look-ups.
            if let Some(entry) = tables.flow(FlowTable::Established, key) {
                *flow = *entry;
                return Reason::EstablishedFlow;
            }
            tables.remove_flow(FlowTable::Established, &back_key);
            return Reason::Stateless;
        }
        Claim::Ours => true,
        Claim::Was => false,
    };
    for bit in filter_bits(key, flow) {
        tables.set_filter(bit);
    }
    if tables.insert_flow(FlowTable::HalfOpen, key, flow).is_ok() {
        return Reason::NewFlow;
    }
    let Some(winner) = tables.flow(FlowTable::HalfOpen, key) else {
        return Reason::Stateless;
    };
    let agreed = winner.dst == flow.dst && winner.dport == flow.dport && winner.sport == flow.sport;
    *flow = *winner;
    if claimed && !agreed {
        tables.remove_flow(FlowTable::HalfOpen, &back_key);
    }
    Reason::HalfOpenFlow
}

enum Claim {
    /// The answer's tuple is ours now.
    Ours,
    /// It was this flow's already.
    Was,
    /// It is another flow's.
    Taken,
    /// It is this flow's, and the flow is established.
    Established,
    /// The table takes no entry.
    Stateless,
}

#[inline(always)]
fn claim<A: Ip, T: Tables<A>>(tables: &mut T, key: &FlowKey<A>, back: &Flow<A>) -> Claim {
    if let Some(holder) = tables.flow(FlowTable::Established, key) {
        // Also of a flow that is over: to remove its other half, too, takes more stack than is left here. The agent
        // does it soon, and until then another port serves as well.
        return if same(&holder, back) { Claim::Established } else { Claim::Taken };
    }
    match tables.insert_flow(FlowTable::HalfOpen, key, back) {
        Ok(()) => Claim::Ours,
        Err(InsertError::Full) => Claim::Stateless,
        Err(InsertError::Exists) => match tables.flow(FlowTable::HalfOpen, key) {
            Some(holder) if same(&holder, back) => Claim::Was,
            _ => Claim::Taken,
        },
    }
}

/// Removes both entries of a flow.
#[inline(never)]
pub fn remove<A: Ip, T: Tables<A>>(tables: &mut T, table: FlowTable, key: &FlowKey<A>, flow: &Flow<A>) {
    let (other, _) = mirror(key, flow);
    tables.remove_flow(table, key);
    tables.remove_flow(table, &other);
}

/// Moves a flow both of whose sides have spoken to the table that nothing evicts. When that is full the flow stays
/// where it is, which is counted.
#[inline(never)]
pub fn promote<A: Ip, T: Tables<A>>(tables: &mut T, key: &FlowKey<A>, flow: &Flow<A>) {
    let (back_key, back) = mirror(key, flow);
    // The way back first: an answer must find it as soon as the way there is established.
    if tables.insert_flow(FlowTable::Established, &back_key, &back) == Err(InsertError::Full) {
        tables.count(Reason::FlowTableFull);
        return;
    }
    if tables.insert_flow(FlowTable::Established, key, flow) == Err(InsertError::Full) {
        tables.remove_flow(FlowTable::Established, &back_key);
        tables.count(Reason::FlowTableFull);
        return;
    }
    tables.remove_flow(FlowTable::HalfOpen, key);
    tables.remove_flow(FlowTable::HalfOpen, &back_key);
}

/// Notes on both entries that a connection ends.
#[inline(never)]
pub fn close<A: Ip, T: Tables<A>>(tables: &mut T, table: FlowTable, key: &FlowKey<A>, entry: &mut T::Entry, flags: u8) {
    let fin = if entry.state & state::THERE != 0 { state::FIN_THERE } else { state::FIN_BACK };
    let bits = if flags & tcp::RST != 0 { state::RST } else { fin };
    if entry.state & bits == bits {
        return;
    }
    let (other, _) = mirror(key, entry);
    tables.mark(entry, bits);
    if let Some(mut other) = tables.flow(table, &other) {
        tables.mark(&mut other, bits);
    }
}

/// Takes a connection back for living: a segment that is no reset came after the reset, so the other side did not
/// believe it (RFC 5961, 3.2).
#[inline(never)]
pub fn revive<A: Ip, T: Tables<A>>(tables: &mut T, table: FlowTable, key: &FlowKey<A>, entry: &mut T::Entry) {
    let (other, _) = mirror(key, entry);
    tables.unmark(entry, state::RST);
    if let Some(mut other) = tables.flow(table, &other) {
        tables.unmark(&mut other, state::RST);
    }
}

/// Makes a half-open pair whole again, and lets each half know what the other knows: that the backend has spoken.
/// Called for each packet of a half-open flow.
#[inline(never)]
pub fn half_open<A: Ip, T: Tables<A>>(tables: &mut T, key: &FlowKey<A>, entry: &mut T::Entry) {
    if entry.state & state::THERE == 0 {
        if entry.state & state::REPLIED != 0 {
            return;
        }
        tables.mark(entry, state::REPLIED);
    }
    let (other_key, other) = mirror(key, entry);
    match tables.flow(FlowTable::HalfOpen, &other_key) {
        Some(mut found) => {
            let both = (found.state | entry.state) & state::REPLIED;
            if both & !found.state != 0 {
                tables.mark(&mut found, both);
            }
            if both & !entry.state != 0 {
                tables.mark(entry, both);
            }
        }
        // The LRU table took it. A failure here is the next packet's to repair.
        None => drop(tables.insert_flow(FlowTable::HalfOpen, &other_key, &other)),
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
