//! Netfilter rules that drop what belongs to no connection, as many firewalls have them, and kube-proxy of old.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Netns;

const RULES: &str = "
table inet firewall {
    counter invalid {}
    set v4 { type ipv4_addr . ipv4_addr . inet_proto . inet_service . iface_index; flags dynamic; size 100; }
    set v6 { type ipv6_addr . ipv6_addr . inet_proto . inet_service . iface_index; flags dynamic; size 100; }
    chain invalid {
        # The node's advice to pods of one bridge that they need no router; it is of no connection.
        icmpv6 type nd-redirect return
        add @v4 { ip saddr . ip daddr . meta l4proto . th dport . meta iif }
        add @v6 { ip6 saddr . ip6 daddr . meta l4proto . th dport . meta iif }
        counter name invalid drop
    }
    chain forward { type filter hook forward priority 0; ct state invalid jump invalid; }
    chain input { type filter hook input priority 0; ct state invalid jump invalid; }
    chain output { type filter hook output priority 0; ct state invalid jump invalid; }
}
";

/// Such rules, in a network namespace, with which they end.
#[derive(Debug)]
pub struct Firewall<'a>(&'a Netns);

impl<'a> Firewall<'a> {
    /// Sets the rules.
    pub fn new(ns: &'a Netns) -> Result<Self> {
        ns.output("nft", &[RULES])?;
        Ok(Self(ns))
    }

    /// How many packets they have dropped.
    pub fn dropped(&self) -> Result<u64> {
        let said: Value = serde_json::from_str(&self.0.output("nft", &["-j", "list", "counters"])?)?;
        let mut objects = said["nftables"].as_array().into_iter().flatten();
        objects.find_map(|object| object["counter"]["packets"].as_u64()).context("nft lists no counter")
    }

    /// The rules, and what they have dropped, for people.
    pub fn text(&self) -> Result<String> {
        self.0.output("nft", &["list", "table", "inet", "firewall"])
    }
}
