//! One decision, three adapters: the native run, XDP and TC must make the same bytes of the same packets, and leave the
//! same flows behind. Checksums are recomputed by etherparse.
//!
//! `SLUICE_SEED` repeats a run; `SLUICE_PACKETS` makes it longer.

use std::collections::BTreeMap;

use anyhow::Result;
use aya::maps::{Map, MapData, ProgramArray};
use lb_common::datapath::Stage;
use lb_common::ip::{Ip as _, V4, V6};
use lb_common::mem::{Flows, Frame, Image, Native};
use lb_common::tables::{Side, device, map};
use lb_common::verdict::{Reason, Verdict};
use lb_userspace::bpf::{Capacities, Epoch, Hook, counters, now};
use lb_userspace::plan;
use lb_userspace::store::Store as _;
use sluice_tests::kernel::{Kernel, code};
use sluice_tests::kernel_or_skip;
use sluice_tests::packets::random::{self, Seed, setting};
use sluice_tests::packets::world::{Net, client, pod, vip};
use sluice_tests::packets::{SYN, echo, packet, verify_checksums};
use sluice_tests::routes;

fn small() -> Capacities {
    Capacities {
        services: 1024,
        backends: 1024,
        slots: 1 << 14,
        source_ranges: 64,
        flows: 1 << 13,
        flows_at_first: 1 << 13,
    }
}

/// Flows without the time, which differs by run, and without next hops, which a reader of the kernel's table has no use for.
fn timeless<A: Net>(tables: &Native) -> Flows<A> {
    let mut flows = Flows { next_hops: BTreeMap::new(), ..A::flows(tables).clone() };
    flows.flows.values_mut().for_each(|flow| flow.seen = 0);
    flows.affinity.values_mut().for_each(|to| to.seen = 0);
    flows
}

/// One of the kernels, the hook at which packets come in there, and its native twin.
struct World {
    kernel: Kernel,
    ingress: Hook,
    native: Native,
    /// Whether the bytes of packets are summed up before (`CHECKSUM_COMPLETE`), and the sums compared behind.
    summed: bool,
    epoch: Epoch,
}

impl World {
    fn new(image: &Image, ingress: Hook) -> Result<Self> {
        Self::with(image, ingress, Kernel::new(image, &small())?)
    }

    /// One at TC.
    fn summed(image: &Image, kernel: Kernel) -> Result<Self> {
        Ok(Self { summed: true, ..Self::with(image, Hook::TcIngress, kernel)? })
    }

    fn with(image: &Image, ingress: Hook, mut kernel: Kernel) -> Result<Self> {
        let native = Native::new(image.clone());
        kernel.set_device(routes::DEVICE, device::XDP)?;
        let epoch = Epoch::open(&kernel.pins)?;
        Ok(Self { kernel, ingress, native, summed: false, epoch })
    }

    /// Sends a packet through both; the verdict.
    fn send<A: Net>(&mut self, side: Side, device: u32, bytes: &[u8], about: &str) -> Result<Verdict> {
        // XDP has no egress, and does not stand where pods are: from there the packet goes through TC in both worlds.
        let hook = match side {
            Side::Ingress if device & device::INSIDE == 0 => self.ingress,
            Side::Ingress => Hook::TcIngress,
            Side::Egress => Hook::TcEgress,
        };
        routes::tell::<A>(&mut self.native, hook == Hook::Xdp);
        self.native.devices.insert(Frame::DEVICE, device);
        self.kernel.set_device(Frame::DEVICE, device)?;
        let mut frame = Frame(bytes.to_vec());
        let verdict = frame.run(&mut self.native, side, 0);
        let about = format!("{about}, device {device}: {verdict:?}, was {:x?}", &bytes[..bytes.len().min(100)]);
        match verdict {
            Verdict::Pass(_) => assert_eq!(frame.0, bytes, "changed though passed: {about}"),
            _ if verify_checksums(bytes).is_ok() => {
                verify_checksums(&frame.0).unwrap_or_else(|error| panic!("{error}: {about}"));
            }
            _ => {}
        }
        let (returned, written) = if self.summed {
            match self.kernel.run_summed(hook, bytes)? {
                Some(outcome) => outcome,
                // What goes back in place of the packet was never summed up, nor will the device ask that it goes out by.
                None if is_new(verdict) => return Ok(verdict),
                None => panic!("the sum of all bytes is wrong: {about}"),
            }
        } else {
            let outcome = self.kernel.programs.run(hook, bytes, 1)?;
            (outcome.code, outcome.frame)
        };
        assert_eq!(returned, code(hook, verdict), "{hook:?} returned another verdict for {about}");
        if !matches!(verdict, Verdict::Drop(_)) {
            assert_eq!(written, frame.0, "{hook:?} wrote other bytes for {about}");
        }
        if side == Side::Ingress && hook != self.ingress {
            // Here one device stands for two: what its program at TC has kept is not for that at XDP.
            self.native.epoch += 1;
            self.epoch.advance();
        }
        Ok(verdict)
    }
}

