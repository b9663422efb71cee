//! The maps, each declared once. Names, keys, values and capacities are those of [`lb_common::tables`].

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{self, ArrayOfMaps};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray};
use lb_common::clock::Jiffies;
use lb_common::datapath::Stage;
use lb_common::flow::table::{Snapshot, bucket_words, buckets_for};
use lb_common::ip::{Family, V4, V6};
use lb_common::summed::Place;
use lb_common::tables::{
    Affinity, AffinityKey, Backend, Config, Filter, FragmentKey, FragmentPorts, Frontend, FrontendKey, Name, Passed,
    RangeKey, SocketBucket, Traffic, map as shape,
};
use lb_common::verdict::Reason;

use crate::fib::Routed;
use crate::flow_table::Far;

#[map]
static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map]
static EPOCH: Array<u64> = Array::pinned(1, BPF_F_MMAPABLE);
// A look-up in an array of arrays is two reads of memory, and only a first packet makes one.
#[btf_map]
static SLOTS: ArrayOfMaps<btf_maps::Array<u64, PAIRS, MMAPABLE>, CHUNKS> = ArrayOfMaps::new();
/// Pairs of slots in a chunk.
const PAIRS: usize = (shape::SLOTS_CHUNK / 2) as usize;
const CHUNKS: usize = (shape::SLOTS_CAPACITY / shape::SLOTS_CHUNK) as usize;
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// The backends of a family.
type Backends<A> = ArrayOfMaps<btf_maps::Array<Backend<A>, BACKENDS, MMAPABLE>, BACKEND_CHUNKS>;
/// Backends in a chunk.
const BACKENDS: usize = shape::BACKENDS_CHUNK as usize;
const BACKEND_CHUNKS: usize = (shape::BACKENDS_CAPACITY / shape::BACKENDS_CHUNK) as usize;
/// What Service ports carry, on each CPU.
#[btf_map]
static TRAFFIC: ArrayOfMaps<btf_maps::PerCpuArray<Traffic, PORTS>, PORT_CHUNKS> = ArrayOfMaps::new();
/// Service ports in a chunk.
const PORTS: usize = shape::TRAFFIC_CHUNK as usize;
const PORT_CHUNKS: usize = (shape::TRAFFIC_CAPACITY / shape::TRAFFIC_CHUNK) as usize;
#[map]
static FILTER: Array<u64> = Array::pinned(Filter::WORDS, BPF_F_MMAPABLE);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(Reason::COUNT, 0);
#[map]
static DEVICES: HashMap<u32, u32> = HashMap::pinned(shape::DEVICES_CAPACITY, BPF_F_NO_PREALLOC);
// Read by people only. Like all maps that change slowly it takes memory only for what it holds.
#[map]
static NAMES: HashMap<u32, Name> = HashMap::pinned(shape::NAMES_CAPACITY, BPF_F_NO_PREALLOC);

// One array a hook: what a program may call must be of its own kind, and of its side of a device.
#[map]
pub(crate) static XDP_INGRESS: ProgramArray = ProgramArray::pinned(STAGES, 0);
#[map]
pub(crate) static TC_INGRESS: ProgramArray = ProgramArray::pinned(STAGES, 0);
#[map]
pub(crate) static TC_EGRESS: ProgramArray = ProgramArray::pinned(STAGES, 0);
const STAGES: u32 = Stage::ALL.len() as u32;

/// Goes on in the program of a stage. Comes back only where the agent has not put it there, and says so.
#[inline(always)]
pub(crate) fn call<C: EbpfContext>(programs: &'static ProgramArray, ctx: &C, stage: Stage) -> Reason {
    let ctx = ctx.as_ptr();
    // SAFETY: nothing of this run is needed any more, and nothing of it has to be dropped.
    unsafe {
        match stage {
            Stage::First(Family::V4) => tail_call::<{ Stage::First(Family::V4).index() }>(ctx, programs),
            Stage::First(Family::V6) => tail_call::<{ Stage::First(Family::V6).index() }>(ctx, programs),
            Stage::Flows(Family::V4) => tail_call::<{ Stage::Flows(Family::V4).index() }>(ctx, programs),
            Stage::Flows(Family::V6) => tail_call::<{ Stage::Flows(Family::V6).index() }>(ctx, programs),
            Stage::Onward(Family::V4) => tail_call::<{ Stage::Onward(Family::V4).index() }>(ctx, programs),
            Stage::Onward(Family::V6) => tail_call::<{ Stage::Onward(Family::V6).index() }>(ctx, programs),
            Stage::Portless(Family::V4) => tail_call::<{ Stage::Portless(Family::V4).index() }>(ctx, programs),
            Stage::Portless(Family::V6) => tail_call::<{ Stage::Portless(Family::V6).index() }>(ctx, programs),
            Stage::TooLong(Family::V4) => tail_call::<{ Stage::TooLong(Family::V4).index() }>(ctx, programs),
            Stage::TooLong(Family::V6) => tail_call::<{ Stage::TooLong(Family::V6).index() }>(ctx, programs),
        }
    }
    count(Reason::NoProgram);
    Reason::NoProgram
}

