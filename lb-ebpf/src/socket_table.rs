//! The table of what sockets were led to, in its array.

use core::mem::{MaybeUninit, size_of};

use lb_common::socket::table;
use lb_common::tables::{SocketEntry, SocketKey};

use crate::maps::Maps;

/// A bucket in place: its first entry.
pub(crate) struct Bucket<A: Maps>(*mut SocketEntry<A>);

impl<A: Maps> Bucket<A> {
    /// The bucket of a key.
    #[inline(always)]
    pub(crate) fn of(key: &SocketKey<A>) -> Option<Self> {
        A::sockets(table::bucket(key)).map(|bucket| Self(bucket.cast()))
    }
}

impl<A: Maps> table::Bucket<A> for Bucket<A> {
    #[inline(always)]
    fn cookie(&self, place: usize) -> [u32; 2] {
        // SAFETY: the pointer is into the array, which is never freed while a program uses it, and a bucket has as many places as
        // are asked for. Elements of arrays, and entries, are of whole words of 8 bytes.
        let cookie = unsafe { self.0.add(place).cast::<u64>().read_volatile() };
        [cookie as u32, (cookie >> 32) as u32]
    }

    #[inline(always)]
    fn check(&self, place: usize) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0.add(place)).check).read_volatile() }
    }

    #[inline(always)]
    fn read(&self, place: usize) -> SocketEntry<A> {
        let mut copy = MaybeUninit::<SocketEntry<A>>::uninit();
        for word in 0..size_of::<SocketEntry<A>>() / 8 {
            // SAFETY: as above, of both. Volatile, so that what is checked is what is used.
            unsafe {
                let read = self.0.add(place).cast::<u64>().add(word).read_volatile();
                copy.as_mut_ptr().cast::<u64>().add(word).write_unaligned(read);
            }
        }
        // SAFETY: all of it was written, and any bytes are an entry.
        unsafe { copy.assume_init() }
    }

    #[inline(always)]
    fn write(&mut self, place: usize, entry: &SocketEntry<A>) {
        // SAFETY: as above. Others may write it at the same moment: the check tells.
        unsafe { self.0.add(place).write(*entry) };
    }
}
