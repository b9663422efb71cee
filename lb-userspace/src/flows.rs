//! When a flow is over. Pure: entries, tables and time come in, keys to remove come out.
//!
//! A flow is a pair of entries and is judged as one, by the newer of its two packets: one side may be silent for
//! long while the other speaks.

use std::collections::{BTreeMap, HashMap, HashSet};

use lb_common::flow::{mirror, state};
use lb_common::ip::{Be16, Ip};
use lb_common::mem::{Image, Of};
use lb_common::tables::{Flow, FlowKey, FrontendKey, TICK, Table};

use crate::model::Protocol;
use crate::plan::Departed;

/// A connection at rest: more than the 2 h 4 min of RFC 5382 (REQ-5), which a keep-alive every two hours needs, and
/// the 8,000 s that Cilium gives it. Netfilter's five days would let dead peers fill the table.
const ESTABLISHED: u64 = 8_000;
/// One side has said FIN: the transitory timeout of RFC 5382.
const HALF_CLOSED: u64 = 240;
/// Both have: TIME_WAIT, as netfilter has it.
const CLOSED: u64 = 120;
/// One has said RST: time for what is still in flight, as netfilter has it.
const RESET: u64 = 10;
/// An association of SCTP at rest, as netfilter has it: seven heartbeats (RFC 9260, 8.3: every 30 s).
const ASSOCIATION: u64 = 210;
/// One that ends, also with ABORT, as netfilter has it when it is closed. Its 3 s for one that still closes (SHUTDOWN ACK)
/// would be over before that is sent a second time.
const ASSOCIATION_ENDS: u64 = 10;
/// UDP (RFC 4787, REQ-5: at least two minutes).
const DATAGRAMS: u64 = 120;
/// Only one side has spoken. As long as a cookie of SCTP is good for (RFC 9260, 16: Valid.Cookie.Life).
const HALF_OPEN: u64 = 60;
/// How long answers to datagrams may be on their way.
const IN_FLIGHT: u64 = 2;

/// Which backends each frontend has now: what a sweep asks of the image, found once for all flows.
#[derive(Debug)]
pub struct Current<'a, A: Of> {
    image: &'a Image,
    members: HashMap<u32, HashSet<u32>>,
    family: std::marker::PhantomData<A>,
}

impl<'a, A: Of> Current<'a, A> {
    /// Of an image.
    pub fn new(image: &'a Image) -> Self {
        Self { image, members: HashMap::new(), family: std::marker::PhantomData }
    }

    /// Whether a frontend still leads to the backend that a flow goes to, seen from its entry there. Ids may have a second
    /// life, so its address counts, too.
    pub fn leads(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let side = A::side(self.image);
        let frontend = side.frontends.get(&FrontendKey::new(key.dst, key.dport, key.proto));
        let Some(frontend) = frontend else { return false };
        let leads = frontend.tables().any(|table| self.members(table).contains(&flow.backend));
        let backend = side.backends.get(&flow.backend);
        leads && backend.is_some_and(|backend| (backend.addr, backend.port) == (flow.dst, flow.dport))
    }

    /// The same of a socket that was led to a backend at this address and port.
    pub fn leads_to(&mut self, key: &FrontendKey<A>, to: (A, Be16)) -> bool {
        let side = A::side(self.image);
        let Some(frontend) = side.frontends.get(key) else { return false };
        let is_there = |id: &u32| side.backends.get(id).is_some_and(|backend| (backend.addr, backend.port) == to);
        frontend.tables().any(|table| self.members(table).iter().any(is_there))
    }

    fn members(&mut self, table: Table) -> &HashSet<u32> {
        let slots = self.image.runs.get(&table.at);
        let all = || slots.map(|slots| slots.ids().iter().copied().collect()).unwrap_or_default();
        self.members.entry(table.at).or_insert_with(all)
    }
}

/// Whether this is the entry there of datagrams whose backend has left their frontend.
pub fn left_behind<A: Ip>(departed: &Departed<A>, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    let is_there = flow.state & state::THERE != 0 && key.proto == Protocol::Udp.number();
    is_there && {
        let leads = departed.datagrams.get(&FrontendKey::new(key.dst, key.dport, key.proto));
        leads.is_some_and(|leads| leads.lost && leads.now.get(&flow.backend) != Some(&(flow.dst, flow.dport)))
    }
}