/// Counts a packet.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the element is this CPU's own, and a program is not moved while it runs.
        unsafe { *counter += 1 };
    }
}

/// Calls the program at an index that stands in the code. The kernel makes a plain jump of that; where the index is in a
/// register, it is an indirect one, which many CPUs may not guess (retpolines).
///
/// # Safety
/// On success it never returns, so nothing may wait to be dropped.
#[inline(always)]
unsafe fn tail_call<const INDEX: u32>(ctx: *mut c_void, programs: &'static ProgramArray) {
    // SAFETY: helper 12, bpf_tail_call, takes the context, an array of programs and an index, and clobbers what helpers do.
    unsafe {
        asm!(
            "r3 = {index}",
            "call 12",
            index = const INDEX,
            inlateout("r1") ctx => _,
            inlateout("r2") core::ptr::from_ref(programs) => _,
            lateout("r0") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
}

/// Of the tables of flows, by family: buckets, and above these bits the seed. The agent says so when it loads the programs.
#[unsafe(no_mangle)]
static FLOWS_SHAPE: [u64; 2] = [0; 2];

/// Of the tables that entries are moved from, by family: buckets, or 0 where there is none, as nearly always. The agent says so,
/// too. The verifier knows the number, and drops what is for two tables where there is one.
#[unsafe(no_mangle)]
static FLOWS_OLD: [u64; 2] = [0; 2];

/// [`Jiffies::words`]. The agent says so, too.
#[unsafe(no_mangle)]
static JIFFIES: [u64; 2] = [0; 2];

/// How this kernel counts time.
#[inline(always)]
pub(crate) fn jiffies() -> Jiffies {
    // SAFETY: a read of numbers that live for ever. Volatile, since the values are not what this file says.
    Jiffies::from_words(unsafe { (&raw const JIFFIES).read_volatile() })
}

/// [`Place::word`]. And this.
#[unsafe(no_mangle)]
static SUMMED: u64 = 0;

/// Where the kernel's own socket buffers tell the kind of their checksum.
#[inline(always)]
pub(crate) fn summed() -> Option<Place> {
    // SAFETY: as in `jiffies`.
    Place::from_word(unsafe { (&raw const SUMMED).read_volatile() })
}

/// The one configuration, for the program that runs.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// The number that the agent changes when ways out of the node may have.
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    // SAFETY: the pointer is into the array, which is never freed while a program uses it.
    EPOCH.get_ptr(0).map_or(0, |epoch| unsafe { epoch.read_volatile() } as u32)
}

/// Bits of a device.
#[inline(always)]
pub(crate) fn device(index: u32) -> Option<u32> {
    // SAFETY: the value is copied at once.
    unsafe { DEVICES.get(index) }.copied()
}

/// Two slots.
#[inline(always)]
pub(crate) fn slots(pair: u32) -> Option<u64> {
    let pairs = PAIRS as u32;
    SLOTS.get_value(pair / pairs, &(pair % pairs)).copied()
}

/// 64 bits of the filters.
#[inline(always)]
pub(crate) fn filter(word: u32) -> Option<*mut u64> {
    FILTER.get_ptr_mut(word)
}

/// What a Service port has carried on this CPU.
#[inline(always)]
pub(crate) fn traffic(service: u32) -> Option<*mut Traffic> {
    TRAFFIC.get_value_ptr_mut(service / shape::TRAFFIC_CHUNK, &(service % shape::TRAFFIC_CHUNK))
}

/// The maps of a family.
pub(crate) trait Maps: Routed + Far {
    /// The node's address in this family.
    fn node(config: &Config) -> Self;
    fn frontends() -> &'static HashMap<FrontendKey<Self>, Frontend>;
    fn backend(id: u32) -> Option<Backend<Self>>;
    fn source_ranges() -> &'static LpmTrie<RangeKey<Self>, u32>;
    fn affinity() -> &'static LruHashMap<AffinityKey<Self>, Affinity>;
    /// A bucket of what sockets were led to.
    fn sockets(bucket: u32) -> Option<*mut SocketBucket<Self>>;
    fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentPorts>;
    /// Room for copies of entries of flows, this CPU's own.
    fn snapshots(index: u32) -> Option<*mut Snapshot<Self>>;
    /// This family's [`FLOWS_SHAPE`].
    fn flows_shape() -> u64;
    /// This family's [`FLOWS_OLD`].
    fn flows_old_shape() -> u64;
    /// A bucket of its table of flows.
    fn flows(index: u32) -> Option<*mut u64>;
    /// A bucket of the one that entries are moved from.
    fn flows_old(index: u32) -> Option<*mut u64>;
    /// Where a stage leaves what the next one needs, on this CPU.
    fn passed() -> Option<*mut Passed<Self>>;
}

macro_rules! maps {
    (
        $ip:ty, $node:ident, $frontends:ident, $backends:ident, $ranges:ident, $affinity:ident, $sockets:ident,
        $fragments:ident, $flows:ident, $flows_old:ident, $snapshots:ident, $passed:ident, $index:literal
    ) => {
        #[map]
        static $frontends: HashMap<FrontendKey<$ip>, Frontend> =
            HashMap::pinned(shape::FRONTENDS_CAPACITY, BPF_F_NO_PREALLOC);
        #[btf_map]
        static $backends: Backends<$ip> = ArrayOfMaps::new();
        #[map]
        static $ranges: LpmTrie<RangeKey<$ip>, u32> = LpmTrie::pinned(shape::SOURCE_RANGES_CAPACITY, BPF_F_NO_PREALLOC);
        #[map]
        static $affinity: LruHashMap<AffinityKey<$ip>, Affinity> = LruHashMap::pinned(shape::AFFINITY_CAPACITY, 0);
        #[map]
        static $sockets: Array<SocketBucket<$ip>> = Array::pinned(shape::SOCKETS_BUCKETS, 0);
        #[map]
        static $fragments: LruHashMap<FragmentKey<$ip>, FragmentPorts> =
            LruHashMap::pinned(shape::FRAGMENTS_CAPACITY, 0);
        #[map]
        static $flows: Array<[u64; bucket_words::<$ip>()]> =
            Array::pinned(buckets_for(shape::FLOWS_CAPACITY), BPF_F_MMAPABLE);
        // Where there is one, the agent says which, and how large it is.
        #[map]
        static $flows_old: Array<[u64; bucket_words::<$ip>()]> = Array::with_max_entries(1, 0);
        #[map]
        static $snapshots: PerCpuArray<Snapshot<$ip>> = PerCpuArray::with_max_entries(2, 0);

        #[map]
        static $passed: PerCpuArray<Passed<$ip>> = PerCpuArray::pinned(1, 0);

        impl Maps for $ip {
            #[inline(always)]
            fn node(config: &Config) -> Self {
                config.$node
            }
            #[inline(always)]
            fn frontends() -> &'static HashMap<FrontendKey<Self>, Frontend> {
                &$frontends
            }
            #[inline(always)]
            fn backend(id: u32) -> Option<Backend<Self>> {
                $backends.get_value(id / shape::BACKENDS_CHUNK, &(id % shape::BACKENDS_CHUNK)).copied()
            }
            #[inline(always)]
            fn source_ranges() -> &'static LpmTrie<RangeKey<Self>, u32> {
                &$ranges
            }
            #[inline(always)]
            fn affinity() -> &'static LruHashMap<AffinityKey<Self>, Affinity> {
                &$affinity
            }
            #[inline(always)]
            fn sockets(bucket: u32) -> Option<*mut SocketBucket<Self>> {
                $sockets.get_ptr_mut(bucket)
            }
            #[inline(always)]
            fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentPorts> {
                &$fragments
            }
            #[inline(always)]
            fn snapshots(index: u32) -> Option<*mut Snapshot<Self>> {
                $snapshots.get_ptr_mut(index)
            }
            #[inline(always)]
            fn flows_shape() -> u64 {
                // SAFETY: a read of a number that lives for ever. Volatile, since the value is not what this file says.
                unsafe { (&raw const FLOWS_SHAPE[$index]).read_volatile() }
            }
            #[inline(always)]
            fn flows_old_shape() -> u64 {
                // SAFETY: as in `flows_shape`.
                unsafe { (&raw const FLOWS_OLD[$index]).read_volatile() }
            }
            #[inline(always)]
            fn flows(index: u32) -> Option<*mut u64> {
                $flows.get_ptr_mut(index).map(<*mut _>::cast)
            }
            #[inline(always)]
            fn flows_old(index: u32) -> Option<*mut u64> {
                $flows_old.get_ptr_mut(index).map(<*mut _>::cast)
            }
            #[inline(always)]
            fn passed() -> Option<*mut Passed<Self>> {
                $passed.get_ptr_mut(0)
            }
        }
    };
}

maps!(
    V4,
    node_v4,
    FRONTENDS_V4,
    BACKENDS_V4,
    SOURCE_RANGES_V4,
    AFFINITY_V4,
    SOCKETS_V4,
    FRAGMENTS_V4,
    FLOWS_V4,
    FLOWS_OLD_V4,
    SNAPSHOTS_V4,
    PASSED_V4,
    0
);
maps!(
    V6,
    node_v6,
    FRONTENDS_V6,
    BACKENDS_V6,
    SOURCE_RANGES_V6,
    AFFINITY_V6,
    SOCKETS_V6,
    FRAGMENTS_V6,
    FLOWS_V6,
    FLOWS_OLD_V6,
    SNAPSHOTS_V6,
    PASSED_V6,
    1
);
