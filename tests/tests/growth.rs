//! A table of flows that fills gives way to a larger one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::flow::table::{buckets_for, flows_in};
use lb_common::tables::map;
use sluice_tests::kernel_or_skip;
use sluice_tests::lab::{
    Agent, AgentOptions, Exchange, FAMILIES, Family, Lab, Load, Pod, Running, WORLDS, Way, WithSpare,
};
use sluice_tests::packets::random::{Seed, setting};

/// More than half of what a new table has room for, of each family.
const FLOWS: u16 = 9_000;

/// From one sweep of all flows to the next, and time to load programs twice.
const PATIENCE: Duration = Duration::from_secs(30);

fn web(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.cluster_ip(10), port)
}

/// Of twelve pods three serve: once all do, a flow that is forgotten goes elsewhere three times in four.
fn world(lab: &Lab) -> Result<(WithSpare<'_>, Pod)> {
    Ok((WithSpare::new(lab, 3, 9)?, lab.bare_pod("client", 40)?))
}

/// Connections and sockets of datagrams that go on, and new ones, of both families and all ways.
fn traffic(lab: &Lab, client: &Pod, ways: &[Way], for_ms: u64) -> Result<Vec<(String, bool, Running)>> {
    let mut streams = Vec::new();
    for &way in ways {
        for family in FAMILIES {
            let datagrams = Load::steady(Exchange::Udp { size: 64, connected: false }, web(family, 53), 20);
            // The socket path chooses for each datagram.
            let by_socket = matches!(way, Way::Host | Way::PodSocket);
            let loads = [
                (true, Load::new(Exchange::Lines { for_ms }, web(family, 7), 1)),
                (true, Load { timeout_ms: 2 * for_ms, ..Load::new(Exchange::Silence { for_ms }, web(family, 7), 1) }),
                (!by_socket, Load { one_socket: true, ..datagrams }),
                (false, Load::steady(Exchange::Http, web(family, 80), 50)),
            ];
            for (stays, load) in loads {
                let row = format!("{way:?} {family:?} {:?}", load.exchange);
                streams.push((row, stays, way.place(lab, client).start(load)?));
            }
        }
    }
    Ok(streams)
}

/// Asks once more from each of these ports, and says which pod answered each.
fn ask(client: &Pod, times: u32) -> Result<Vec<String>> {
    client.ns.run(|| {
        let mut pods = Vec::new();
        for (n, family) in (0..FLOWS).flat_map(|n| FAMILIES.map(|family| (n, family))) {
            // No port twice: a process that another test just starts may hold a socket for a moment longer.
            let (any, port): (IpAddr, u16) = match family {
                Family::V4 => (Ipv4Addr::UNSPECIFIED.into(), 20_000 + n),
                Family::V6 => (Ipv6Addr::UNSPECIFIED.into(), 10_000 + n),
            };
            let socket = UdpSocket::bind((any, port)).with_context(|| format!("port {port}"))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.connect(web(family, 53))?;
            let mut answer = [0; 1024];
            let mut len = 0;
            // What both sides have spoken of twice is established.
            for _ in 0..times {
                socket.send(b"which pod?")?;
                len = socket.recv(&mut answer).with_context(|| format!("{family:?}, port {port}"))?;
            }
            let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
            let pod = answer.split(|c: char| !(c.is_alphanumeric() || c == '-')).find(|word| word.starts_with("web-"));
            pods.push(pod.with_context(|| format!("no pod in the answer {answer:?}"))?.to_owned());
        }
        Ok(pods)
    })
}

fn room(agent: &Agent) -> Result<[u64; 2]> {
    let [v4, v6] = map::FLOWS.map(|name| agent.fill(name).map(|(_, room)| room));
    Ok([v4?, v6?])
}

fn of(flows: u32) -> [u64; 2] {
    [flows_in(buckets_for(flows)).into(); 2]
}

