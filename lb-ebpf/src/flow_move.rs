//! The programs by which the agent moves flows to a larger table, run by themselves like those that list them
//! ([`crate::flow_list`]). Where there is one table only they find nothing to do.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::table::{self, Memory, Transfer};
use lb_common::ip::{V4, V6};
use lb_common::tables::listing::{Head, MOVES};

use crate::flow_list::{load, store};
use crate::flow_table::Table;

/// Buckets of a group, and groups of a run: the verifier walks through each loop by itself.
const GROUP: u32 = 32;
const GROUPS: u32 = 32;

/// In the counts of a run: an entry that moved, and one that waits.
const MOVED: u32 = 1;
const WAITS: u32 = 1 << 16;

/// How many moved, and how many wait.
const fn apart(counts: u32) -> (u32, u32) {
    (counts % WAITS, counts / WAITS)
}

macro_rules! programs {
    ($ip:ty, $moves:ident, $group:ident, $bucket:ident, $way:ident) => {
        /// Moves the entries of buckets, from the first that is asked for on.
        #[xdp(frags)]
        fn $moves(ctx: XdpContext) -> u32 {
            let ctx = ctx.ctx;
            let Some(mut head) = load::<Head>(ctx, 0) else { return XDP_PASS };
            let mut counts = 0;
            for _ in 0..GROUPS {
                let done = $group(head.bucket, counts);
                let next = (done >> 32) as u32;
                let whole = next.wrapping_sub(head.bucket) == GROUP;
                (head.bucket, counts) = (next, done as u32);
                if !whole {
                    break;
                }
            }
            (head.entries, head.removes) = apart(counts);
            store(ctx, 0, &mut head);
            XDP_PASS
        }

        /// Moves the entries of a group of buckets, until there are enough. What was counted so far, and above these 32 bits the
        /// bucket to go on with.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $group(first: u32, counts: u32) -> u64 {
            let (mut index, mut counts) = (first, counts);
            for _ in 0..GROUP {
                let (moved, waiting) = apart(counts);
                if index >= Table::<$ip>::new().old() || moved + waiting >= MOVES {
                    break;
                }
                (index, counts) = (index.wrapping_add(1), counts.wrapping_add($bucket(index)));
            }
            u64::from(index) << 32 | u64::from(counts)
        }

        /// Moves the entries of a bucket, and counts them.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $bucket(index: u32) -> u32 {
            let memory = Table::<$ip>::new();
            let Some(bucket) = memory.bucket(memory.buckets().wrapping_add(index)) else { return 0 };
            let (live, mut counts) = (table::live::<Table<$ip>>(bucket), 0);
            if live == 0 {
                return 0;
            }
            for number in 0..table::WAYS {
                if live >> number & 1 != 0 {
                    counts += $way(index, number);
                }
            }
            counts
        }

        /// Moves the entry of a way, and counts it.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $way(index: u32, number: u32) -> u32 {
            match table::transfer::<$ip, _>(&Table::<$ip>::new(), index, number) {
                Transfer::None => 0,
                Transfer::Moved => MOVED,
                Transfer::Waits => WAITS,
            }
        }
    };
}

programs!(V4, move_v4, move_group_v4, move_bucket_v4, move_way_v4);
programs!(V6, move_v6, move_group_v6, move_bucket_v6, move_way_v6);
