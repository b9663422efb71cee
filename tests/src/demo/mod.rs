//! The demo: what a Service is for, shown with the real agent on a world of namespaces, and measured.
//!
//! Each step states what it expects; the first expectation that does not hold ends the demo with an error.

mod cluster;
mod screen;

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::lab::{
    Agent, AgentOptions, Exchange, FAMILIES, Family, Lab, Load, NIC, Netns, Place, Pod, Report, SocketPath, Xdp,
};
use cluster::Cluster;
use screen::Screen;

/// Requests of one round. Three pods get a third each, give or take what [`UNEVEN`] allows.
const REQUESTS: usize = 300;
/// Chi-square for three pods that a fair choice exceeds once in a million runs.
const UNEVEN: f64 = 27.6;
/// Between two requests of a stream.
const GAP_MS: u64 = 5;
/// How long a pod that was deleted still runs. Real ones have 30 s; the demo has a minute in all.
const GRACE: Duration = Duration::from_millis(500);

/// What the user asked for.
#[derive(Clone, Debug, Default)]
pub struct DemoOptions {
    /// Leave the world up at the end, until Ctrl-C.
    pub keep: bool,
    /// Tell the story to a real API server, with kubectl.
    pub kubernetes: bool,
}

/// Runs the demo. Needs root and the `sluice` binary.
pub fn run(options: &DemoOptions) -> Result<()> {
    let began = Instant::now();
    let screen = Screen::new();
    screen.title("What a Kubernetes Service is for");
    screen.say("Pods come and go, and each new one has a new address. A Service gives them one address that stays.");

    let lab = screen.wait("Building a node, a client outside, a front-end pod and three back-end pods", Lab::new)?;
    let front = lab.bare_pod("front", 20)?;
    let mut pods = Vec::new();
    for n in 1..=3 {
        pods.push(lab.pod(&format!("web-{n}"), 10 + n)?);
    }
    show_world(&screen, &front, &pods);
    let mut cluster = Cluster::start(&lab, options.kubernetes, &screen)?;
    cluster.declare(&pods, &screen)?;

    // Off at the pods' sockets, so that what you see is packets being rewritten.
    let agent_options = AgentOptions { socket_path: SocketPath::Host, xdp: Xdp::Native, ..AgentOptions::default() };
    let start = Instant::now();
    let source = cluster.source()?;
    let agent = screen.wait("Starting the agent: it loads its programs and fills their maps", || {
        Agent::start_on(&lab, source, agent_options)
    })?;
    screen.fact(&format!("The agent is ready after {} ms.", start.elapsed().as_millis()));

    screen.title("1. One address, three pods");
    screen.say(&format!("The front-end pod calls {} {REQUESTS} times, a new connection each.", target()));
    balance(&screen, front.client(), &pods)?;

    screen.title("2. A pod is deleted and comes back with a new address");
    screen.say(
        "The front end calls on, and is told nothing. The pod first leaves the Service; its process ends a while later,\n\
         as the kubelet does it, so that connections under way can end in peace.",
    );
    replace(&screen, &lab, &mut cluster, &mut pods, 1, 31, front.client())?;

    screen.title("3. The same from outside, through XDP at the NIC");
    let devices = agent.json(&["devices"])?;
    let nic = devices.as_array().into_iter().flatten().find(|row| row["device"] == NIC);
    let at = nic.and_then(|row| row["ingress"].as_str()).unwrap_or("nothing");
    ensure!(at.starts_with("xdp native"), "expected XDP in the driver of {NIC}, but there is {at}: {devices}");
    screen.say(&format!("The client outside calls {} too; the packets are rewritten as they reach {NIC}.", target()));
    balance(&screen, lab.outside(), &pods)?;
    replace(&screen, &lab, &mut cluster, &mut pods, 2, 32, lab.outside())?;

    screen.title("4. What is in the kernel's maps now");
    for command in [&["services"][..], &["backends"], &["flows", "--limit", "8"]] {
        let output = agent.cli(command)?;
        let command = command.join(" ");
        ensure!(
            output.status.success() && !output.stdout.is_empty(),
            "expected `sluice {command}` to show something, but it ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        screen.command(&format!("sluice {command}"), &String::from_utf8_lossy(&output.stdout));
    }

    screen.title(&format!("All as expected, in {:.0} s.", began.elapsed().as_secs_f64()));
    if options.keep {
        keep(&screen, &lab, &cluster, &agent, &front)?;
    }
    drop(agent);
    Ok(())
}

fn target() -> SocketAddr {
    SocketAddr::new(Family::V4.cluster_ip(10), 80)
}

fn show_world(screen: &Screen, front: &Pod, pods: &[Pod]) {
    let mut rows = vec![
        ("outside".to_owned(), format!("{:<12}  a client that is not in the cluster", Family::V4.outside_ip())),
        ("node".to_owned(), format!("{:<12}  runs the agent; its NIC is {NIC}", Family::V4.node_ip())),
        ("front".to_owned(), format!("{:<12}  a pod that needs the web pods", front.ip(Family::V4))),
    ];
    for pod in pods {
        rows.push((pod.name.clone(), format!("{:<12}  a pod with an HTTP server", pod.ip(Family::V4))));
    }
    screen.rows(&rows);
}

/// Calls the Service, and expects that every pod answers its share.
fn balance(screen: &Screen, from: Place<'_>, pods: &[Pod]) -> Result<()> {
    let running = from.start(Load::new(Exchange::Http, target(), REQUESTS))?;
    let report = screen.watch(running, REQUESTS)?;
    let counts = report.by_pod();
    for pod in pods {
        let count = counts.get(&pod.name).copied().unwrap_or_default();
        screen.bar(&format!("{} {}", pod.name, pod.ip(Family::V4)), count, REQUESTS);
    }
    no_failure(screen, &report)?;
    ensure!(counts.len() == pods.len(), "expected an answer from each of {} pods, but got {counts:?}", pods.len());
    ensure!(report.unevenness(pods.len()) < UNEVEN, "expected even shares, but got {counts:?}");
    let peers_are_the_service = report.seen().all(|seen| seen.peer == target());
    ensure!(peers_are_the_service, "expected that the client speaks with {} only", target());
    Ok(())
}

/// Replaces `pods[which]` by a pod of the same name with another address, under a stream of requests.
fn replace(
    screen: &Screen,
    lab: &Lab,
    cluster: &mut Cluster<'_>,
    pods: &mut Vec<Pod>,
    which: usize,
    n: u8,
    from: Place<'_>,
) -> Result<()> {
    let stream = from.start(Load::steady(Exchange::Http, target(), GAP_MS))?;
    let clock = Instant::now();
    sleep(Duration::from_millis(1200));

    let pod = pods.remove(which);
    let (name, old) = (pod.name.clone(), pod.ip(Family::V4));
    cluster.delete_pod(&pod, pods)?;
    screen.event(clock, &format!("{name} {old} is deleted: it leaves the Service"));
    sleep(GRACE);
    drop(pod);
    cluster.pod_ended(&name)?;
    screen.event(clock, &format!("its process has ended, {old} is gone"));
    sleep(Duration::from_millis(300));
    let pod = lab.pod(&name, n)?;
    let new = pod.ip(Family::V4);
    let back_at = clock.elapsed();
    cluster.run_pod(&pod)?;
    pods.insert(which, pod);
    screen.event(clock, &format!("{name} is back as {new}"));
    sleep(Duration::from_millis(1500));
    let report = stream.stop()?;

    let (before, after) = split(&report, back_at);
    screen.rows(&[("answers before".to_owned(), list(&before)), ("answers after".to_owned(), list(&after))]);
    no_failure(screen, &report)?;
    ensure!(before.by_address().contains_key(&old), "expected answers from {old} before, got {}", list(&before));
    ensure!(after.by_address().contains_key(&new), "expected answers from {new} after, got {}", list(&after));
    ensure!(!after.by_address().contains_key(&old), "expected no answer from {old} after its end");
    let first = after.answers.iter().find(|a| a.result.as_ref().is_ok_and(|seen| seen.server.address == new));
    if let Some(first) = first {
        let took = first.at_ms.saturating_sub(back_at.as_millis() as u64);
        screen.fact(&format!("The new pod got its first request {took} ms after it was declared."));
    }
    Ok(())
}

fn no_failure(screen: &Screen, report: &Report) -> Result<()> {
    let failures = report.failures();
    screen.fact(&format!("failed: {} of {}", failures.len(), report.answers.len()));
    ensure!(failures.is_empty(), "expected no failure, but: {}", failures.join("; "));
    Ok(())
}

/// Leaves the world up, and says what to do with it. Ctrl-C removes it and ends the process.
fn keep(screen: &Screen, lab: &Lab, cluster: &Cluster<'_>, agent: &Agent<'_>, front: &Pod) -> Result<()> {
    let nsenter = |ns: &Netns| format!("nsenter --net={}", ns.path().display());
    let sluice = format!("{} {}", nsenter(&lab.node), agent.program().display());
    let pins = format!("--pin-root {} --run-dir {}", lab.bpffs().display(), lab.run_dir().display());
    let [v4, v6] = FAMILIES.map(|family| SocketAddr::new(family.cluster_ip(10), 80));
    screen.title("The world stays up until you press Ctrl-C here. Try, in another terminal:");
    let by_hand = cluster.commands()?;
    screen.commands(&[
        ("call the Service from the front-end pod", format!("{} curl http://{v4}", nsenter(&front.ns))),
        ("the same over IPv6", format!("{} curl -g 'http://{v6}'", nsenter(&front.ns))),
        ("from outside", format!("{} curl http://{v4}", nsenter(&lab.outside))),
        ("see what the kernel does", format!("{sluice} flows {pins} --watch")),
        ("see how the agent is", format!("{sluice} status {pins}")),
        ("see the agent's log", format!("tail -f {}", lab.dir().join("agent.log").display())),
    ]);
    screen.commands(&by_hand);
    screen.commands(&[("remove all of it", "press Ctrl-C here".to_owned())]);
    loop {
        // The handler for Ctrl-C removes the lab and ends the process.
        std::thread::park();
    }
}

fn split(report: &Report, at: Duration) -> (Report, Report) {
    let (before, after) = report.answers.iter().cloned().partition(|a| u128::from(a.at_ms) < at.as_millis());
    (Report { answers: before }, Report { answers: after })
}

fn list(report: &Report) -> String {
    let counts: Vec<String> = report.by_address().iter().map(|(ip, n): (&IpAddr, _)| format!("{ip} ({n})")).collect();
    counts.join("  ")
}
