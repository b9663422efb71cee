//! The lab itself, without Sluice: if these fail, no other result means anything.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    BULK_PORT, DEFAULT, ECHO_PORT, Exchange, FAMILIES, Frames, HTTP_PORT, Lab, Load, NIC, OFFLOADS, Offload, Place,
    UDP_PORT, found, remove_leftovers,
};

const EXCHANGES: [(Exchange, u16); 8] = [
    (Exchange::Http, HTTP_PORT),
    (Exchange::Bulk { up: 3_000_000, down: 3_000_000 }, BULK_PORT),
    (Exchange::Udp { size: 1, connected: false }, UDP_PORT),
    (Exchange::Udp { size: 1400, connected: false }, UDP_PORT),
    (Exchange::Udp { size: 9000, connected: true }, UDP_PORT),
    (Exchange::Udp { size: 0, connected: true }, UDP_PORT),
    (Exchange::UdpBurst { size: 1200, segments: 20 }, UDP_PORT),
    (Exchange::Lines { for_ms: 50 }, ECHO_PORT),
];

#[test]
fn everyone_reaches_a_pod_directly_and_is_seen_as_himself() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let server = lab.pod("server", 11)?;
    let client = lab.bare_pod("client", 12)?;
    for family in FAMILIES {
        let places = [
            ("pod", client.client(), client.ip(family)),
            ("process in a pod", lab.process_in(&client), client.ip(family)),
            ("host", lab.host(), family.node_ip()),
            ("outside", lab.outside(), family.outside_ip()),
        ];
        for (name, place, ip) in places {
            for (exchange, port) in EXCHANGES {
                let case = format!("{name} {family:?} {exchange:?}");
                let report = place.run(Load::new(exchange, server.at(family, port), 2))?;
                assert_eq!(report.failures(), [""; 0], "{case}");
                assert_eq!(report.by_pod().get("server"), Some(&2), "{case}");
                for seen in report.seen() {
                    assert_eq!(seen.server.client.ip(), ip, "{case}");
                    assert_eq!(seen.peer, server.at(family, port), "{case}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn failures_are_told_apart() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let server = lab.pod("server", 11)?;
    for family in FAMILIES {
        for exchange in [Exchange::Http, Exchange::Udp { size: 8, connected: true }] {
            let closed = server.at(family, 81);
            for place in [lab.outside(), lab.host()] {
                let refused = place.run(Load::new(exchange, closed, 1))?;
                assert!(refused.answers[0].refused, "{exchange:?} {:?}", refused.failures());
            }
            let nobody = SocketAddr::new(family.pod_ip(200), 80);
            let lost = lab.outside().run(Load { timeout_ms: 100, ..Load::new(exchange, nobody, 1) })?;
            assert!(!lost.answers[0].refused, "{exchange:?}");
            assert_eq!(lost.failures().len(), 1, "{exchange:?}");
        }
    }
    Ok(())
}

#[test]
fn every_offload_setting_is_taken_and_carries_data() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?.without_xdp_outside();
    let server = lab.pod("server", 11)?;
    for offload in OFFLOADS {
        let ends = [(&server.ns, "eth0"), (&lab.node, &*server.device), (&lab.node, NIC), (&lab.outside, "eth0")];
        for (ns, device) in ends {
            offload.apply(ns, device)?;
            assert_eq!(Offload { name: offload.name, ..Offload::read(ns, device)? }, *offload);
        }
        for (exchange, port) in EXCHANGES {
            let report = lab.outside().run(Load::new(exchange, server.at(FAMILIES[0], port), 1))?;
            assert_eq!(report.failures(), [""; 0], "{} {exchange:?}", offload.name);
        }
    }
    Ok(())
}

#[test]
fn a_chosen_client_port_is_used() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let server = lab.pod("server", 11)?;
    for exchange in [(Exchange::Http, HTTP_PORT), (Exchange::Udp { size: 8, connected: false }, UDP_PORT)] {
        let load = Load::new(exchange.0, server.at(FAMILIES[1], exchange.1), 3).from_port(40_000);
        let report = lab.outside().run(load)?;
        let ports: Vec<_> = report.seen().map(|seen| seen.server.client.port()).collect();
        assert_eq!(ports, [40_000, 40_001, 40_002]);
    }
    Ok(())
}

#[test]
fn a_pod_comes_back_with_another_address() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let first = lab.pod("web", 11)?;
    let old = first.at(FAMILIES[0], HTTP_PORT);
    drop(first);
    let second = lab.pod("web", 12)?;
    let gone = lab.outside().run(Load { timeout_ms: 100, ..Load::new(Exchange::Http, old, 1) })?;
    assert_eq!(gone.failures().len(), 1);
    let back = lab.outside().run(Load::new(Exchange::Http, second.at(FAMILIES[0], HTTP_PORT), 1))?;
    assert_eq!(back.failures(), [""; 0]);
    Ok(())
}

#[test]
fn a_frame_passes_the_node_as_it_was_sent() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let pod = lab.bare_pod("raw", 11)?;
    DEFAULT.apply(&lab.outside, "eth0")?;
    // Learns the neighbours.
    let _ = pod
        .client()
        .run(Load { timeout_ms: 200, ..Load::new(Exchange::Http, SocketAddr::new(FAMILIES[0].outside_ip(), 9), 1) })?;

    let mut from = Frames::open(&pod.ns, "eth0")?;
    let mut to = Frames::open(&lab.outside, "eth0")?;
    let mut frame = vec![0xee; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    // IPv4, protocol 253 (RFC 3692, for experiments), TTL 64, from the pod to the outside.
    frame.extend([0x45, 0, 0, 40, 0x12, 0x34, 0, 0, 64, 253, 0, 0, 10, 244, 0, 11, 192, 168, 50, 2]);
    let sum = frame[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(b"twenty bytes of text");
    from.send(&frame)?;

    let got = to.receive(Duration::from_secs(2), |f| f.get(23) == Some(&253))?.context("the frame did not arrive")?;
    // The router counts the TTL down; all else stays.
    assert_eq!(got[14..22], frame[14..22]);
    assert_eq!(got[22], 63);
    assert_eq!(got[26..], frame[26..]);
    Ok(())
}

#[test]
fn two_labs_do_not_meet_and_leave_nothing() -> Result<()> {
    kernel_or_skip!();
    let (one, two) = (Lab::new()?, Lab::new()?);
    let (a, b) = (one.pod("one", 11)?, two.pod("two", 11)?);
    let load = Load::new(Exchange::Http, a.at(FAMILIES[0], HTTP_PORT), 1);
    assert!(one.outside().run(load.clone())?.by_pod().contains_key("one"));
    assert!(two.outside().run(load.clone())?.by_pod().contains_key("two"));

    let (first, second) = (one.id().to_owned(), two.id().to_owned());
    drop(a);
    drop(one);
    let ids = found();
    assert!(!ids.contains(&first) && ids.contains(&second), "{ids:?}");
    assert!(two.outside().run(load)?.by_pod().contains_key("two"));
    drop((b, two));
    assert!(!found().contains(&second));
    Ok(())
}

/// Run by the next test as a process of its own.
#[test]
#[ignore = "helper of the test below"]
fn hold_a_lab_until_killed() -> Result<()> {
    kernel_or_skip!();
    let lab = Lab::new()?;
    let pod = lab.pod("held", 11)?;
    // A process in the cgroup, as the agent is one.
    let endless = Load::steady(Exchange::Http, pod.at(FAMILIES[0], HTTP_PORT), 50);
    let _load = Place { ns: &pod.ns, cgroup: Some(lab.cgroup()) }.start(endless)?;
    println!("\nholding {}", lab.id());
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() -> Result<()> {
    kernel_or_skip!();
    for signal in [libc::SIGKILL, libc::SIGINT] {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--ignored", "--exact", "hold_a_lab_until_killed", "--nocapture"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let id = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("holding ").map(str::to_owned));
        let id = id.context("the helper made no lab")?;

        assert!(found().contains(&id));
        remove_leftovers();
        assert!(found().contains(&id), "a living lab was removed");

        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal)?)?;
        child.wait()?;
        if signal == libc::SIGKILL {
            assert!(found().contains(&id), "nothing was left to remove");
            // Another test may have swept at the same moment, so who removed it does not matter.
            remove_leftovers();
        }
        ensure!(!found().contains(&id), "signal {signal}: something of {id} is left: {:?}", found());
    }
    Ok(())
}
