//! The benchmark's own programs, see `lb-ebpf/src/bench.rs`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use lb_common::bench::{FRAME, Receiver, SHORT, Template};
use nix::net::if_::if_nametoindex;

use crate::lab::{Lab, NIC};

/// Live frames that are sent at once; a veth has room for 256.
const BATCH: u32 = 64;

/// How the packets of a measurement differ.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Variation {
    /// Clients, a power of two, or 0 for one.
    pub(super) clients: u32,
    /// Services, a power of two, or 0 for one.
    pub(super) services: u32,
    /// In random order.
    pub(super) random: bool,
    /// The client is the destination.
    pub(super) answer: bool,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: bytemuck has proved that it is plain bytes without padding.
#[expect(unsafe_code, reason = "aya has its own word for plain bytes")]
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}

/// Where the program under test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    Xdp,
    Tc,
}

pub(super) struct Front {
    ebpf: Ebpf,
    template: Array<MapData, Raw<Template>>,
    receiver: Array<MapData, Raw<Receiver>>,
    received: PerCpuArray<MapData, u64>,
    targets: [ProgramArray<MapData>; 2],
}

impl Front {
    /// Loads the object.
    pub(super) fn load(object: &Path) -> Result<Self> {
        let mut ebpf = Ebpf::load_file(object).with_context(|| {
            format!("cannot load the benchmark's programs from {}; `cargo xtask bench` builds them", object.display())
        })?;
        for name in ["front_xdp", "empty_xdp", "send_xdp", "receive_xdp"] {
            let program: &mut Xdp = ebpf.program_mut(name).context("no such program")?.try_into()?;
            program.load()?;
        }
        for name in ["front_tc", "empty_tc"] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).context("no such program")?.try_into()?;
            program.load()?;
        }
        let mut map = |name| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let (template, receiver, received) = (map("TEMPLATE")?, map("RECEIVER")?, map("RECEIVED")?);
        let mut target = |name| anyhow::Ok(ProgramArray::try_from(ebpf.take_map(name).context("no map of targets")?)?);
        let targets = [target("XDP_TARGET")?, target("TC_TARGET")?];
        let (template, receiver, received) = (template.try_into()?, receiver.try_into()?, received.try_into()?);
        Ok(Self { ebpf, template, receiver, received, targets })
    }

    /// Says what packets the next runs see.
    pub(super) fn set(&mut self, frame: &[u8], vary: Variation) -> Result<()> {
        ensure!((SHORT..=FRAME).contains(&frame.len()), "a template of {} bytes", frame.len());
        let mut words = [0_u64; FRAME / 8];
        bytemuck::cast_slice_mut::<_, u8>(&mut words)[..frame.len()].copy_from_slice(frame);
        let template = Template {
            frame: words,
            clients: vary.clients.saturating_sub(1),
            services: vary.services.saturating_sub(1),
            random: vary.random.into(),
            answer: vary.answer.into(),
            len: u32::try_from(frame.len())?,
            zero: 0,
        };
        Ok(self.template.set(0, Raw(template), 0)?)
    }

    /// Mean time of a round in ns with `target` behind the front, or the empty program.
    pub(super) fn time(&mut self, layer: Layer, target: Option<&ProgramFd>, len: usize, rounds: u32) -> Result<f64> {
        let (front, empty) = match layer {
            Layer::Xdp => ("front_xdp", "empty_xdp"),
            Layer::Tc => ("front_tc", "empty_tc"),
        };
        let target = match target {
            Some(target) => target,
            None => self.ebpf.program(empty).context("no empty program")?.fd()?,
        };
        self.targets[layer as usize].set(0, target, 0)?;
        let frame = vec![0; len];
        let options = TestRunOptions { data_in: Some(&frame), repeat: rounds, ..TestRunOptions::new() };
        let program = self.ebpf.program(front).context("no front program")?;
        let run = match layer {
            Layer::Xdp => <&Xdp>::try_from(program)?.test_run(options)?,
            Layer::Tc => {
                // TC takes no frame without an IP header, and looks at the EtherType before the front does.
                let mut frame = frame.clone();
                frame[12..14].copy_from_slice(&[8, 0]);
                <&SchedClassifier>::try_from(program)?.test_run(TestRunOptions {
                    data_in: Some(&frame),
                    repeat: rounds,
                    ..TestRunOptions::new()
                })?
            }
        };
        // Whole nanoseconds, but the kernel stops its clock while another task runs, which no clock here could.
        Ok(run.duration.as_secs_f64() * 1e9)
    }

    /// Sends so many live frames out of a device of the calling thread's namespace, as its driver would have sent them.
    pub(super) fn send(&mut self, device: u32, len: usize, frames: u32) -> Result<()> {
        let program = self.ebpf.program("send_xdp").context("no program that sends")?.fd()?;
        self.targets[Layer::Xdp as usize].set(0, program, 0)?;
        let frame = vec![0; len];
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, u32::try_from(len)?, 0, device, 0, 0];
        let front = <&Xdp>::try_from(self.ebpf.program("front_xdp").context("no front program")?)?;
        front.test_run(TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(bytemuck::cast_slice(&context)),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        })?;
        Ok(())
    }

    /// Keeps the front among the programs that stand at XDP, at a device of a lab to which nothing comes. The kernel calls these
    /// by code that it writes anew whenever they change, as it does before a run of one that is not among them and after it, and
    /// that leaves the CPU with caches so cold that 4,000 first packets behind it cost 110 ns more each.
    pub(super) fn settle(&mut self, lab: &Lab) -> Result<()> {
        lab.node.run(|| self.attach("front_xdp", if_nametoindex(NIC)?))
    }

    /// Attaches one of the programs to XDP of a device of the calling thread's namespace, in the driver.
    pub(super) fn attach(&mut self, program: &str, device: u32) -> Result<()> {
        let program: &mut Xdp = self.ebpf.program_mut(program).context("no such program")?.try_into()?;
        program.attach_to_if_index(device, XdpMode::Driver)?;
        Ok(())
    }

    /// Says what becomes of packets that arrive.
    pub(super) fn receive(&mut self, receiver: Receiver) -> Result<()> {
        Ok(self.receiver.set(0, Raw(receiver), 0)?)
    }

    /// Packets that arrived until now.
    pub(super) fn received(&self) -> Result<u64> {
        Ok(self.received.get(&0, 0)?.iter().sum())
    }
}
