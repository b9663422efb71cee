//! Flows, one a row: the entry there and the entry back are one flow.

use std::collections::BTreeMap;

use lb_common::flow::{mirror, state};
use lb_common::ip::{V4, V6};
use lb_common::mem::{Image, Native, Of};
use lb_common::tables::{Flow, FlowKey, FrontendKey};
use serde::Serialize;

use super::names::{Names, endpoint, protocol};
use super::table::{Row, age};

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FlowRow {
    /// The protocol.
    pub protocol: String,
    /// The client.
    pub client: String,
    /// What it called.
    pub frontend: String,
    /// Where it was led.
    pub backend: String,
    /// How far it is.
    pub state: &'static str,
    /// Seconds since its newest packet.
    pub idle: u64,
    /// `namespace/name:port`; none where the frontend is no longer that Service's.
    pub service: Option<String>,
    /// The source that the backend sees, where it is not the client.
    pub masqueraded_as: Option<String>,
    /// Id of the backend.
    pub backend_id: u32,
    /// Which of the two entries are there: `both`, `there` or `back`.
    pub entries: &'static str,
}

impl Row for FlowRow {
    const COLUMNS: &'static [&'static str] = &["PROTO", "CLIENT", "FRONTEND", "BACKEND", "STATE", "IDLE", "SERVICE"];
    const WIDE: &'static [&'static str] = &["MASQUERADED-AS", "BACKEND-ID", "ENTRIES"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            self.client.clone(),
            self.frontend.clone(),
            self.backend.clone(),
            self.state.to_owned(),
            age(self.idle),
            self.service.clone().unwrap_or_default(),
        ]
    }

    fn wide(&self) -> Vec<String> {
        let masqueraded_as = self.masqueraded_as.clone().unwrap_or_default();
        vec![masqueraded_as, self.backend_id.to_string(), self.entries.to_owned()]
    }
}

/// All flows, by client, `now` in ticks; those of one Service where one is asked for. `seconds` makes seconds of ticks.
pub fn flows(native: &Native, now: u32, seconds: impl Fn(u32) -> u64, asked: Option<&str>) -> Vec<FlowRow> {
    let view = View { image: &native.image, now, seconds, asked };
    let mut rows = Vec::new();
    view.family::<V4>(native, &mut rows);
    view.family::<V6>(native, &mut rows);
    rows
}

struct View<'a, F> {
    image: &'a Image,
    now: u32,
    seconds: F,
    asked: Option<&'a str>,
}

impl<F: Fn(u32) -> u64> View<'_, F> {
    fn family<A: Of>(&self, native: &Native, rows: &mut Vec<FlowRow>) {
        let flows = A::flows(native);
        let mut pairs = BTreeMap::<FlowKey<A>, Pair<A>>::new();
        for (key, flow) in &flows.flows {
            let is_there = flow.state & state::THERE != 0;
            let (there_key, there) = if is_there { (*key, *flow) } else { mirror(key, flow) };
            let pair = pairs.entry(there_key).or_insert(Pair { flow: there, there: false, back: false });
            // The younger of the two is when the flow was last seen.
            pair.flow.seen = pair.flow.seen.max(flow.seen);
            pair.flow.state |= flow.state & (state::FINS | state::RST | state::REPLIED | state::ESTABLISHED);
            pair.there |= is_there;
            pair.back |= !is_there;
        }
        let wanted = pairs.iter().filter(|(key, pair)| self.wanted(key, &pair.flow));
        rows.extend(wanted.map(|(key, pair)| self.row(key, pair)));
    }

    fn wanted<A: Of>(&self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let Some(asked) = self.asked else { return true };
        self.service(key, flow).is_some_and(|id| Names(&self.image.names).asked(id, asked))
    }

    /// Id of the flow's Service port. A flow may outlive it, and its id then belong to another: the one that still has
    /// the frontend is the one that the flow knew.
    fn service<A: Of>(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Option<u32> {
        let frontend = A::side(self.image).frontends.get(&FrontendKey::new(key.dst, key.dport, key.proto))?;
        (frontend.service == flow.service).then_some(flow.service)
    }

    fn row<A: Of>(&self, key: &FlowKey<A>, pair: &Pair<A>) -> FlowRow {
        let flow = &pair.flow;
        let masqueraded = (flow.src, flow.sport) != (key.src, key.sport);
        FlowRow {
            protocol: protocol(key.proto),
            client: endpoint(key.src, key.sport),
            frontend: endpoint(key.dst, key.dport),
            backend: endpoint(flow.dst, flow.dport),
            state: stage(flow.state),
            idle: (self.seconds)(self.now.saturating_sub(flow.seen)),
            service: self.service(key, flow).map(|id| Names(&self.image.names).full(id)),
            masqueraded_as: masqueraded.then(|| endpoint(flow.src, flow.sport)),
            backend_id: flow.backend,
            entries: match (pair.there, pair.back) {
                (true, true) => "both",
                (true, false) => "there",
                (false, _) => "back",
            },
        }
    }
}

