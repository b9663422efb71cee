//! Packets that the kernel threw away because a queue was full, by its own counters: no program of ours saw them.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use super::Netns;

/// How many, by queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overruns(BTreeMap<String, u64>);

impl Overruns {
    /// What was counted so far in these namespaces, and on each CPU of the machine.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn count<'a>(spaces: impl IntoIterator<Item = &'a Netns>) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for (cpu, line) in read("/proc/net/softnet_stat")?.lines().enumerate() {
            // The second column: its backlog was full.
            let dropped = line.split_whitespace().nth(1).and_then(|hex| u64::from_str_radix(hex, 16).ok());
            counts.insert(format!("backlog of CPU {cpu}"), dropped.context("softnet_stat has no second column")?);
        }
        for ns in spaces {
            let (devices, udp, udp6) = ns.run(|| {
                let read = |name| read(&format!("/proc/thread-self/net/{name}"));
                Ok((read("dev")?, read("snmp")?, read("snmp6")?))
            })?;
            let name = ns.name();
            for (device, [rx, tx]) in dropped_by_devices(&devices) {
                counts.insert(format!("{name} {device} rx"), rx);
                counts.insert(format!("{name} {device} tx"), tx);
            }
            counts.insert(format!("{name} UDP sockets, IPv4"), of_udp(&udp).context("snmp names no RcvbufErrors")?);
            let v6 = udp6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors")?.trim().parse().ok());
            counts.insert(format!("{name} UDP sockets, IPv6"), v6.context("snmp6 names no RcvbufErrors")?);
        }
        Ok(Self(counts))
    }

    /// Those that came since, by queue.
    pub fn since(&self, before: &Self) -> BTreeMap<&str, u64> {
        let grown = |(queue, count): (&String, &u64)| count - before.0.get(queue).copied().unwrap_or(0).min(*count);
        let all = self.0.iter().map(|entry| (entry.0.as_str(), grown(entry)));
        all.filter(|(_, count)| *count > 0).collect()
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// Received and sent packets that each device of `/proc/net/dev` dropped.
fn dropped_by_devices(text: &str) -> impl Iterator<Item = (&str, [u64; 2])> {
    text.lines().filter_map(|line| {
        let (device, columns) = line.split_once(':')?;
        let columns: Vec<u64> = columns.split_whitespace().map_while(|column| column.parse().ok()).collect();
        Some((device.trim(), [*columns.get(3)?, *columns.get(11)?]))
    })
}

/// `RcvbufErrors` of the lines `Udp:` of `/proc/net/snmp`: names, then values.
fn of_udp(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let at = lines.next()?.split_whitespace().position(|name| name == "RcvbufErrors")?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_columns() {
        let dev = "Inter-|   Receive                                                |  Transmit\n \
                   face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo\n  \
                   eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(dropped_by_devices(dev).collect::<Vec<_>>(), [("eth0", [4, 12])]);
        let snmp =
            "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 1 2 3 4 5\nUdpLite: InDatagrams\n";
        assert_eq!(of_udp(snmp), Some(5));
    }

    #[test]
    fn what_grew_is_told() {
        let counts = |n| Overruns([("a".to_owned(), 1), ("b".to_owned(), n)].into());
        assert_eq!(counts(5).since(&counts(2)), [("b", 3)].into());
    }
}
