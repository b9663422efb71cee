//! Flows: pairs of entries, there (client to backend) and back, made, promoted and removed as one.
//!
//! Each entry of a pair can be computed from the other ([`mirror`]), so a pair that lost one half in the LRU table is
//! made whole by the next packet of the other half.

use crate::csum;
use crate::ip::{Be16, Ip};
use crate::packet::{Ports, tcp};
use crate::parse::Parsed;
use crate::tables::{Backend, Filter, Flow, FlowKey, FlowTable, Frontend, InsertError, Side, Tables};
use crate::verdict::Reason;

/// Bits of [`Flow::state`].
pub mod state {
    /// The entry translates from client to backend; the other of the pair does not have this bit.
    pub const THERE: u32 = 1;
    /// Both entries apply at ingress: the backend answers to the node, not to the client.
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
    /// Both have said FIN.
    pub const FINS: u32 = FIN_THERE | FIN_BACK;
}

/// Source ports for masqueraded flows, clear of the host's ephemeral ports (from 32768, `ip_local_port_range`) and of
/// NodePorts (from 30000).
const PORTS: core::ops::Range<u16> = 1024..30_000;

/// Source ports that are tried before a flow is given up.
const TRIES: u32 = 8;

impl<A: Ip> Flow<A> {
    /// Whether the connection is over, so that its ports may be used anew.
    #[inline(always)]
    pub const fn over(&self) -> bool {
        self.state & state::RST != 0 || self.state & state::FINS == state::FINS
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

/// A flow to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening<A: Ip> {
    /// The frontend that the client called.
    pub frontend: Frontend,
    /// The backend that was chosen.
    pub backend: Backend<A>,
    /// Its id.
    pub id: u32,
    /// [`state::MASQUERADE`] or [`state::HAIRPIN`], or neither.
    pub state: u32,
}

/// The entry that leads `parsed` to the backend, its source `from` and `sport`.
#[inline(always)]
pub fn there<A: Ip>(parsed: &Parsed<A>, opening: &Opening<A>, from: A, sport: Be16, now: u32) -> Flow<A> {
    let to = opening.backend;
    let Ports { src: old_sport, dst: old_dport } = parsed.ports;
    Flow {
        src: from,
        dst: to.addr,
        sport,
        dport: to.port,
        addrs: csum::addresses([&parsed.src, &parsed.dst], [&from, &to.addr]),
        ports: csum::words([old_sport.wire(), old_dport.wire()], [sport.wire(), to.port.wire()]),
        state: state::THERE | opening.state,
        seen: now,
        backend: opening.id,
        service: opening.frontend.service,
    }
}

/// Opens a flow for its first packet: claims the answer's tuple, with another source port where a different flow has
/// it, and then adds the entry there. The result is what to do with the packet.
///
/// # Errors
/// [`Reason::NoSourcePort`] where no source port was free.
#[inline(always)]
pub fn open<A: Ip, T: Tables<A>>(
    tables: &mut T,
    parsed: &Parsed<A>,
    opening: &Opening<A>,
    hash: u32,
    now: u32,
) -> Result<(Flow<A>, Reason), Reason> {
    let key = parsed.key(Side::Ingress);
    let from = if opening.state & state::MASQUERADE == 0 { parsed.src } else { tables.node() };
    for attempt in 0..TRIES {
        let sport = source_port(parsed.ports.src, opening.state, attempt, hash);
        let flow = there(parsed, opening, from, sport, now);
        let (back_key, back) = mirror(&key, &flow);
        let claimed = match claim(tables, &back_key, &back) {
            Claim::Taken => continue,
            Claim::Stateless => return Ok((flow, Reason::Stateless)),
            Claim::Ours => true,
            Claim::Was => false,
        };
        tables.set_filter(Filter::Backend.bit(&opening.backend.addr, opening.backend.port));
        return match tables.insert_flow(FlowTable::HalfOpen, &key, &flow) {
            Ok(()) => Ok((flow, Reason::NewFlow)),
            Err(error) => {
                // Another CPU was first with a packet of the same flow: both go where its entry says.
                let winner = tables.flow(FlowTable::HalfOpen, &key).map(|entry| *entry);
                if claimed && winner.is_none_or(|winner| mirror(&key, &winner).0 != back_key) {
                    tables.remove_flow(FlowTable::HalfOpen, &back_key);
                }
                let reason = if error == InsertError::Exists { Reason::HalfOpenFlow } else { Reason::Stateless };
                Ok((winner.unwrap_or(flow), reason))
            }
        };
    }
    Err(Reason::NoSourcePort)
}

/// The source port of an attempt: the client's own first, where it is the client's to choose.
#[inline(always)]
fn source_port(own: Be16, state: u32, attempt: u32, hash: u32) -> Be16 {
    // Under the node's address a port of the ephemeral range could be a socket of the host itself.
    let free = state & state::MASQUERADE == 0 || PORTS.contains(&own.get());
    if attempt == 0 && free {
        return own;
    }
    let span = u32::from(PORTS.end - PORTS.start);
    // An odd stride walks through other ports from each start.
    let offset = hash.wrapping_add(attempt.wrapping_mul(hash >> 16 | 1)) % span;
    Be16::new(PORTS.start + offset as u16)
}

enum Claim {
    /// The answer's tuple is ours now.
    Ours,
    /// It was this flow's already.
    Was,
    /// It is another flow's.
    Taken,
    /// The table takes no entry.
    Stateless,
}

#[inline(always)]
fn claim<A: Ip, T: Tables<A>>(tables: &mut T, key: &FlowKey<A>, back: &Flow<A>) -> Claim {
    let same = |holder: &Flow<A>| {
        holder.src == back.src && holder.dst == back.dst && holder.sport == back.sport && holder.dport == back.dport
    };
    if let Some(holder) = tables.flow(FlowTable::Established, key) {
        if !same(&holder) && !holder.over() {
            return Claim::Taken;
        }
        // What is left of this flow, or of one that is over, gives way.
        tables.remove_flow(FlowTable::Established, key);
    }
    match tables.insert_flow(FlowTable::HalfOpen, key, back) {
        Ok(()) => Claim::Ours,
        Err(InsertError::Full) => Claim::Stateless,
        Err(InsertError::Exists) => match tables.flow(FlowTable::HalfOpen, key) {
            Some(holder) if same(&holder) => Claim::Was,
            _ => Claim::Taken,
        },
    }
}

/// Removes both entries of a flow.
#[inline(always)]
pub fn remove<A: Ip, T: Tables<A>>(tables: &mut T, table: FlowTable, key: &FlowKey<A>, flow: &Flow<A>) {
    let (other, _) = mirror(key, flow);
    tables.remove_flow(table, key);
    tables.remove_flow(table, &other);
}

/// Moves a flow both of whose sides have spoken to the table that nothing evicts. When that is full the flow stays
/// where it is, which is counted.
#[inline(always)]
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
#[inline(always)]
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

/// Makes a half-open pair whole again and notes when the backend spoke first. Called for each packet of the way back
/// until it was noted, and for each packet there until then.
#[inline(always)]
pub fn half_open<A: Ip, T: Tables<A>>(tables: &mut T, key: &FlowKey<A>, entry: &mut T::Entry) {
    if entry.state & state::REPLIED != 0 {
        return;
    }
    let bits = if entry.state & state::THERE != 0 { 0 } else { state::REPLIED };
    if bits != 0 {
        tables.mark(entry, bits);
    }
    let (other_key, mut other) = mirror(key, entry);
    match tables.flow(FlowTable::HalfOpen, &other_key) {
        Some(mut found) if bits != 0 => tables.mark(&mut found, bits),
        Some(_) => {}
        None => {
            // The LRU table took it. A failure here is the next packet's to repair.
            other.state |= bits;
            let _ = tables.insert_flow(FlowTable::HalfOpen, &other_key, &other);
        }
    }
}
