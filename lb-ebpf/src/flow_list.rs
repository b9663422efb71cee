//! The programs by which the agent sees the tables of flows: run by itself, on "packets" that are its questions
//! ([`lb_common::tables::listing`]). They stand at no device.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::table::{self, Bucket, Memory};
use lb_common::ip::{V4, V6};
use lb_common::tables::Entry;
use lb_common::tables::listing::{BUCKETS, Head, Listed, SOUGHT};

use crate::flow_table::{Far, Table};
use crate::maps::Maps;

/// Reads a part of the question.
#[inline(always)]
pub(crate) fn load<T: Entry>(ctx: *mut xdp_md, at: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the context is this run's own, and there is room for so many bytes.
    let done = unsafe { bpf_xdp_load_bytes(ctx, at, value.as_mut_ptr().cast(), size_of::<T>() as u32) };
    // SAFETY: an Entry is plain integers, for which all bytes are values.
    (done == 0).then(|| unsafe { value.assume_init() })
}

/// Writes a part of the answer, where there is room for it.
#[inline(always)]
pub(crate) fn store<T: Entry>(ctx: *mut xdp_md, at: u32, value: &mut T) -> bool {
    // SAFETY: the context is this run's own, and the value has so many bytes.
    (unsafe { bpf_xdp_store_bytes(ctx, at, (&raw mut *value).cast(), size_of::<T>() as u32) }) == 0
}

/// No room for one more entry.
const FULL: u32 = u32::MAX;
const HEAD: u32 = size_of::<Head>() as u32;
/// Buckets of a group, and groups of a run: the verifier walks through each loop by itself.
const GROUP: u32 = 64;
const GROUPS: u32 = BUCKETS / GROUP;

macro_rules! programs {
    ($ip:ty, $list:ident, $group:ident, $bucket:ident, $way:ident, $seek:ident, $one:ident) => {
        /// Lists the entries of buckets, from the first that is asked for on.
        #[xdp(frags)]
        fn $list(ctx: XdpContext) -> u32 {
            let ctx = ctx.ctx;
            let Some(mut head) = load::<Head>(ctx, 0) else { return XDP_PASS };
            let mut at = HEAD;
            for _ in 0..GROUPS {
                let done = $group(ctx, head.bucket, at);
                let (next, end) = ((done >> 32) as u32, done as u32);
                let whole = next.wrapping_sub(head.bucket) == GROUP;
                (head.bucket, at) = (next, end);
                if !whole {
                    break;
                }
            }
            head.entries = at.wrapping_sub(HEAD) / size_of::<Listed<$ip>>() as u32;
            let table = Table::<$ip>::new();
            head.buckets = table.buckets().wrapping_add(table.old());
            store(ctx, 0, &mut head);
            // What was not needed need not be copied. That it cannot be cut off changes nothing else.
            // SAFETY: the context is this run's own.
            unsafe {
                let len = aya_ebpf::helpers::generated::bpf_xdp_get_buff_len(ctx) as u32;
                bpf_xdp_adjust_tail(ctx, at.wrapping_sub(len) as i32);
            }
            XDP_PASS
        }

        /// Lists a group of buckets. Where the list ends, and above these 32 bits the bucket to go on with.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $group(ctx: *mut xdp_md, first: u32, at: u32) -> u64 {
            let (mut index, mut at) = (first, at);
            for _ in 0..GROUP {
                let end = $bucket(ctx, index, at);
                if end == FULL {
                    break;
                }
                (index, at) = (index.wrapping_add(1), end);
            }
            u64::from(index) << 32 | u64::from(at)
        }

        /// Lists a bucket. Where the list ends then, or [`FULL`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $bucket(ctx: *mut xdp_md, index: u32, at: u32) -> u32 {
            let Some(bucket) = table::in_turn(&Table::<$ip>::new(), index) else { return at };
            let (live, mut at) = (table::live::<Table<$ip>>(bucket), at);
            if live == 0 {
                return at;
            }
            for number in 0..table::WAYS {
                if live >> number & 1 != 0 {
                    at = $way(ctx, index, number, at);
                    if at == FULL {
                        break;
                    }
                }
            }
            at
        }

        /// Lists the entry of a way, if there is one. As above.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $way(ctx: *mut xdp_md, index: u32, number: u32, at: u32) -> u32 {
            let way = table::in_turn(&Table::<$ip>::new(), index).and_then(|bucket| bucket.way(number));
            let Some((key, flow)) = way.and_then(table::entry) else { return at };
            let mut listed = Listed::<$ip>::new(key, flow, true);
            if store(ctx, at, &mut listed) { at.wrapping_add(size_of::<Listed<$ip>>() as u32) } else { FULL }
        }

        /// Looks for entries, and says of each what it has found, or removed.
        #[xdp(frags)]
        fn $seek(ctx: XdpContext) -> u32 {
            let ctx = ctx.ctx;
            let Some(head) = load::<Head>(ctx, 0) else { return XDP_PASS };
            let mut at = HEAD;
            for number in 0..SOUGHT {
                if number >= head.entries {
                    break;
                }
                $one(ctx, at, head.removes);
                at = at.wrapping_add(size_of::<Listed<$ip>>() as u32);
            }
            XDP_PASS
        }

        /// Looks for one.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $one(ctx: *mut xdp_md, at: u32, removes: u32) -> u32 {
            let Some(mut listed) = load::<Listed<$ip>>(ctx, at) else { return 0 };
            // SAFETY: the memory is this CPU's own, and the program is not moved while it runs.
            let Some(room) = <$ip>::snapshots(0).and_then(|room| unsafe { room.as_mut() }) else { return 0 };
            let entry = <$ip>::find(&listed.key, room).then_some(room);
            listed.answer(&Table::<$ip>::new(), entry, removes != 0);
            store(ctx, at, &mut listed).into()
        }
    };
}

programs!(V4, list_v4, list_group_v4, list_bucket_v4, list_way_v4, seek_v4, seek_one_v4);
programs!(V6, list_v6, list_group_v6, list_bucket_v6, list_way_v6, seek_v6, seek_one_v6);
