//! The state of the whole.

use std::fmt::Write;

use serde::Serialize;

use super::table::{Output, age, aligned, serialized};
use crate::watch::Problem;

/// What `sluice status` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatusReport {
    /// The agent; none where none runs.
    pub agent: Option<AgentFacts>,
    /// Whether programs and maps are in the kernel.
    pub attached: bool,
    /// The layout of the maps.
    pub layout: u32,
    /// Whether new flows are left to the next proxy (`sluice uninstall --drain`).
    pub draining: bool,
    /// For how many more seconds connections that another proxy began are left to that (`--takeover`).
    pub takeover: u64,
    /// Devices with programs.
    pub devices: usize,
    /// Socket hooks with programs.
    pub socket_hooks: Vec<String>,
    /// How full the maps are.
    pub maps: Vec<MapRow>,
    /// Packets by reason.
    pub counters: Vec<CounterRow>,
}

/// What a running agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentFacts {
    /// Whether the maps are complete.
    pub ready: bool,
    /// Its process.
    pub pid: u32,
    /// The node it is for.
    pub node: String,
    /// Seconds since it started.
    pub age: u64,
    /// Seconds since it last wrote to a map; none where it never did.
    pub last_write: Option<u64>,
    /// Map operations written since it started.
    pub writes: u64,
    /// Map entries that others had changed.
    pub repairs: u64,
    /// Services that are declared.
    pub services: usize,
    /// Where it learns what is declared.
    pub source: SourceFacts,
    /// Why this node is not healthy, empty where it is; none where it was not judged yet.
    pub unhealthy: Option<Vec<String>>,
    /// Why the maps are not as they shall be.
    pub error: Option<String>,
    /// What is wrong with what was declared, or with devices.
    #[serde(serialize_with = "problems")]
    pub problems: Vec<Problem>,
}

/// What a running agent says of its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceFacts {
    /// A folder, or the server in use.
    pub name: String,
    /// Why it learns nothing.
    pub fault: Option<String>,
    /// Seconds since when that is so, or all is well; none where it tries for the first time, or needs no connection.
    pub age: Option<u64>,
    /// How often it was well again after a fault.
    pub recoveries: u64,
}

fn problems<S: serde::Serializer>(problems: &[Problem], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(problems.iter().map(ToString::to_string))
}

/// A map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapRow {
    /// Its name.
    pub map: String,
    /// What is in it: entries, or flows.
    pub entries: u64,
    /// Room.
    pub capacity: u64,
    /// The option that enlarges it.
    pub option: Option<String>,
}

/// A counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    /// The reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// What it means.
    pub meaning: String,
}

impl StatusReport {
    /// As text.
    ///
    /// # Errors
    /// It cannot be serialized.
    pub fn render(&self, output: Output) -> Result<String, String> {
        match output {
            Output::Json | Output::Yaml => serialized(self, output),
            Output::Table | Output::Wide => Ok(self.text(output == Output::Wide)),
        }
    }

    fn text(&self, wide: bool) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{:<14}{value}", format!("{name}:"));
        };
        line("Agent", &self.agent_line());
        line("Datapath", &self.datapath_line());
        line("Layout", &format!("v{}", self.layout));
        if self.draining {
            line("Draining", "new flows are left to the next proxy");
        }
        if self.takeover > 0 {
            line(
                "Takeover",
                &format!("for {} more, connections of the proxy before are left to it", age(self.takeover)),
            );
        }
        if let Some(agent) = &self.agent {
            if let Some(reasons) = &agent.unhealthy {
                match reasons.is_empty() {
                    true => line("Health", "healthy"),
                    false => line("Health", &format!("not healthy: {}", reasons.join("; "))),
                }
            }
            line("Node", &agent.node);
            line("Source", &source_line(&agent.source));
            line("Services", &agent.services.to_string());
            line("Writes", &writes_line(agent));
            if let Some(error) = &agent.error {
                line("Error", error);
            }
            for problem in &agent.problems {
                line("Problem", &problem.to_string());
            }
        }
        if !self.maps.is_empty() {
            let cells = |row: &MapRow| {
                let percent = row.entries * 100 / row.capacity.max(1);
                let option = row.option.clone().unwrap_or_default();
                vec![row.map.clone(), row.entries.to_string(), row.capacity.to_string(), format!("{percent}%"), option]
            };
            text.push('\n');
            text += &aligned(&["MAP", "ENTRIES", "CAPACITY", "FILL", "OPTION"], self.maps.iter().map(cells));
        }
        let counters: Vec<_> = self.counters.iter().filter(|row| wide || row.packets > 0).collect();
        if !counters.is_empty() {
            let cells = |row: &&CounterRow| vec![row.reason.clone(), row.packets.to_string(), row.meaning.clone()];
            text.push('\n');
            text += &aligned(&["REASON", "PACKETS", "MEANING"], counters.iter().map(cells));
        }
        text
    }

    fn agent_line(&self) -> String {
        match &self.agent {
            None => "not running".to_owned(),
            Some(agent) => {
                let ready = if agent.ready { "ready" } else { "not ready yet" };
                format!("running, {ready} (process {}, since {})", agent.pid, age(agent.age))
            }
        }
    }

    fn datapath_line(&self) -> String {
        match self.attached {
            false => "not attached".to_owned(),
            true => format!("attached to {} devices and {} socket hooks", self.devices, self.socket_hooks.len()),
        }
    }
}

