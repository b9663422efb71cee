//! Of which packets an entry program reads nothing behind their plain headers, which may be all that lies in one piece.

use std::cell::Cell;

use lb_common::packet::Packet;
use lb_common::parse::plain;
use sluice_tests::packets::random::{self, Seed};

use super::*;

both_families! { an_entry_reads_plain_headers_alone }

/// A packet of which only so many bytes lie in one piece.
struct Split {
    frame: Frame,
    linear: usize,
    refused: Cell<bool>,
}

impl Split {
    fn reaches(&self, offset: usize, len: usize) -> Option<()> {
        let reaches = offset + len <= self.linear;
        self.refused.set(self.refused.get() || !reaches);
        reaches.then_some(())
    }
}

impl Packet for Split {
    fn device(&self) -> u32 {
        self.frame.device()
    }

    fn length(&self) -> usize {
        self.frame.length()
    }

    fn load<T: bytemuck::Pod>(&self, offset: usize) -> Option<T> {
        self.reaches(offset, size_of::<T>())?;
        self.frame.load(offset)
    }

    fn store<T: bytemuck::Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
        self.reaches(offset, size_of::<T>())?;
        self.frame.store(offset, value)
    }

    fn resize(&mut self, len: usize) -> Option<()> {
        self.frame.resize(len)
    }

    fn enclose(&mut self, room: usize, len: usize) -> Option<()> {
        self.frame.enclose(room, len)
    }
}

mod rules {
    use super::*;

    pub(super) fn an_entry_reads_plain_headers_alone<A: Net>() {
        let [mut whole, mut split] = [(); 2].map(|()| Native::new(random::image::<A>()));
        let (mut seed, mut plains, mut translated) = (Seed(11), 0, 0);
        for now in 0..20_000 {
            let (side, bytes) = random::packet::<A>(&mut seed);
            let Some(linear) = plain(|offset| bytes.get(offset).copied()) else {
                continue;
            };
            let (mut one, frame) = (Frame(bytes.clone()), Frame(bytes.clone()));
            let linear = linear.min(bytes.len());
            let mut other = Split { frame, linear, refused: Cell::new(linear == bytes.len()) };
            let now = now / 64;
            let verdicts = (
                datapath::enter(&mut one, &mut whole, side, || now),
                datapath::enter(&mut other, &mut split, side, || now),
            );
            assert_eq!(verdicts.0, verdicts.1, "{bytes:02x?}");
            assert_eq!(one, other.frame, "{bytes:02x?}");
            assert!(!other.refused.get() || linear == bytes.len(), "reads behind {linear} of {bytes:02x?}");
            plains += 1;
            translated += usize::from(one.0 != bytes);
            // All of it lies in one piece for the stages.
            for tables in [&mut whole, &mut split] {
                Frame(bytes.clone()).run(tables, side, now);
            }
        }
        assert!(plains > 10_000 && translated > 500, "{plains} packets, {translated} of them translated");
    }
}