/// Whether another packet takes the place of the one that came.
fn is_new(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Reject(_) | Verdict::Answer(Reason::TooLong))
}

#[test]
fn programs_and_agent_have_one_time() -> Result<()> {
    kernel_or_skip!();
    let mut kernel = Kernel::new(&random::image::<V4>(), &small())?;
    let before = now();
    kernel.programs.run(Hook::TcIngress, &packet(client::<V4>(1, 4000), vip::<V4>(1, 80), SYN, b""), 1)?;
    let flows = kernel.tables()?.v4.flows;
    assert_eq!(flows.len(), 2);
    for flow in flows.values() {
        // The count of timer interrupts begins a moment after the clock.
        assert!((before - 1..=now()).contains(&flow.seen), "{} is not {before}", flow.seen);
    }
    Ok(())
}

fn agree<A: Net>(seed: u64, packets: u64) -> Result<()> {
    println!("{packets} packets of {:?}, SLUICE_SEED={seed}", A::FAMILY);
    let image = random::image::<A>();
    let mut worlds = [
        World::new(&image, Hook::Xdp)?,
        World::new(&image, Hook::TcIngress)?,
        World::with(&image, Hook::TcIngress, Kernel::untold(&image, &small())?)?,
        World::summed(&image, Kernel::new(&image, &small())?)?,
        World::summed(&image, Kernel::untold(&image, &small())?)?,
    ];
    let mut numbers = Seed(seed);
    let mut verdicts = BTreeMap::<_, u64>::new();
    for number in 0..packets {
        let (side, bytes) = random::packet::<A>(&mut numbers);
        let device = numbers.of(&[0, device::INSIDE]);
        let about = format!("packet {number} of seed {seed}");
        for world in &mut worlds {
            let verdict = world.send::<A>(side, device, &bytes, &about)?;
            *verdicts.entry(verdict.reason().label()).or_default() += 1;
            if let Verdict::Leave(..) | Verdict::LeaveToNeighbour(..) = verdict {
                *verdicts.entry("left the node").or_default() += 1;
            }
            if verdict == Verdict::Leave(verdict.reason(), routes::DEVICE) && world.ingress == Hook::TcIngress {
                *verdicts.entry("left by a next hop that was kept").or_default() += 1;
            }
        }
    }
    println!("verdicts of both: {verdicts:?}");
    assert!(verdicts.len() >= 14, "the packets were too much alike to prove anything");
    assert!(verdicts["left the node"] > packets / 50 && verdicts["handed_over"] > 5, "hardly any left");
    for world in &mut worlds {
        let kernel = world.kernel.tables()?;
        assert_eq!(timeless::<A>(&kernel), timeless::<A>(&world.native));
        assert_eq!(kernel.traffic, world.native.traffic);
    }
    // XDP and TC end with the same flows.
    assert_eq!(timeless::<A>(&worlds[0].native), timeless::<A>(&worlds[1].native));
    Ok(())
}

#[test]
fn native_xdp_and_tc_agree_on_ipv4() -> Result<()> {
    kernel_or_skip!();
    routes::within::<V4, _>(|| agree::<V4>(setting("SLUICE_SEED", 1), setting("SLUICE_PACKETS", 20_000)))
}

#[test]
fn native_xdp_and_tc_agree_on_ipv6() -> Result<()> {
    kernel_or_skip!();
    routes::within::<V6, _>(|| agree::<V6>(setting("SLUICE_SEED", 1), setting("SLUICE_PACKETS", 20_000)))
}

