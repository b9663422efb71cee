//! The maps in memory, as the decisions ask them.

use std::ops::Deref;

use super::{Native, Of};
use crate::flow::state;
use crate::ip::Ip;
use crate::route::{Hop, Kept, NextHop, Stamp, Way};
use crate::tables::{
    Affinity, AffinityKey, Backend, Flow, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey, InsertError,
    RangeKey, SocketKey, SocketPeer, Tables, Traffic,
};
use crate::verdict::Reason;

impl Native {
    /// A next hop, and how long a packet it takes.
    fn measured(&self, next: &NextHop) -> NextHop {
        NextHop { mtu: self.longest.min(u16::MAX.into()) as u16, ..*next }
    }
}

/// Whether an address is in a range whose prefix is `len` bits long, those of the Service's id included.
fn covers<A: Ip>(range: &RangeKey<A>, len: u32, addr: A) -> bool {
    let mut rest = len.saturating_sub(u32::BITS);
    range.addr.words().iter().zip(addr.words()).all(|(range, word)| {
        let bits = rest.min(u32::BITS);
        rest -= bits;
        let mask = u32::MAX.checked_shl(u32::BITS - bits).unwrap_or(0);
        (u32::from_be(*range) ^ u32::from_be(*word)) & mask == 0
    })
}

/// A copy of a flow entry, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Entry<A: Ip> {
    key: FlowKey<A>,
    flow: Flow<A>,
}

impl<A: Ip> Deref for Entry<A> {
    type Target = Flow<A>;

    fn deref(&self) -> &Flow<A> {
        &self.flow
    }
}

impl<A: Of> Tables<A> for Native {
    type Entry = Entry<A>;

    fn node(&self) -> A {
        A::node(&self.image.config)
    }

    fn strangers_until(&self) -> u32 {
        self.image.config.strangers_until
    }

    fn draining(&self) -> bool {
        self.image.config.draining != 0
    }

    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend> {
        A::side(&self.image).frontends.get(key).copied()
    }

    fn slot(&self, index: u32) -> Option<u32> {
        let (first, run) = self.image.runs.range(..=index).next_back()?;
        run.get((index - first) as usize)
    }

    fn backend(&self, id: u32) -> Option<Backend<A>> {
        A::side(&self.image).backends.get(&id).copied()
    }

    fn in_source_range(&self, service: u32, source: A) -> bool {
        A::side(&self.image).ranges.iter().any(|(range, len)| range.service == service && covers(range, *len, source))
    }

    fn affinity(&self, key: &AffinityKey<A>) -> Option<Affinity> {
        A::flows(self).affinity.get(key).copied()
    }

    fn set_affinity(&mut self, key: &AffinityKey<A>, to: &Affinity) {
        A::flows_mut(self).affinity.insert(*key, *to);
    }