/// The entries that are over at `now`, counted as [`Flow::seen`] is. `leads` tells of an entry there of datagrams
/// whether its frontend leads to its backend.
pub fn over<A: Of>(
    entries: &BTreeMap<FlowKey<A>, Flow<A>>,
    mut leads: impl FnMut(&FlowKey<A>, &Flow<A>) -> bool,
    now: u32,
) -> Vec<FlowKey<A>> {
    let mut keys = Vec::new();
    for (key, flow) in entries {
        let (other_key, other) = mirror(key, flow);
        let partner = entries.get(&other_key);
        let is_there = flow.state & state::THERE != 0;
        // A pair is judged at its entry there; an entry that lost its partner, by what that would be.
        if !is_there && partner.is_some() {
            continue;
        }
        let there = if is_there { (key, flow) } else { (&other_key, &other) };
        let seen = partner.map_or(flow.seen, |partner| newer(flow.seen, partner.seen, now));
        let both = flow.state | partner.map_or(0, |partner| partner.state);
        if is_over(there, both, age(seen, now), &mut leads) {
            keys.push(*key);
            keys.extend(partner.map(|_| other_key));
        }
    }
    keys
}

/// Whether an entry that is over goes now. The way there of datagrams goes first, and the way back when it is found alone
/// and silent: a backend that left may just be answering.
pub fn goes_now<A: Of>(entries: &BTreeMap<FlowKey<A>, Flow<A>>, key: &FlowKey<A>, flow: &Flow<A>, now: u32) -> bool {
    let (other, _) = mirror(key, flow);
    let is_first = flow.state & state::THERE != 0 || key.proto != Protocol::Udp.number();
    is_first || !entries.contains_key(&other) && age(flow.seen, now) > ticks(IN_FLIGHT)
}

/// A connection that was silent for so many seconds is not waited for: keep-alives of HTTP/2, of gRPC and of Go's TCP, and
/// heartbeats of SCTP, come more often, and a peer that is dead would hold up the rest.
const QUIET: u64 = 60;
/// One that is over may have its last segment on the way, sent again after a second if it was lost.
const LAST: u64 = 2;

/// How many connections of a table still need their translation at `now`. Datagrams do not: the next one may go to
/// another backend.
pub fn unfinished<A: Of>(entries: &BTreeMap<FlowKey<A>, Flow<A>>, now: u32) -> usize {
    let there =
        entries.iter().filter(|(key, flow)| flow.state & state::THERE != 0 && key.proto != Protocol::Udp.number());
    let needed = there.filter(|(key, flow)| {
        let partner = entries.get(&mirror(key, flow).0);
        let seen = partner.map_or(flow.seen, |partner| newer(flow.seen, partner.seen, now));
        age(seen, now) <= ticks(if flow.over() { LAST } else { QUIET })
    });
    needed.count()
}

fn is_over<A: Of>(
    (key, flow): (&FlowKey<A>, &Flow<A>),
    state: u32,
    age: u32,
    leads: &mut impl FnMut(&FlowKey<A>, &Flow<A>) -> bool,
) -> bool {
    // A connection stays with its backend to its end. A datagram does not: the next one goes to a backend of today.
    age > ticks(timeout(key.proto, state)) || key.proto == Protocol::Udp.number() && !leads(key, flow)
}

/// How long, in seconds, a flow in this state may be silent.
fn timeout(proto: u8, bits: u32) -> u64 {
    let is = |protocol: Protocol| proto == protocol.number();
    let closing = match bits {
        bits if bits & (state::RST | state::FINS) != 0 && is(Protocol::Sctp) => Some(ASSOCIATION_ENDS),
        bits if bits & state::RST != 0 => Some(RESET),
        bits if bits & state::FINS == state::FINS => Some(CLOSED),
        bits if bits & state::FINS != 0 => Some(HALF_CLOSED),
        _ => None,
    };
    match (closing, bits & state::ESTABLISHED != 0) {
        (Some(closing), true) => closing,
        (Some(closing), false) => closing.min(HALF_OPEN),
        (None, false) => HALF_OPEN,
        (None, true) if is(Protocol::Udp) => DATAGRAMS,
        (None, true) if is(Protocol::Sctp) => ASSOCIATION,
        (None, true) => ESTABLISHED,
    }
}

fn ticks(seconds: u64) -> u32 {
    u32::try_from((seconds * 1_000_000_000).div_ceil(TICK)).unwrap_or(u32::MAX)
}

/// The programs' clock and ours are read at different moments: what lies ahead is of now.
fn age(seen: u32, now: u32) -> u32 {
    now.saturating_sub(seen)
}

fn newer(a: u32, b: u32, now: u32) -> u32 {
    if age(a, now) < age(b, now) { a } else { b }
}

#[cfg(test)]
mod tests;
