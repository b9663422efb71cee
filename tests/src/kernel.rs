//! The programs in the real kernel, run on single packets (`BPF_PROG_TEST_RUN`), on maps of their own.
//!
//! Nothing is attached anywhere: packets go in and come out as bytes.

use std::os::fd::AsFd as _;

use anyhow::Result;
use aya::maps::{HashMap, Map, MapData};
use lb_common::flow::{filter_bits, state};
use lb_common::ip::{V4, V6};
use lb_common::mem::{Image, Native, Of};
use lb_common::tables::{Traffic, map};
use lb_common::verdict::Verdict;
use lb_userspace::bpf::{BpfStore, Capacities, Hook, Object, Pins, Programs, traffic};
use lb_userspace::plan;
use lb_userspace::store::Store as _;

use crate::lab::{Owner, run_summed};

/// The verdict as the program of a hook returns it.
pub const fn code(hook: Hook, verdict: Verdict) -> u32 {
    match (hook, verdict) {
        (Hook::Xdp, Verdict::Pass(_) | Verdict::Forward(_)) => 2,
        // Another device than the one of the test, to which XDP would send by itself.
        (Hook::Xdp, Verdict::Leave(..)) => 4,
        (Hook::Xdp, Verdict::Drop(_) | Verdict::Enter(_) | Verdict::LeaveToNeighbour(..)) => 1,
        (Hook::Xdp, Verdict::Return(_) | Verdict::Answer(_) | Verdict::Reject(_)) => 3,
        (_, Verdict::Pass(_) | Verdict::Forward(_)) => u32::MAX,
        (_, Verdict::Drop(_)) => 2,
        (_, Verdict::Leave(..) | Verdict::LeaveToNeighbour(..) | Verdict::Enter(_)) => 7,
        (_, Verdict::Return(_) | Verdict::Answer(_) | Verdict::Reject(_)) => 7,
    }
}

/// Bytes by which a program may lengthen a packet.
const ROOM: usize = 256;

/// The programs and their maps, pinned in a bpffs of their own. All is gone when it is dropped.
pub struct Kernel {
    /// The maps that the agent writes, and those of the packet path.
    pub store: BpfStore,
    /// The programs.
    pub programs: Programs,
    /// Where they are pinned.
    pub pins: Pins,
    devices: HashMap<MapData, u32, u32>,
    _owner: Owner,
}

impl Kernel {
    /// Loads the programs and writes an image into their maps.
    ///
    /// # Errors
    /// The machine lacks something, or the kernel refuses a program.
    pub fn new(image: &Image, capacities: &Capacities) -> Result<Self> {
        Self::loaded(image, |object, pins| Ok(object.load(pins, capacities, false)?.0))
    }

    /// The same with the programs that an agent needs at first.
    ///
    /// # Errors
    /// As of [`Kernel::new`].
    pub fn with_needed(image: &Image, capacities: &Capacities) -> Result<Self> {
        Self::loaded(image, |object, pins| Ok(object.load_needed(pins, capacities, false)?.0))
    }

    /// The same on a kernel that tells nothing of its structures.
    ///
    /// # Errors
    /// As of [`Kernel::new`].
    pub fn untold(image: &Image, capacities: &Capacities) -> Result<Self> {
        Self::loaded(image, |object, pins| Ok(object.untold().load(pins, capacities, false)?.0))
    }

    fn loaded(image: &Image, load: impl FnOnce(Object, &Pins) -> Result<Programs>) -> Result<Self> {
        let owner = Owner::new()?;
        let pins = Pins::new(owner.bpffs()?.join("sluice"));
        pins.create()?;
        let programs = load(Object::embedded()?, &pins)?;
        let mut store = BpfStore::open(&pins)?;
        let have = store.read()?;
        store.apply(&plan::diff(&have, image))?;
        let devices = MapData::from_pin(pins.maps().join(map::DEVICES)).and_then(Map::from_map_data)?;
        Ok(Self { store, programs, pins, devices: devices.try_into()?, _owner: owner })
    }

    /// Says what a device is: bits of [`lb_common::tables::device`]. Packets come in through [`lb_common::mem::Frame::DEVICE`].
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_device(&mut self, index: u32, bits: u32) -> Result<()> {
        Ok(self.devices.insert(index, bits, 0)?)
    }

    /// Runs a packet whose bytes are summed up (`CHECKSUM_COMPLETE`) through the program of a hook at TC: what it returned, and the
    /// packet; `None` where the sum is not that of the bytes any more, and the kernel tells nothing else.
    ///
    /// # Errors
    /// The kernel does not take the frame, or is older than Linux 6.11.
    pub fn run_summed(&self, hook: Hook, frame: &[u8]) -> Result<Option<(u32, Vec<u8>)>> {
        match run_summed(self.programs.fd(hook)?.as_fd(), frame, ROOM) {
            Ok(run) => Ok(Some(run)),
            Err(error) if error.raw_os_error() == Some(libc::EBADMSG) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All maps as they are now, but for counters. The filter holds what the image and the flows need.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn tables(&mut self) -> Result<Native> {
        let mut tables = Native::new(self.store.read()?);
        self.store.maps().read_flows(&mut tables)?;
        tables.traffic = traffic(&self.pins, tables.image.names.keys().copied())?;
        tables.traffic.retain(|_, carried| *carried != Traffic::NONE);
        flow_bits::<V4>(&mut tables);
        flow_bits::<V6>(&mut tables);
        Ok(tables)
    }
}

/// Sets the bits that the packet path sets when it opens a flow.
fn flow_bits<A: Of>(tables: &mut Native) {
    let flows = A::flows(tables);
    let there = flows.flows.iter().filter(|(_, flow)| flow.state & state::THERE != 0);
    let bits: Vec<u32> = there.flat_map(|(key, flow)| filter_bits(key, flow)).collect();
    tables.filter.extend(bits);
}
