//! The tables of flows in their maps, as [`lb_common::flow::table`] wants to see them.

use core::marker::PhantomData;

use lb_common::flow::turn;
use lb_common::tables::{Flow, FlowKey, InsertError, Refused};

use lb_common::flow::table::{self, Bucket, Change, Memory, Snapshot, Way};
use lb_common::ip::{Ip, V4, V6};

use crate::atomic;
use crate::maps::Maps;

/// The table of a family.
pub(crate) struct Table<A>(PhantomData<A>);

impl<A> Table<A> {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

/// What looks at many ways, in functions that the verifier looks at by themselves, once: inside of what calls them it would
/// walk through them again and again. Such functions are global, take pointers that may be null for all it knows, and
/// return a number.
pub(crate) trait Far: Ip {
    fn find(key: &FlowKey<Self>, out: &mut Snapshot<Self>) -> bool;
    fn search(key: &FlowKey<Self>) -> u64;
    fn follow(spot: u64, change: Change) -> bool;
    fn insert(key: &FlowKey<Self>, flow: &Flow<Self>) -> Result<(), InsertError>;
    fn insert_both(key: &mut FlowKey<Self>, flow: &mut Flow<Self>) -> Result<(), Refused>;
}

macro_rules! far {
    (
        $ip:ty, $read:ident, $search:ident, $follow:ident, $begin:ident, $both:ident, $claim:ident, $finish:ident,
        $rest:ident
    ) => {
        /// 1 where the entry of a key was found at a spot and copied, else 0.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $read(key: *const FlowKey<$ip>, spot: u64, out: *mut Snapshot<$ip>) -> u32 {
            // SAFETY: the verifier has seen that callers pass a key, and room.
            let (Some(key), Some(out)) = (unsafe { (key.as_ref(), out.as_mut()) }) else { return 0 };
            match table::read(&Table::<$ip>::new(), key, spot) {
                Some(found) => {
                    *out = found;
                    1
                }
                None => 0,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $search(key: *const FlowKey<$ip>) -> u64 {
            // SAFETY: the verifier has seen that callers pass a key.
            match unsafe { key.as_ref() } {
                Some(key) => table::search(&Table::<$ip>::new(), key),
                None => table::NOWHERE,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $follow(spot: u64, keeps: u32, adds: u32) -> u32 {
            table::follow::<$ip, _>(&Table::<$ip>::new(), spot, Change { keeps, adds }).into()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $begin(key: *const FlowKey<$ip>, flow: *const Flow<$ip>) -> u64 {
            // SAFETY: as above.
            match unsafe { (key.as_ref(), flow.as_ref()) } {
                (Some(key), Some(flow)) => table::begin(&Table::<$ip>::new(), key, flow),
                _ => table::FULL,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $both(key: *const FlowKey<$ip>, flow: *const Flow<$ip>) -> u64 {
            // SAFETY: as above.
            match unsafe { (key.as_ref(), flow.as_ref()) } {
                (Some(key), Some(flow)) => table::begin_both(&Table::<$ip>::new(), key, flow),
                _ => table::FULL,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $claim(key: *const FlowKey<$ip>) -> u64 {
            // SAFETY: as above.
            match unsafe { key.as_ref() } {
                Some(key) => table::claim(&Table::<$ip>::new(), key),
                None => table::NOWHERE,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $finish(key: *const FlowKey<$ip>, flow: *const Flow<$ip>, spot: u64) -> u64 {
            // SAFETY: as above.
            match unsafe { (key.as_ref(), flow.as_ref()) } {
                (Some(key), Some(flow)) => table::finish(&Table::<$ip>::new(), key, flow, spot),
                _ => table::FULL,
            }
        }

        /// What is left of an insertion: 0, 1 where the key is taken, 2 where there is no room.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $rest(key: *const FlowKey<$ip>, flow: *const Flow<$ip>, left: u64) -> u32 {
            let (begin, search, claim) = (|| $begin(key, flow), || $search(key), || $claim(key));
            match table::finish_by(left, begin, search, claim, |spot| $finish(key, flow, spot)) {
                Ok(()) => 0,
                Err(InsertError::Exists) => 1,
                Err(InsertError::Full) => 2,
            }
        }

        impl Far for $ip {
            #[inline(always)]
            fn find(key: &FlowKey<$ip>, out: &mut Snapshot<$ip>) -> bool {
                table::find_by(|spot| ($read(key, spot, out) != 0).then_some(()), || $search(key)).is_some()
            }

            #[inline(always)]
            fn search(key: &FlowKey<$ip>) -> u64 {
                $search(key)
            }

            #[inline(always)]
            fn follow(spot: u64, change: Change) -> bool {
                $follow(spot, change.keeps, change.adds) != 0
            }

            #[inline(always)]
            fn insert(key: &FlowKey<$ip>, flow: &Flow<$ip>) -> Result<(), InsertError> {
                outcome($rest(key, flow, table::NOTHING))
            }

            #[inline(always)]
            fn insert_both(key: &mut FlowKey<$ip>, flow: &mut Flow<$ip>) -> Result<(), Refused> {
                let left = $both(key, flow);
                if left == table::DONE {
                    return Ok(());
                }
                let is_back = left < table::THERE;
                if is_back {
                    turn(key, flow);
                }
                let outcome = outcome($rest(key, flow, left % table::THERE));
                if !is_back {
                    return outcome.map_err(Refused::There);
                }
                turn(key, flow);
                outcome.map_err(Refused::Back)?;
                Self::insert(key, flow).map_err(Refused::There)
            }
        }
    };
}

/// What the number of an insertion means.
#[inline(always)]
const fn outcome(number: u32) -> Result<(), InsertError> {
    match number {
        0 => Ok(()),
        1 => Err(InsertError::Exists),
        _ => Err(InsertError::Full),
    }
}

far!(
    V4,
    flow_read_v4,
    flow_search_v4,
    flow_follow_v4,
    flow_begin_v4,
    flow_begin_both_v4,
    flow_claim_v4,
    flow_finish_v4,
    flow_rest_v4
);
far!(
    V6,
    flow_read_v6,
    flow_search_v6,
    flow_follow_v6,
    flow_begin_v6,
    flow_begin_both_v6,
    flow_claim_v6,
    flow_finish_v6,
    flow_rest_v6
);

/// A bucket in the map.
pub(crate) struct Line<A>(*mut u32, PhantomData<A>);

impl<A> Clone for Line<A> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Line<A> {}

/// Control word and entry of a flow in the map.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    control: *mut u32,
    entry: *mut u64,
}

impl<A: Maps> Memory for Table<A> {
    const WAYS: u32 = table::WAYS;
    type Bucket = Line<A>;

    #[inline(always)]
    fn buckets(&self) -> u32 {
        A::flows_shape() as u32
    }

    #[inline(always)]
    fn old(&self) -> u32 {
        A::flows_old_shape() as u32
    }

    #[inline(always)]
    fn turned(&self) -> bool {
        let Some(second) = A::flows(1).filter(|_| self.old() > 0) else { return true };
        // SAFETY: the element has more words than these, and is never freed while a program uses it.
        unsafe { second.cast::<u32>().add(table::TURNED_AT).read_volatile() != 0 }
    }

    #[inline(always)]
    fn seed(&self) -> u32 {
        (A::flows_shape() >> 32) as u32
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<Line<A>> {
        let bucket = match A::flows(index) {
            None if self.old() > 0 => A::flows_old(index.wrapping_sub(self.buckets())),
            bucket => bucket,
        };
        bucket.map(|bucket| Line(bucket.cast(), PhantomData))
    }

    #[inline(always)]
    fn follow(&self, spot: u64, change: Change) -> bool {
        A::follow(spot, change)
    }

    #[inline(always)]
    fn pause(&self) {
        // There is no instruction for it, and a call would take registers. An atomic one takes some twenty cycles.
        let mut word = 0;
        for _ in 0..32 {
            // SAFETY: the word is aligned, and ours.
            unsafe { atomic::or64(&mut word, 0) };
        }
    }
}

impl<A: Ip> Bucket for Line<A> {
    type Way = Slot;

    #[inline(always)]
    fn version(&self) -> u32 {
        // SAFETY: the pointer is to an element of the map, whose values are never freed while a program uses them.
        unsafe { self.0.add(table::VERSION_AT).read_volatile() }
    }

    #[inline(always)]
    fn swap_version(&self, old: u32, new: u32) -> bool {
        // SAFETY: as above; the word is aligned.
        unsafe { atomic::swap32(self.0.add(table::VERSION_AT), old, new) == old }
    }

    #[inline(always)]
    fn set_version(&self, version: u32) {
        // SAFETY: as above.
        unsafe { atomic::publish32(self.0.add(table::VERSION_AT), version) };
    }

    #[inline(always)]
    fn pair(&self, index: u32) -> u64 {
        if index >= table::WAYS / 2 {
            return 0;
        }
        // SAFETY: as above; the element has that many control words.
        unsafe { self.0.cast::<u64>().add(table::pair_at(index as usize)).read_volatile() }
    }

    #[inline(always)]
    fn way(&self, index: u32) -> Option<Slot> {
        // Opaque, or the compiler drops a comparison that the verifier wants to see.
        let index = core::hint::black_box(index);
        if index >= table::WAYS {
            return None;
        }
        let index = index as usize;
        // SAFETY: the element has that many ways.
        unsafe {
            Some(Slot {
                control: self.0.add(table::control_at(index)),
                entry: self.0.cast::<u64>().add(table::line_at::<A>(index)),
            })
        }
    }
}

impl Way for Slot {
    #[inline(always)]
    fn control(&self) -> u32 {
        // SAFETY: the pointer is into an element of the map, whose values are never freed while a program uses them.
        unsafe { self.control.read_volatile() }
    }

    #[inline(always)]
    fn swap(&self, old: u32, new: u32) -> bool {
        // SAFETY: as above; the word is aligned.
        unsafe { atomic::swap32(self.control, old, new) == old }
    }

    #[inline(always)]
    fn publish(&self, control: u32) {
        // SAFETY: as above.
        unsafe { atomic::publish32(self.control, control) };
    }

    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        // SAFETY: as above; the words of an entry lie behind each other.
        unsafe { self.entry.add(index).read_volatile() }
    }

    #[inline(always)]
    fn set(&self, index: usize, word: u64) {
        // SAFETY: as in `word`.
        unsafe { self.entry.add(index).write_volatile(word) };
    }
}
