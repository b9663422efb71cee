//! Thousands of Services change at random, while real clients call one of them: at the end the maps hold what the API
//! says, and no request has failed; also if the agent was killed again and again meanwhile.
//!
//! The seed is printed; `SLUICE_SEED` replays it (what changes; the machine's timing is its own).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use sluice_tests::lab::{
    Agent, AgentOptions, Exchange, FAMILIES, Family, Lab, Load, Place, Pod, Running, cluster_ips, endpoint_slice,
};
use sluice_tests::packets::random::Seed;
use sluice_tests::plane::{Plane, PlaneOptions, programmed, service, together};
use sluice_tests::plane_or_skip;

/// kubectl sends one object after the other; several at once are several writers, as a cluster has them.
const WRITERS: usize = 4;

fn seed() -> Result<Seed> {
    let given = std::env::var("SLUICE_SEED").ok().map(|text| text.parse()).transpose()?;
    let now = SystemTime::UNIX_EPOCH.elapsed()?.as_millis() as u64;
    let seed = given.unwrap_or(now);
    println!("SLUICE_SEED={seed}");
    Ok(Seed(seed))
}

/// Service number `n`: some of one family, some of both.
fn ips(n: u16) -> Vec<IpAddr> {
    let [high, low] = n.to_be_bytes();
    let v4 = Ipv4Addr::new(10, 97, high, low).into();
    let v6 = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 1, n).into();
    match n % 3 {
        0 => vec![v4, v6],
        1 => vec![v4],
        _ => vec![v6],
    }
}

fn text(seed: &mut Seed, n: u16) -> String {
    let mut text = service(&format!("s-{n}"), &ips(n));
    if seed.below(8) == 0 {
        text = text.replace("namespace: default", "namespace: default, labels: {service.kubernetes.io/headless: \"\"}");
    } else {
        text = text.replace("port: 80,", &format!("port: {},", 80 + seed.below(3)));
    }
    text
}

/// Slice `part` of Service `n`, with up to five endpoints; those of the parts may be the same.
fn slice(seed: &mut Seed, n: u16, part: u64) -> String {
    let v4 = ips(n)[0].is_ipv4();
    let family = if v4 { Family::V4 } else { Family::V6 };
    let endpoints: Vec<_> = (0..seed.below(6)).map(|_| family.pod_ip(100 + seed.below(100) as u8)).collect();
    if endpoints.is_empty() {
        let empty = endpoint_slice(&format!("s-{n}-{part}"), &format!("s-{n}"), &[family.pod_ip(1)]);
        let head = empty.split("endpoints:").next().unwrap_or_default();
        return format!("{head}endpoints: []\n");
    }
    endpoint_slice(&format!("s-{n}-{part}"), &format!("s-{n}"), &endpoints)
}

/// Declares all Services, with one or two slices each.
fn fill(plane: &Plane<'_>, seed: &mut Seed, services: u16) -> Result<()> {
    let mut texts: Vec<_> = (0..WRITERS).map(|_| Vec::new()).collect();
    for n in 0..services {
        let mut objects = vec![text(seed, n), slice(seed, n, 0)];
        if n % 4 == 0 {
            objects.push(slice(seed, n, 1));
        }
        texts[usize::from(n) % WRITERS].push(together(objects));
    }
    side_by_side(texts, |texts| plane.apply(&together(texts)))
}

/// Changes so many of the Services: their port, label and slices, or takes them away; those that were away come back.
fn churn(plane: &Plane<'_>, seed: &mut Seed, services: u16, changes: usize) -> Result<()> {
    let (mut gone, mut texts) = (Vec::new(), (0..WRITERS).map(|_| Vec::new()).collect::<Vec<_>>());
    for change in 0..changes {
        let n = seed.below(services.into()) as u16;
        match seed.below(6) {
            0 => gone.push(format!("service/s-{n}")),
            1 => gone.push(format!("endpointslice/s-{n}-{}", seed.below(2))),
            2 => texts[change % WRITERS].push(text(seed, n)),
            _ => {
                let part = seed.below(2);
                texts[change % WRITERS].push(slice(seed, n, part));
            }
        }
    }
    let gone: Vec<_> =
        ["delete", "--ignore-not-found", "--wait=false"].into_iter().chain(gone.iter().map(String::as_str)).collect();
    thread::scope(|scope| {
        let deleted = scope.spawn(|| plane.kubectl(&gone).map(drop));
        side_by_side(texts, |texts| if texts.is_empty() { Ok(()) } else { plane.apply(&together(texts)) })?;
        deleted.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a writer panicked")))
    })
}