fn source_line(source: &SourceFacts) -> String {
    let SourceFacts { name, fault, age: since, recoveries } = source;
    let since = since.map(age);
    let state = match (fault, since) {
        (None, None) => String::new(),
        (None, Some(since)) => format!(", connected for {since}"),
        (Some(fault), since) => format!(", not well for {}: {fault}", since.unwrap_or_default()),
    };
    let again = if *recoveries > 0 { format!(" (found again {recoveries} times)") } else { String::new() };
    format!("{name}{state}{again}")
}

fn writes_line(agent: &AgentFacts) -> String {
    let last = agent.last_write.map_or(String::new(), |last| format!(", the last {} ago", age(last)));
    let repairs = if agent.repairs > 0 { format!(", {} of them repairs", agent.repairs) } else { String::new() };
    format!("{}{last}{repairs}", agent.writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> StatusReport {
        let map = MapRow { map: "NAMES".into(), entries: 50, capacity: 100, option: Some("--max-services".into()) };
        let counter =
            |reason: &str, packets| CounterRow { reason: reason.into(), packets, meaning: "A packet.".into() };
        StatusReport {
            agent: None,
            attached: true,
            layout: 1,
            draining: false,
            takeover: 0,
            devices: 3,
            socket_hooks: vec!["connect4".into()],
            maps: vec![map],
            counters: vec![counter("reply", 7), counter("no_ports", 0)],
        }
    }

    #[test]
    fn without_an_agent_the_datapath_is_still_shown() {
        assert_eq!(
            report().render(Output::Table).unwrap(),
            "\
Agent:        not running
Datapath:     attached to 3 devices and 1 socket hooks
Layout:       v1

MAP     ENTRIES   CAPACITY   FILL   OPTION
NAMES   50        100        50%    --max-services

REASON   PACKETS   MEANING
reply    7         A packet.
"
        );
    }

    #[test]
    fn what_is_left_to_other_proxies_is_said() {
        let text = StatusReport { draining: true, takeover: 125, ..report() }.render(Output::Table).unwrap();
        let lines = "\
Layout:       v1
Draining:     new flows are left to the next proxy
Takeover:     for 2m5s more, connections of the proxy before are left to it
";
        assert!(text.contains(lines), "{text}");
    }

    #[test]
    fn a_running_agent_says_how_it_is() {
        let agent = AgentFacts {
            ready: true,
            pid: 42,
            node: "n1".into(),
            age: 125,
            last_write: Some(3),
            writes: 17,
            repairs: 0,
            services: 2,
            source: SourceFacts { name: "https://10.0.0.1:6443".into(), age: Some(125), ..SourceFacts::default() },
            unhealthy: Some(vec!["eth0 has no program".into(), "no room".into()]),
            error: None,
            problems: vec![Problem::new("web.yaml", "no such field")],
        };
        let report = StatusReport { agent: Some(agent), maps: vec![], counters: vec![], ..report() };
        assert_eq!(
            report.render(Output::Table).unwrap(),
            "\
Agent:        running, ready (process 42, since 2m5s)
Datapath:     attached to 3 devices and 1 socket hooks
Layout:       v1
Health:       not healthy: eth0 has no program; no room
Node:         n1
Source:       https://10.0.0.1:6443, connected for 2m5s
Services:     2
Writes:       17, the last 3s ago
Problem:      web.yaml: no such field
"
        );
        assert!(report.render(Output::Json).unwrap().contains("\"web.yaml: no such field\""));
    }
}