struct Pair<A: Of> {
    flow: Flow<A>,
    there: bool,
    back: bool,
}

fn stage(bits: u32) -> &'static str {
    if bits & state::RST != 0 {
        "reset"
    } else if bits & state::FINS == state::FINS {
        "closed"
    } else if bits & state::FINS != 0 {
        "closing"
    } else if bits & state::ESTABLISHED != 0 {
        "established"
    } else if bits & state::REPLIED != 0 {
        "replied"
    } else {
        "half-open"
    }
}

#[cfg(test)]
mod tests {
    use lb_common::ip::Be16;
    use lb_common::tables::Side;

    use super::super::services::tests::{image, ip};
    use super::super::table::{Output, render};
    use super::*;

    fn there(sport: u16, seen: u32) -> (FlowKey<V4>, Flow<V4>) {
        let key = FlowKey {
            src: ip("10.0.1.1"),
            dst: ip("10.96.0.10"),
            sport: Be16::new(sport),
            dport: Be16::new(80),
            proto: 6,
            side: Side::Ingress as u8,
            zero: 0,
        };
        let flow = Flow {
            src: key.src,
            dst: ip("10.0.0.2"),
            sport: key.sport,
            dport: Be16::new(8080),
            addrs: 0,
            ports: 0,
            state: state::THERE,
            seen,
            backend: 2,
            service: 7,
        };
        (key, flow)
    }

    #[test]
    fn both_entries_of_a_flow_are_one_row() {
        let mut native = Native::new(image());
        let (key, flow) = there(40_001, 10);
        let flow = Flow { state: flow.state | state::ESTABLISHED, ..flow };
        let (back_key, back) = mirror(&key, &Flow { seen: 95, ..flow });
        native.v4.flows.extend([(key, flow), (back_key, back)]);
        let (key, mut flow) = there(40_002, 90);
        flow.sport = Be16::new(1024);
        flow.src = ip("192.0.2.1");
        flow.state |= state::MASQUERADE;
        native.v4.flows.insert(key, flow);
        let (back_key, back) = mirror(&there(40_003, 100).0, &there(40_003, 100).1);
        native.v4.flows.insert(back_key, Flow { state: state::REPLIED, ..back });
        let rows = flows(&native, 100, u64::from, None);
        assert_eq!(
            render(&rows, Output::Wide).unwrap(),
            "\
PROTO   CLIENT           FRONTEND        BACKEND         STATE         IDLE   SERVICE         MASQUERADED-AS   BACKEND-ID   ENTRIES
TCP     10.0.1.1:40001   10.96.0.10:80   10.0.0.2:8080   established   5s     shop/web:http   -                2            both
TCP     10.0.1.1:40002   10.96.0.10:80   10.0.0.2:8080   half-open     10s    shop/web:http   192.0.2.1:1024   2            there
TCP     10.0.1.1:40003   10.96.0.10:80   10.0.0.2:8080   replied       0s     shop/web:http   -                2            back
"
        );
        assert!(flows(&native, 100, u64::from, Some("dns")).is_empty());
    }

    #[test]
    fn a_flow_that_outlived_its_service_port_is_not_given_to_whoever_has_its_id_now() {
        let mut native = Native::new(image());
        let (key, flow) = there(40_001, 10);
        native.v4.flows.insert(key, flow);
        // Id 7 is another's now, at another address.
        native.image.v4.frontends.retain(|key, _| key.addr != ip("10.96.0.10"));
        native.image.names.insert(7, native.image.names[&8]);
        assert_eq!(flows(&native, 100, u64::from, None)[0].service, None);
        assert!(flows(&native, 100, u64::from, Some("dns")).is_empty());
    }

    #[test]
    fn the_state_tells_how_far_a_flow_is() {
        for (bits, expected) in [
            (0, "half-open"),
            (state::REPLIED, "replied"),
            (state::ESTABLISHED | state::REPLIED, "established"),
            (state::ESTABLISHED | state::FIN_BACK, "closing"),
            (state::ESTABLISHED | state::FINS, "closed"),
            (state::RST, "reset"),
        ] {
            assert_eq!(stage(bits), expected);
        }
    }
}