#[test]
fn no_bytes_at_all_upset_a_program() -> Result<()> {
    kernel_or_skip!();
    let image = random::image::<V4>();
    let kernel = Kernel::new(&image, &small())?;
    let mut native = Native::new(image);
    let mut numbers = Seed(setting("SLUICE_SEED", 1));
    for _ in 0..5_000 {
        let bytes = random::bytes(&mut numbers);
        let mut frame = Frame(bytes.clone());
        let verdict = frame.run(&mut native, Side::Ingress, 0);
        // The kernel itself refuses frames without an Ethernet header.
        if bytes.len() < 14 {
            continue;
        }
        let outcome = kernel.programs.run(Hook::Xdp, &bytes, 1)?;
        assert_eq!((outcome.code, &outcome.frame), (code(Hook::Xdp, verdict), &frame.0), "{bytes:x?}");
    }
    Ok(())
}

/// Instructions that the verifier may walk through, of the 1,000,000 that the kernel allows.
const BUDGET: u32 = 200_000;

#[test]
fn every_program_stays_within_the_verifier_s_budget() -> Result<()> {
    kernel_or_skip!();
    let kernel = Kernel::new(&random::image::<V4>(), &small())?;
    for (program, instructions) in kernel.programs.verified()? {
        println!("{program:<23} {instructions:>7} instructions verified");
        assert!(instructions <= BUDGET, "{program} took the verifier {instructions} instructions, {BUDGET} allowed");
    }
    Ok(())
}

#[test]
fn without_the_program_of_a_stage_packets_that_need_it_are_dropped_and_counted() -> Result<()> {
    kernel_or_skip!();
    let (client, service) = (client::<V4>(1, 40_000), vip::<V4>(1, 80));
    let kernel = Kernel::new(&random::image::<V4>(), &small())?;
    let syn = packet(client, service, SYN, b"");
    let no_program = |kernel: &Kernel| -> Result<u64> {
        let counters = counters(kernel.store.maps())?;
        Ok(counters.iter().find(|(reason, _)| *reason == Reason::NoProgram).map_or(0, |(_, n)| *n))
    };
    assert_eq!(
        kernel.programs.run(Hook::TcIngress, &syn, 1)?.code,
        code(Hook::TcIngress, Verdict::Forward(Reason::NewFlow))
    );
    let stages =
        Map::from_map_data(MapData::from_pin(kernel.pins.maps().join(map::STAGES[Hook::TcIngress as usize]))?)?;
    ProgramArray::try_from(stages)?.clear_index(&Stage::Flows(V4::FAMILY).index())?;
    assert_eq!(
        kernel.programs.run(Hook::TcIngress, &syn, 1)?.code,
        code(Hook::TcIngress, Verdict::Drop(Reason::NoProgram))
    );
    assert_eq!(no_program(&kernel)?, 1);
    let stranger = packet(client, pod::<V4>(2), SYN, b"");
    assert_eq!(
        kernel.programs.run(Hook::TcIngress, &stranger, 1)?.code,
        code(Hook::TcIngress, Verdict::Pass(Reason::NotService))
    );
    Ok(())
}

#[test]
fn stages_of_ipv6_come_with_its_first_frontend_and_take_nothing_before() -> Result<()> {
    kernel_or_skip!();
    let (client, service) = (client::<V6>(1, 40_000), vip::<V6>(1, 80));
    let (syn, ping) = (packet(client, service, SYN, b""), echo(client.ip(), pod::<V6>(2).ip()));
    let mut kernel = Kernel::with_needed(&random::image::<V4>(), &small())?;
    let first = kernel.pins.programs().join("tc_ingress_first_v6");
    let stranger = Verdict::Pass(Reason::NotService);
    for frame in [&syn, &ping] {
        for hook in [Hook::Xdp, Hook::TcIngress, Hook::TcEgress] {
            let outcome = kernel.programs.run(hook, frame, 1)?;
            assert_eq!((outcome.code, &outcome.frame), (code(hook, stranger), frame), "{hook:?}");
        }
        let outcome = kernel.programs.run(Hook::TcService, frame, 1)?;
        assert_eq!(outcome.code, code(Hook::TcService, Verdict::Drop(Reason::Unallocated)));
    }
    assert!(!first.exists());
    let have = kernel.store.read()?;
    kernel.store.apply(&plan::diff(&have, &random::image::<V6>()))?;
    assert!(first.exists());
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let outcome = kernel.programs.run(hook, &syn, 1)?;
        assert_eq!(outcome.code, code(hook, Verdict::Forward(Reason::NewFlow)), "{hook:?}");
        assert_ne!(outcome.frame, syn);
    }
    Ok(())
}
