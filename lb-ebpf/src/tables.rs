//! The kernel's maps as [`Tables`].

use core::ops::Deref;
use core::ptr::NonNull;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::maps::lpm_trie;
use lb_common::flow::table::{self, Snapshot};
use lb_common::route::{Hop, Kept, NextHop, Stamp, Way};
use lb_common::socket;
use lb_common::tables::{
    Affinity, AffinityKey, Backend, Flow, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey, InsertError,
    RangeKey, Refused, SocketKey, SocketPeer, Tables,
};
use lb_common::verdict::Reason;

use crate::atomic;
use crate::fib::Place;
use crate::flow_table::Table;
use crate::maps::{self, Maps};
use crate::socket_table::Bucket;

/// The maps of this object, and the node's routes as they are seen where the program runs.
pub(crate) struct Kernel<P>(pub(crate) P);

/// A copy of a flow entry in memory of this CPU.
pub(crate) struct Entry<A: Maps>(NonNull<Snapshot<A>>);

impl<A: Maps> Deref for Entry<A> {
    type Target = Flow<A>;

    #[inline(always)]
    fn deref(&self) -> &Flow<A> {
        // SAFETY: the memory is this CPU's own, and the program is not moved while it runs.
        unsafe { &self.0.as_ref().flow }
    }
}

impl<A: Maps> Entry<A> {
    #[inline(always)]
    fn snapshot(&mut self) -> &mut Snapshot<A> {
        // SAFETY: as in `deref`.
        unsafe { self.0.as_mut() }
    }

    /// Finds the entry of a key, and copies it to one of the rooms for that.
    #[inline(always)]
    fn find(key: &FlowKey<A>, room: u32) -> Option<Self> {
        let mut entry = Self(NonNull::new(A::snapshots(room)?)?);
        A::find(key, entry.snapshot()).then_some(entry)
    }
}

impl<A: Maps, P: Place> Tables<A> for Kernel<P> {
    type Entry = Entry<A>;

    #[inline(always)]
    fn node(&self) -> A {
        maps::config().map(A::node).unwrap_or_default()
    }

    #[inline(always)]
    fn strangers_until(&self) -> u32 {
        maps::config().map_or(0, |config| config.strangers_until)
    }

