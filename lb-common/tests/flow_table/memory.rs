//! The table in memory, as threads share it: once as it is, once under loom.

macro_rules! memory {
    ($name:ident, $sync:ident, $ways:literal) => {
        pub(crate) mod $name {
            use std::sync::Arc;

            use lb_common::flow::table::{Bucket, Memory, Way};
            use $sync::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

            /// Words of an entry of IPv4.
            const WORDS: usize = 8;

            struct Line {
                version: AtomicU32,
                ways: Vec<(AtomicU32, Vec<AtomicU64>)>,
            }

            #[derive(Clone)]
            pub struct Table(Arc<Vec<Line>>);

            impl Table {
                pub fn new(buckets: u32) -> Self {
                    let way = || (AtomicU32::new(0), (0..WORDS).map(|_| AtomicU64::new(0)).collect());
                    let line = || Line { version: AtomicU32::new(0), ways: (0..$ways).map(|_| way()).collect() };
                    Self(Arc::new((0..buckets).map(|_| line()).collect()))
                }
            }

            #[derive(Clone, Copy)]
            pub struct Row<'a>(&'a Line);
            #[derive(Clone, Copy)]
            pub struct Slot<'a>(&'a AtomicU32, &'a [AtomicU64]);

            impl<'a> Memory for &'a Table {
                const WAYS: u32 = $ways;
                const PATIENCE: u32 = 2;
                type Bucket = Row<'a>;
                fn buckets(&self) -> u32 {
                    self.0.len() as u32
                }
                fn seed(&self) -> u32 {
                    7
                }
                fn bucket(&self, index: u32) -> Option<Row<'a>> {
                    self.0.get(index as usize).map(Row)
                }
            }

            impl<'a> Bucket for Row<'a> {
                type Way = Slot<'a>;
                fn version(&self) -> u32 {
                    self.0.version.load(Ordering::Acquire)
                }
                fn swap_version(&self, old: u32, new: u32) -> bool {
                    self.0.version.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok()
                }
                fn set_version(&self, version: u32) {
                    self.0.version.store(version, Ordering::Release);
                }
                fn pair(&self, index: u32) -> u64 {
                    let half = |way| self.way(way).map_or(0, |way| u64::from(way.control()));
                    half(2 * index) | half(2 * index + 1) << 32
                }
                fn way(&self, index: u32) -> Option<Slot<'a>> {
                    self.0.ways.get(index as usize).map(|(control, words)| Slot(control, words))
                }
            }

            impl Way for Slot<'_> {
                fn control(&self) -> u32 {
                    fence(Ordering::Acquire);
                    self.0.load(Ordering::Acquire)
                }
                fn swap(&self, old: u32, new: u32) -> bool {
                    let swapped = self.0.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok();
                    fence(Ordering::Release);
                    swapped
                }
                fn publish(&self, control: u32) {
                    self.0.store(control, Ordering::Release);
                }
                fn word(&self, index: usize) -> u64 {
                    self.1[index].load(Ordering::Relaxed)
                }
                fn set(&self, index: usize, word: u64) {
                    self.1[index].store(word, Ordering::Relaxed);
                }
            }
        }
    };
}

memory!(plain, std, 14);
memory!(model, loom, 2);
