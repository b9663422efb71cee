//! What the maps must hold, read from the API by kubectl and from the maps by the command line: two ways that share no
//! code with the agent's own. Knows where clients inside the cluster are led, under the traffic policy `Cluster`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Plane;
use crate::lab::{Agent, FAMILIES, Node};

/// For each address and port that clients call, with its protocol, where that leads.
pub type Frontends = BTreeMap<(SocketAddr, String), BTreeSet<SocketAddr>>;

/// Labels by which a Service says that it is another's.
const OTHERS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
/// Rows of a difference that are shown.
const SHOWN: usize = 5;

impl Plane<'_> {
    /// What the API says that clients can call at a node whose NodePorts are at its primary addresses.
    pub fn declared(&self, node: &Node) -> Result<Frontends> {
        let services = self.get(&["services", "--all-namespaces"])?;
        let slices = self.get(&["endpointslices", "--all-namespaces"])?;
        let mut by_service = BTreeMap::<_, Vec<_>>::new();
        for slice in items(&slices)? {
            let meta = &slice["metadata"];
            let service = text(&meta["labels"]["kubernetes.io/service-name"]);
            by_service.entry((text(&meta["namespace"]), service)).or_default().push(slice);
        }
        let mut frontends = Frontends::new();
        for service in items(&services)? {
            let (meta, spec) = (&service["metadata"], &service["spec"]);
            if spec["type"] == "ExternalName" || OTHERS.iter().any(|label| meta["labels"].get(label).is_some()) {
                continue;
            }
            let slices = by_service.get(&(text(&meta["namespace"]), text(&meta["name"])));
            let slices: &[&Value] = slices.map_or(&[], Vec::as_slice);
            let parsed = |ip: &Value| {
                let ip = text(ip);
                ip.parse::<IpAddr>().with_context(|| format!("{} has the address {ip}", meta["name"]))
            };
            let cluster_ips: Vec<_> = list(&spec["clusterIPs"]).iter().filter(|ip| **ip != "None").collect();
            let cluster_ips = cluster_ips.into_iter().map(parsed).collect::<Result<Vec<_>>>()?;
            let ingress = list(&service["status"]["loadBalancer"]["ingress"]).iter();
            let balanced = ingress.filter(|ingress| ingress["ipMode"] != "Proxy").map(|ingress| parsed(&ingress["ip"]));
            let external = list(&spec["externalIPs"]).iter().map(parsed).chain(balanced).collect::<Result<Vec<_>>>()?;
            // A family of which it has no ClusterIP is none of its.
            let has = |ip: &&IpAddr| cluster_ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
            let own = FAMILIES.map(|family| node.address(family));
            for port in list(&spec["ports"]) {
                let number = |field: &str| port[field].as_u64().map(u16::try_from).transpose();
                let at = number("port")?.context("a port without a number")?;
                let virtual_ips = cluster_ips.iter().chain(&external).filter(has).map(|ip| SocketAddr::new(*ip, at));
                let node_port = number("nodePort")?;
                let at_node = own.iter().filter(has).filter_map(|ip| Some(SocketAddr::new(*ip, node_port?)));
                for frontend in virtual_ips.chain(at_node) {
                    let backends = backends(slices, frontend.is_ipv4(), text(&port["name"]))?;
                    frontends.insert((frontend, text(&port["protocol"]).to_owned()), backends);
                }
            }
        }
        Ok(frontends)
    }

    /// Waits until the agent's maps hold what the API says, which must not change meanwhile.
    pub fn agree(&mut self, agent: &Agent<'_>) -> Result<()> {
        let declared = self.declared(agent.node())?;
        let mut difference = String::new();
        let agreed = self.wait_until("the maps hold what the API says", |_| {
            difference = differences(&declared, &programmed(agent)?);
            Ok(difference.is_empty())
        });
        agreed.with_context(|| format!("{difference}\nthe agent's log:\n{}", agent.log().unwrap_or_default()))
    }
}