    fn hop(&self, way: &Way<'_, A>) -> Hop {
        match self.hops.get(&way.flow.dst.into()) {
            Some(Hop::Nowhere) | None => Hop::Nowhere,
            Some(_) if way.len > self.longest => Hop::TooLong { mtu: self.longest as u16 },
            Some(Hop::Direct(next)) => Hop::Direct(self.measured(next)),
            Some(Hop::Neighbour(next)) => Hop::Neighbour(self.measured(next)),
            Some(hop) => *hop,
        }
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn at_xdp(&self) -> bool {
        self.at_xdp
    }

    fn at_service_device(&self) -> bool {
        self.at_service_device
    }

    fn inward(&self) -> bool {
        self.inward
    }

    fn source(&self, _to: &A, _from: u32) -> A {
        self.node()
    }

    fn device(&self, index: u32) -> u32 {
        self.devices.get(&index).copied().unwrap_or_default()
    }

    fn filtered(&self, bit: u32) -> bool {
        self.filter.contains(&bit)
    }

    fn set_filter(&mut self, bit: u32) {
        self.filter.insert(bit);
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<Entry<A>> {
        let flow = *A::flows(self).flows.get(key)?;
        Some(Entry { key: *key, flow })
    }

    fn met(&mut self, key: &FlowKey<A>, now: u32, from: u32) -> Option<(Flow<A>, Kept)> {
        let mut entry = self.flow(key)?;
        let is_new = entry.seen != now;
        if is_new {
            self.touch(&mut entry, now);
        }
        let (epoch, xdp) = (self.epoch, self.at_xdp);
        let own = Stamp { epoch, now, from, xdp };
        let kept = match A::flows(self).next_hops.get(key) {
            Some((stamp, next)) if *stamp == own => Kept { next: *next, ..Kept::NOTHING },
            Some((stamp, _)) if xdp && *stamp == (Stamp { xdp: false, ..own }) => {
                Kept { hand_over: true, ..Kept::NOTHING }
            }
            _ => Kept::NOTHING,
        };
        Some((*entry, if is_new { Kept::NOTHING } else { kept }))
    }

    fn keep(&mut self, key: &FlowKey<A>, next: &NextHop, stamp: &Stamp) {
        let flows = A::flows_mut(self);
        if let Some(flow) = flows.flows.get_mut(key) {
            flow.seen = stamp.now;
            flows.next_hops.insert(*key, (*stamp, *next));
        }
    }

    fn insert_flow(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), InsertError> {
        let capacity = self.capacity;
        let flows = A::flows_mut(self);
        if flows.flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if flows.flows.len() >= capacity && flows.entries(false).count() >= capacity {
            let victim = flows.entries(false).map(|(key, _)| *key).next();
            if let Some(victim) = victim {
                flows.flows.remove(&victim);
                flows.next_hops.remove(&victim);
            }
        }
        flows.flows.insert(*key, Flow { state: flow.state & state::KEPT, ..*flow });
        Ok(())
    }

    fn remove_flow(&mut self, key: &FlowKey<A>) {
        let flows = A::flows_mut(self);
        flows.flows.remove(key);
        flows.next_hops.remove(key);
    }

    fn establish(&mut self, entry: &mut Entry<A>) -> bool {
        let flows = A::flows(self);
        let is_full = flows.flows.len() >= self.capacity && flows.entries(true).count() >= self.capacity;
        if !is_full {
            self.mark(entry, state::ESTABLISHED);
        }
        !is_full
    }

    fn touch(&mut self, entry: &mut Entry<A>, now: u32) {
        entry.flow.seen = now;
        if let Some(flow) = A::flows_mut(self).flows.get_mut(&entry.key) {
            flow.seen = now;
        }
    }

    fn mark(&mut self, entry: &mut Entry<A>, bits: u32) {
        entry.flow.state |= bits;
        if let Some(flow) = A::flows_mut(self).flows.get_mut(&entry.key) {
            flow.state |= bits;
        }
    }

    fn unmark(&mut self, entry: &mut Entry<A>, bits: u32) {
        entry.flow.state &= !bits;
        if let Some(flow) = A::flows_mut(self).flows.get_mut(&entry.key) {
            flow.state &= !bits;
        }
    }

    fn pass(&mut self, flow: &Flow<A>, reason: Reason) {
        A::flows_mut(self).passed = Some((*flow, reason));
    }

    fn passed(&mut self) -> Option<(Flow<A>, Reason)> {
        A::flows_mut(self).passed.take()
    }

    fn remember(&mut self, key: &SocketKey<A>, peer: &SocketPeer<A>) {
        A::flows_mut(self).sockets.insert(*key, *peer);
    }

    fn remembered(&self, key: &SocketKey<A>) -> Option<SocketPeer<A>> {
        A::flows(self).sockets.get(key).copied()
    }

    fn remember_fragment(&mut self, key: &FragmentKey<A>, ports: &FragmentPorts) {
        A::flows_mut(self).fragments.insert(*key, *ports);
    }

    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts> {
        A::flows(self).fragments.get(key).copied()
    }

    fn carried(&mut self, service: u32, is_answer: bool, bytes: u32) {
        let traffic = self.traffic.entry(service).or_insert(Traffic::NONE);
        let way = usize::from(is_answer);
        traffic.packets[way] += 1;
        traffic.bytes[way] += u64::from(bytes);
    }

    fn opened(&mut self, service: u32) {
        self.traffic.entry(service).or_insert(Traffic::NONE).connections += 1;
    }

    fn count(&mut self, reason: Reason) {
        *self.counters.entry(reason).or_default() += 1;
    }
}