/// Waits until there is room for so many.
fn wait_for_room(agent: &Agent, flows: u32) -> Result<()> {
    let began = Instant::now();
    while room(agent)? != of(flows) {
        ensure!(began.elapsed() < PATIENCE, "{:?} after {PATIENCE:?}; the log:\n{}", room(agent)?, agent.log()?);
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("room for {flows} flows after {:?}", began.elapsed());
    Ok(())
}

/// The same pods answer as before.
fn assert_kept(client: &Pod, before: Vec<String>, agent: &Agent) -> Result<()> {
    let status = agent.json(&["status"])?;
    let full = status["counters"].as_array().into_iter().flatten().find(|row| row["reason"] == "flow_table_full");
    assert_eq!(full.map(|row| row["packets"].clone()), Some(0.into()), "all flows were established: {status}");
    let moved = ask(client, 1)?.into_iter().zip(before).filter(|(now, then)| now != then).count();
    assert_eq!(moved, 0, "flows were forgotten; the log:\n{}", agent.log()?);
    Ok(())
}

/// No exchange failed, and none that goes on saw another pod than at its begin.
fn assert_undisturbed(streams: Vec<(String, bool, Running)>) -> Result<()> {
    for (row, stays, stream) in streams {
        let report = stream.stop()?;
        assert!(!report.answers.is_empty(), "{row}");
        assert_eq!(report.failures(), [""; 0], "{row}: of {}", report.answers.len());
        assert!(!stays || report.by_pod().len() == 1, "{row}: it moved: {:?}", report.by_pod());
    }
    Ok(())
}

#[test]
fn a_table_of_flows_that_fills_grows_without_an_outage() -> Result<()> {
    kernel_or_skip!();
    for (options, ways) in WORLDS {
        let lab = Lab::new()?;
        let (web, client) = world(&lab)?;
        let agent = Agent::start(&lab, options)?;
        assert_eq!(room(&agent)?, of(map::FLOWS_AT_FIRST));
        let streams = traffic(&lab, &client, ways, 20_000)?;
        let before = ask(&client, 2)?;
        web.add(&agent)?;
        wait_for_room(&agent, map::FLOWS_CAPACITY)?;
        for name in map::FLOWS {
            let (established, room) = agent.fill(name)?;
            assert!((u64::from(FLOWS)..u64::from(FLOWS) * 2).contains(&established), "{name}: {established} of {room}");
        }
        assert_kept(&client, before, &agent)?;
        assert_undisturbed(streams)?;
    }
    Ok(())
}

#[test]
fn an_agent_killed_while_a_table_of_flows_grows_loses_none() -> Result<()> {
    kernel_or_skip!();
    const ROUNDS: u32 = 8;
    let seed = setting("SLUICE_SEED", 6);
    println!("SLUICE_SEED={seed}");
    let mut moments = Seed(seed);
    let lab = Lab::new()?;
    let (web, client) = world(&lab)?;
    let (options, ways) = WORLDS[0];
    // Whatever a table has room for: as long as it is more than half full, a larger one may take its place.
    let sized = |round: u32| 16_000 + 150 * round;
    let mut agent = Agent::start(&lab, AgentOptions { max_flows: Some(sized(0)), ..options })?;
    let streams = traffic(&lab, &client, ways, 60_000)?;
    let before = ask(&client, 2)?;
    web.add(&agent)?;
    for round in 1..=ROUNDS {
        agent.kill()?;
        agent.launch_with(AgentOptions { max_flows: Some(sized(round)), ..options })?;
        // It starts, sweeps, and loads programs twice.
        std::thread::sleep(Duration::from_millis(300 + moments.below(5_000)));
        println!("round {round}: room for {:?}, {} later", room(&agent)?, sized(round));
    }
    // Datagrams that nobody has sent for two minutes are forgotten, and these are what fills the table.
    assert_kept(&client, before.clone(), &agent)?;
    wait_for_room(&agent, sized(ROUNDS))?;
    assert_kept(&client, before, &agent)?;
    assert_undisturbed(streams)
}