    #[inline(always)]
    fn draining(&self) -> bool {
        maps::config().is_some_and(|config| config.draining != 0)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend> {
        // SAFETY: the value is copied at once; the agent writes entries whole.
        unsafe { A::frontends().get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u32> {
        let pair = maps::slots(index / 2)?;
        Some((pair >> (index % 2 * 32)) as u32)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend<A>> {
        A::backend(id).filter(|backend| backend.port.wire() != 0)
    }

    #[inline(always)]
    fn in_source_range(&self, service: u32, source: A) -> bool {
        let whole = size_of::<RangeKey<A>>() as u32 * u8::BITS;
        A::source_ranges().get(lpm_trie::Key::new(whole, RangeKey { service, addr: source })).is_some()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey<A>) -> Option<Affinity> {
        // SAFETY: the value is copied at once. Where another CPU writes it meanwhile, either's is right.
        unsafe { A::affinity().get(key) }.copied()
    }

    #[inline(always)]
    fn set_affinity(&mut self, key: &AffinityKey<A>, to: &Affinity) {
        // An LRU map makes room; should it fail, the client's next flow is led anew.
        let _ = A::affinity().insert(key, to, BPF_ANY.into());
    }

    #[inline(always)]
    fn hop(&self, way: &Way<'_, A>) -> Hop {
        self.0.hop(way)
    }

    #[inline(always)]
    fn epoch(&self) -> u32 {
        maps::epoch()
    }

    #[inline(always)]
    fn at_xdp(&self) -> bool {
        P::XDP
    }

    #[inline(always)]
    fn at_service_device(&self) -> bool {
        self.0.at_service_device()
    }

    #[inline(always)]
    fn inward(&self) -> bool {
        P::INWARD
    }

    #[inline(always)]
    fn source(&self, to: &A, from: u32) -> A {
        self.0.source(to, from).unwrap_or_else(|| Tables::<A>::node(self))
    }

    #[inline(always)]
    fn device(&self, index: u32) -> u32 {
        maps::device(index).unwrap_or_default()
    }

    #[inline(always)]
    fn filtered(&self, bit: u32) -> bool {
        // SAFETY: the pointer is into the array, which is never freed while a program uses it.
        maps::filter(bit / 64).is_some_and(|word| unsafe { word.read_volatile() } >> (bit % 64) & 1 != 0)
    }

    #[inline(always)]
    fn set_filter(&mut self, bit: u32) {
        if let Some(word) = maps::filter(bit / 64) {
            // Mostly it is set, and a write would take the line from other CPUs.
            if !Tables::<A>::filtered(self, bit) {
                // SAFETY: as above; array elements of 8 bytes are aligned.
                unsafe { atomic::or64(word, 1 << (bit % 64)) };
            }
        }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey<A>) -> Option<Entry<A>> {
        Entry::find(key, 0)
    }

    #[inline(always)]
    fn other(&self, key: &FlowKey<A>) -> Option<Entry<A>> {
        Entry::find(key, 1)
    }

    #[inline(always)]
    fn met(&mut self, key: &FlowKey<A>, now: u32, from: u32) -> Option<(Flow<A>, Kept)> {
        // Not by `table::find_by`: a closure that is called twice may come out of line, and cannot hand back a copy on the stack.
        let mut entry = match table::read(&Table::<A>::new(), key, table::HOME) {
            Some(entry) => entry,
            None => table::read(&Table::<A>::new(), key, A::search(key))?,
        };
        let mut kept = Kept::NOTHING;
        if entry.flow.seen != now {
            entry.touch(&Table::<A>::new(), now);
        } else if entry.flow.leaves() {
            kept = entry.kept(&Table::<A>::new(), &Stamp { epoch: maps::epoch(), now, from, xdp: P::XDP });
        }
        Some((entry.flow, kept))
    }

    #[inline(always)]
    fn keep(&mut self, key: &FlowKey<A>, next: &NextHop, stamp: &Stamp) {
        if let Some(mut entry) = Tables::<A>::flow(self, key) {
            entry.snapshot().keep(&Table::<A>::new(), next, stamp);
        }
    }

    #[inline(always)]
    fn insert_flow(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), InsertError> {
        A::insert(key, flow)
    }

    #[inline(always)]
    fn insert_both(&mut self, key: &mut FlowKey<A>, flow: &mut Flow<A>) -> Result<(), Refused> {
        A::insert_both(key, flow)
    }

    #[inline(always)]
    fn remove_flow(&mut self, key: &FlowKey<A>) {
        if let Some(mut entry) = Tables::<A>::other(self, key) {
            // Another CPU may have removed it: that is as good.
            entry.snapshot().remove(&Table::<A>::new());
        }
    }

    #[inline(always)]
    fn establish(&mut self, entry: &mut Entry<A>) -> bool {
        entry.snapshot().establish(&Table::<A>::new())
    }

    #[inline(always)]
    fn touch(&mut self, entry: &mut Entry<A>, now: u32) {
        entry.snapshot().touch(&Table::<A>::new(), now);
    }

    #[inline(always)]
    fn mark(&mut self, entry: &mut Entry<A>, bits: u32) {
        entry.snapshot().mark(&Table::<A>::new(), bits);
    }

    #[inline(always)]
    fn unmark(&mut self, entry: &mut Entry<A>, bits: u32) {
        entry.snapshot().unmark(&Table::<A>::new(), bits);
    }

    #[inline(always)]
    fn pass(&mut self, flow: &Flow<A>, reason: Reason) {
        if let Some(room) = A::passed() {
            // SAFETY: the element is this CPU's own, and a program is not moved while it runs.
            unsafe { (*room).flow = *flow };
            // SAFETY: as above.
            unsafe { (*room).reason = reason as u32 };
        }
    }

    #[inline(always)]
    fn passed(&mut self) -> Option<(Flow<A>, Reason)> {
        // SAFETY: as in `pass`; nothing runs between two stages of a packet.
        A::passed().map(|room| unsafe { ((*room).flow, Reason::of_flow((*room).reason)) })
    }

    #[inline(always)]
    fn remember(&mut self, key: &SocketKey<A>, peer: &SocketPeer<A>) {
        if let Some(mut bucket) = Bucket::of(key) {
            socket::table::put(&mut bucket, key, peer);
        }
    }

    #[inline(always)]
    fn remembered(&self, key: &SocketKey<A>) -> Option<SocketPeer<A>> {
        socket::table::find(&Bucket::of(key)?, key)
    }

    #[inline(always)]
    fn remember_fragment(&mut self, key: &FragmentKey<A>, ports: &FragmentPorts) {
        // An LRU map makes room; should it fail, the fragments behind this one are not known.
        let _ = A::fragments().insert(key, ports, BPF_ANY.into());
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts> {
        // SAFETY: the value is copied at once.
        unsafe { A::fragments().get(key) }.copied()
    }

    #[inline(always)]
    fn carried(&mut self, service: u32, is_answer: bool, bytes: u32) {
        if let Some(traffic) = maps::traffic(service) {
            let way = usize::from(is_answer);
            // SAFETY: the element is this CPU's own, and a program is not moved while it runs.
            unsafe {
                (*traffic).packets[way] += 1;
                (*traffic).bytes[way] += u64::from(bytes);
            }
        }
    }

    #[inline(always)]
    fn opened(&mut self, service: u32) {
        if let Some(traffic) = maps::traffic(service) {
            // SAFETY: as in `carried`.
            unsafe { (*traffic).connections += 1 };
        }
    }

    #[inline(always)]
    fn count(&mut self, reason: Reason) {
        maps::count(reason);
    }
}
