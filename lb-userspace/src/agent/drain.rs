//! Leaving: new flows are left to the next proxy, and those that there are end in peace.

use std::collections::BTreeMap;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use lb_common::ip::{V4, V6};
use lb_common::tables::Config;

use crate::bpf::{self, BpfStore, Of, Pins};
use crate::flows::unfinished;
use crate::plan::Op;
use crate::store::Store;

/// How often the connections are counted.
const LOOK: Duration = Duration::from_millis(250);
/// How often they are told.
const TELL: Duration = Duration::from_secs(1);

/// Takes on no flow from now on, and waits until no connection is left or `longest` is over. `tell` hears now and then
/// how many are left; the result says how many are at the end. No agent may run, or it would set things right again;
/// the next one does.
///
/// # Errors
/// The maps cannot be read or written, or an agent keeps them.
pub fn drain(pins: &Pins, longest: Duration, tell: impl Fn(usize) -> io::Result<()>) -> anyhow::Result<usize> {
    if !pins.exist() {
        return Ok(0);
    }
    let _lock = pins.lock()?;
    let mut store = BpfStore::open(pins).context("cannot drain")?;
    let config = store.config()?;
    store.write(&Op::Config(Config { draining: 1, ..config }))?;
    let began = Instant::now();
    // A packet that saw the configuration of before may just be opening its flow.
    sleep(LOOK);
    let mut told = None;
    loop {
        let left = connections::<V4>(&store)? + connections::<V6>(&store)?;
        if left == 0 || began.elapsed() >= longest {
            return Ok(left);
        }
        if told.is_none_or(|told: Instant| told.elapsed() >= TELL) {
            tell(left)?;
            told = Some(Instant::now());
        }
        sleep(LOOK);
    }
}

fn connections<A: Of>(store: &BpfStore) -> Result<usize, bpf::Error> {
    let mut entries = BTreeMap::new();
    store.maps().flows::<A>(|key, flow| {
        entries.insert(*key, *flow);
    })?;
    Ok(unfinished(&entries, bpf::now()))
}
