//! API servers come and go; traffic does not notice, and what changed meanwhile is caught up with.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_tests::lab::{Agent, AgentOptions, Exchange, Family, Lab, Load, Pod, cluster_ips, endpoint_slice};
use sluice_tests::plane::{Plane, PlaneOptions, programmed, service, together};
use sluice_tests::plane_or_skip;

fn target() -> SocketAddr {
    SocketAddr::new(Family::V4.cluster_ip(10), 80)
}

fn slice(pods: &[&Pod]) -> String {
    endpoint_slice("web", "web", &pods.iter().map(|pod| pod.ip(Family::V4)).collect::<Vec<_>>())
}

fn source(agent: &Agent<'_>) -> Result<Value> {
    Ok(agent.json(&["status"])?["agent"]["source"].clone())
}

#[test]
fn no_request_fails_while_the_api_server_is_away_and_later_changes_are_programmed() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, PlaneOptions { api_servers: 1, controllers: false })?;
    let client = lab.bare_pod("client", 20)?;
    let [a, b, c] = [lab.pod("web-1", 11)?, lab.pod("web-2", 12)?, lab.pod("web-3", 13)?];
    let mut agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    plane.apply(&together([service("web", &cluster_ips(10)), slice(&[&a, &b])]))?;
    plane.agree(&agent)?;

    let loads =
        [client.client(), lab.outside(), lab.host()].map(|from| from.start(Load::steady(Exchange::Http, target(), 5)));
    let loads = loads.into_iter().collect::<Result<Vec<_>>>()?;
    for round in 0..3 {
        if round == 1 {
            plane.stop_api(0)?;
        } else {
            plane.kill_api(0)?;
        }
        agent.wait_until("the status says that the API is away", |agent| Ok(!source(agent)?["fault"].is_null()))?;
        if round == 2 {
            // An agent that starts while nobody answers has the maps to go on with.
            agent.kill()?;
            agent.launch()?;
            sleep(Duration::from_secs(1));
        }
        plane.start_api(0)?;
        let pods = if round % 2 == 0 { [&b, &c] } else { [&a, &b] };
        plane.apply(&slice(&pods))?;
        plane.agree(&agent)?;
        agent.wait_until("the status says that all is well", |agent| Ok(source(agent)?["fault"].is_null()))?;
        sleep(Duration::from_millis(300));
    }
    let mut answers = 0;
    for load in loads {
        let report = load.stop()?;
        assert_eq!(report.failures(), [""; 0]);
        answers += report.answers.len();
        ensure!(report.by_pod().len() == 3, "expected answers from all pods: {:?}", report.by_pod());
    }
    println!("{answers} requests, none failed");
    Ok(())
}

#[test]
fn what_happened_before_a_compaction_is_caught_up_with() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, PlaneOptions { api_servers: 2, controllers: false })?;
    let [a, b] = [lab.bare_pod("web-1", 11)?, lab.bare_pod("web-2", 12)?];
    let agent = Agent::start_on(&lab, plane.source([0])?, AgentOptions::default())?;
    plane.apply(&together([
        service("web", &cluster_ips(10)),
        slice(&[&a]),
        service("going", &cluster_ips(11)),
        service("staying", &cluster_ips(12)),
    ]))?;
    plane.agree(&agent)?;
    let before = programmed(&agent)?;
    // The agent knows only the first server; the changes go through the second.
    plane.kill_api(0)?;
    plane.kubectl(&["delete", "service", "going"])?;
    plane.apply(&together([service("coming", &cluster_ips(13)), slice(&[&b])]))?;
    plane.compact()?;
    ensure!(programmed(&agent)? == before, "nothing may change while the agent is cut off");
    plane.start_api(0)?;
    plane.agree(&agent)?;
    ensure!(programmed(&agent)? != before, "expected the maps to change");
    Ok(())
}

#[test]
fn the_next_api_server_serves_when_the_first_dies() -> Result<()> {
    plane_or_skip!();
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, PlaneOptions { api_servers: 2, controllers: false })?;
    let [a, b] = [lab.bare_pod("web-1", 11)?, lab.bare_pod("web-2", 12)?];
    let agent = Agent::start_on(&lab, plane.source([0, 1])?, AgentOptions::default())?;
    plane.apply(&together([service("web", &cluster_ips(10)), slice(&[&a])]))?;
    plane.agree(&agent)?;
    for (dies, serves) in [(0, 1), (1, 0)] {
        plane.kill_api(dies)?;
        let pods = if dies == 0 { vec![&a, &b] } else { vec![&b] };
        plane.apply(&slice(&pods))?;
        plane.agree(&agent)?;
        let name = source(&agent)?["name"].clone();
        ensure!(name.as_str().is_some_and(|name| name.contains(&Plane::address(serves).to_string())), "{name}");
        plane.start_api(dies)?;
    }
    Ok(())
}