/// Where a port of a Service leads, in one family: the ready ones, else those that still serve while they end.
fn backends(slices: &[&Value], v4: bool, port: &str) -> Result<BTreeSet<SocketAddr>> {
    let family = if v4 { "IPv4" } else { "IPv6" };
    let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.iter().filter(|slice| slice["addressType"] == family) {
        let number = list(&slice["ports"]).iter().find(|p| text(&p["name"]) == port).map(|p| &p["port"]);
        let Some(number) = number.and_then(Value::as_u64) else { continue };
        for endpoint in list(&slice["endpoints"]) {
            let address = text(&endpoint["addresses"][0]).parse().context("an endpoint without an address")?;
            let address = SocketAddr::new(address, u16::try_from(number)?);
            let says = |name: &str| endpoint["conditions"][name].as_bool();
            let is_ready = says("ready").unwrap_or(true);
            if is_ready {
                ready.insert(address);
            } else if says("serving").unwrap_or(is_ready) && says("terminating").unwrap_or(false) {
                ending.insert(address);
            }
        }
    }
    Ok(if ready.is_empty() { ending } else { ready })
}

/// What the maps say that clients can call.
pub fn programmed(agent: &Agent<'_>) -> Result<Frontends> {
    let rows = agent.json(&["services"])?;
    let mut frontends = Frontends::new();
    for row in rows.as_array().context("`sluice services` printed no list")? {
        let frontend = text(&row["frontend"]).parse().with_context(|| format!("no address in {row}"))?;
        let backends = list(&row["backend_addresses"]).iter().map(|address| text(address).parse());
        let backends = backends.collect::<Result<_, _>>().with_context(|| format!("no address in {row}"))?;
        if frontends.insert((frontend, text(&row["protocol"]).to_owned()), backends).is_some() {
            bail!("two rows of {frontend}: {rows}");
        }
    }
    Ok(frontends)
}

/// For people; empty where there is none.
fn differences(want: &Frontends, have: &Frontends) -> String {
    let keys: BTreeSet<_> = want.keys().chain(have.keys()).filter(|key| want.get(key) != have.get(key)).collect();
    let row = |key: &&(SocketAddr, String)| {
        format!("{}/{}: the API says {:?}, the maps {:?}", key.0, key.1, want.get(key), have.get(key))
    };
    let mut rows: Vec<_> = keys.iter().take(SHOWN).map(row).collect();
    if keys.len() > SHOWN {
        rows.push(format!("and {} more", keys.len() - SHOWN));
    }
    rows.join("\n")
}

fn items(list: &Value) -> Result<&Vec<Value>> {
    list["items"].as_array().context("kubectl printed no list")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_go_by_name_and_the_ready_before_the_ending() {
        let endpoint = |ip: &str, ready: bool, ending: bool| {
            let conditions = json!({ "ready": ready, "serving": ready || ending, "terminating": ending });
            json!({ "addresses": [ip], "conditions": conditions })
        };
        let slice = |port: u16, endpoints: &[Value]| json!({ "addressType": "IPv4", "ports": [{ "name": "a", "port": port }], "endpoints": endpoints });
        let first = slice(1, &[endpoint("10.0.0.1", true, false), endpoint("10.0.0.2", false, true)]);
        let second = slice(2, &[endpoint("10.0.0.1", true, false), endpoint("10.0.0.3", false, false)]);
        let ending = slice(1, &[endpoint("10.0.0.2", false, true), endpoint("10.0.0.3", false, false)]);
        let set = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<SocketAddr>>();
        let of = |slices: &[&Value], v4, port| backends(slices, v4, port).unwrap();
        assert_eq!(of(&[&first, &second], true, "a"), set(&["10.0.0.1:1", "10.0.0.1:2"]));
        assert_eq!(of(&[&ending], true, "a"), set(&["10.0.0.2:1"]));
        assert!(of(&[&first], true, "b").is_empty() && of(&[&first], false, "a").is_empty());
        let silent =
            json!({ "addressType": "IPv4", "ports": [{ "port": 3 }], "endpoints": [{ "addresses": ["10.0.0.9"] }] });
        assert_eq!(of(&[&silent], true, ""), set(&["10.0.0.9:3"]));
    }

    #[test]
    fn a_difference_is_named() {
        let one = Frontends::from([(("10.96.0.1:80".parse().unwrap(), "TCP".to_owned()), BTreeSet::new())]);
        assert_eq!(differences(&one, &one), "");
        assert!(
            differences(&one, &Frontends::new()).contains("10.96.0.1:80/TCP: the API says Some({}), the maps None")
        );
    }
}