/// One thread for each part.
fn side_by_side<T: Send>(parts: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| work(part))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a writer panicked"))))
    })
}

/// A Service whose endpoints stay: these pods.
fn stable(plane: &Plane<'_>, pods: &[Pod]) -> Result<()> {
    let slices = FAMILIES.map(|family| {
        let ips: Vec<_> = pods.iter().map(|pod| pod.ip(family)).collect();
        endpoint_slice(&format!("web-{family:?}").to_lowercase(), "web", &ips)
    });
    plane.apply(&together([service("web", &cluster_ips(10))].into_iter().chain(slices)))
}

/// Clients that call it all the time, from everywhere and in both families.
fn call(lab: &Lab, client: &Pod) -> Result<Vec<Running>> {
    let places = [client.client(), lab.outside(), lab.host()];
    let pairs = places.into_iter().flat_map(|place| FAMILIES.map(|family| (place, family)));
    let start = |(place, family): (Place<'_>, Family)| {
        place.start(Load::steady(Exchange::Http, SocketAddr::new(family.cluster_ip(10), 80), 20))
    };
    pairs.map(start).collect()
}

fn none_failed(clients: Vec<Running>) -> Result<()> {
    let mut answers = 0;
    for client in clients {
        let report = client.stop()?;
        assert_eq!(report.failures(), [""; 0]);
        answers += report.answers.len();
    }
    println!("{answers} requests meanwhile, none failed");
    Ok(())
}

#[test]
fn thousands_of_services_that_churn_end_as_they_are_declared() -> Result<()> {
    plane_or_skip!();
    let (mut seed, services) = (seed()?, 2000);
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, PlaneOptions { api_servers: 1, controllers: false })?;
    let pods = (11..14).map(|n| lab.pod(&format!("web-{n}"), n)).collect::<Result<Vec<_>>>()?;
    let client = lab.bare_pod("client", 20)?;
    let agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    stable(&plane, &pods)?;
    plane.agree(&agent)?;
    let clients = call(&lab, &client)?;

    let clock = Instant::now();
    fill(&plane, &mut seed, services)?;
    plane.agree(&agent)?;
    println!("{services} Services declared and programmed in {:.1} s", clock.elapsed().as_secs_f64());
    ensure!(programmed(&agent)?.len() > usize::from(services), "{}", programmed(&agent)?.len());
    for _ in 0..3 {
        churn(&plane, &mut seed, services, 300)?;
        plane.agree(&agent)?;
    }
    println!("and changed 900 times after {:.1} s", clock.elapsed().as_secs_f64());
    none_failed(clients)
}

#[test]
fn an_agent_that_is_killed_again_and_again_ends_as_declared() -> Result<()> {
    plane_or_skip!();
    let (mut seed, services) = (seed()?, 150);
    let lab = Lab::new()?;
    let mut plane = Plane::start(&lab, PlaneOptions { api_servers: 1, controllers: false })?;
    let pods = (11..14).map(|n| lab.pod(&format!("web-{n}"), n)).collect::<Result<Vec<_>>>()?;
    let client = lab.bare_pod("client", 20)?;
    let mut agent = Agent::start_on(&lab, plane.source([])?, AgentOptions::default())?;
    stable(&plane, &pods)?;
    fill(&plane, &mut seed, services)?;
    plane.agree(&agent)?;
    let clients = call(&lab, &client)?;

    let mut pauses = Seed(seed.number());
    let (done, mut kills) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let result = (0..8).try_for_each(|_| churn(&plane, &mut seed, services, 40));
            done.store(true, Ordering::Relaxed);
            result
        });
        while !done.load(Ordering::Relaxed) {
            // Anywhere in its life: while it loads its programs, reads the maps back, lists, writes.
            sleep(Duration::from_millis(pauses.below(900)));
            agent.kill()?;
            agent.launch()?;
            kills += 1;
        }
        writer.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the writer panicked")))
    })?;
    println!("killed {kills} times");
    ensure!(kills >= 5, "expected to kill it at least five times, but churn was over after {kills}");
    plane.agree(&agent)?;
    none_failed(clients)
}
