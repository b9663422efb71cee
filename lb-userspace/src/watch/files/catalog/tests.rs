//! Step by step comes to the same as all at once.

use std::ffi::OsStr;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::state::State;
use crate::watch::files::manifest;

fn name(text: &str) -> Name {
    OsStr::new(text).into()
}

fn objects(text: &str) -> Vec<Object> {
    manifest::parse(text).unwrap().objects
}

fn web(selector: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
         spec: {{clusterIP: 10.0.0.1, selector: {{{selector}}}, ports: [{{port: 80}}]}}\n---\n"
    )
}

fn pod(name: &str, labels: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nstatus: {{podIP: {ip}}}\n---\n"
    )
}

/// Services, and slices with their addresses.
fn shown(state: &State) -> Vec<String> {
    let slices = state.services().flat_map(|service| {
        state.slices(&service.name).map(|slice| {
            let addresses: Vec<_> = slice.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
            format!("{}: {}", slice.name, addresses.join(" "))
        })
    });
    slices.collect()
}

struct World {
    catalog: Catalog,
    state: State,
}

impl World {
    fn put(&mut self, file: &str, text: &str) -> usize {
        self.catalog.put(&name(file), objects(text));
        self.take()
    }

    fn take(&mut self) -> usize {
        let events = self.catalog.take_events();
        let count = events.len();
        events.into_iter().for_each(|event| self.state.apply(event));
        count
    }

    fn new() -> Self {
        Self { catalog: Catalog::default(), state: State::default() }
    }
}

#[test]
fn a_pod_touches_only_the_services_that_select_it() {
    let mut world = World::new();
    world.put("a.yaml", &web("app: web, tier: front"));
    world.put("b.yaml", &web("app: db").replace("name: web", "name: db"));
    assert_eq!(world.put("p.yaml", &pod("p", "app: web, tier: front, x: y", "10.1.0.1")), 1);
    assert_eq!(world.put("q.yaml", &pod("q", "app: web, tier: back", "10.1.0.2")), 0);
    assert_eq!(world.put("q.yaml", &pod("q", "app: web, tier: front", "10.1.0.2")), 1);
    assert_eq!(shown(&world.state), ["default/web/0: 10.1.0.1 10.1.0.2"]);
    assert_eq!(world.put("q.yaml", &pod("q", "app: db", "10.1.0.2")), 2);
    assert_eq!(shown(&world.state), ["default/db/0: 10.1.0.2", "default/web/0: 10.1.0.1"]);
    world.catalog.remove(&name("p.yaml"));
    assert_eq!(world.take(), 1);
    assert_eq!(shown(&world.state), ["default/db/0: 10.1.0.2"]);
    assert_eq!(world.put("a.yaml", &web("app: db")), 2);
    assert_eq!(shown(&world.state), ["default/db/0: 10.1.0.2", "default/web/0: 10.1.0.2"]);
}

#[test]
fn what_is_written_again_as_it_was_is_no_news() {
    let mut world = World::new();
    let text = web("app: web") + &pod("p", "app: web", "10.1.0.1");
    assert_eq!(world.put("a.yaml", &text), 2);
    assert_eq!(world.put("a.yaml", &text), 0);
    world.put("b.yaml", &text);
    assert_eq!(world.put("a.yaml", ""), 0, "another file defines them alike");
}

#[test]
fn of_two_of_one_name_in_a_file_the_first_counts() {
    let mut catalog = Catalog::default();
    let text = pod("p", "", "10.1.0.1") + &pod("p", "", "10.1.0.2");
    let doubles = catalog.put(&name("a.yaml"), objects(&text));
    assert_eq!(doubles, ["Pod default/p is defined above already; that one counts"]);
    let found = catalog.objects.pod(&ObjectName::new("default", "p")).unwrap();
    assert_eq!(found.addresses, ["10.1.0.1".parse::<std::net::IpAddr>().unwrap()]);
}

/// An object of few names, so that files fight over them.
fn object() -> impl Strategy<Value = String> {
    let label = select(vec!["", "app: a", "app: b", "tier: x", "app: a, tier: x", "app: b, tier: x"]);
    let name = select(vec!["n1", "n2", "n3"]);
    (0..4, name, label, 1..4u8).prop_map(|(kind, name, labels, n)| match kind {
        0 => web(labels).replace("name: web", &format!("name: {name}")).replace("10.0.0.1", &format!("10.0.0.{n}")),
        1 | 2 => pod(name, labels, &format!("10.1.0.{n}")),
        _ => format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: n1}}}}\n\
             endpoints: [{{addresses: [10.2.0.{n}]}}]\nports: [{{port: 80}}]\n---\n\
             apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
             status: {{addresses: [{{type: InternalIP, address: 10.3.0.{n}}}]}}\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: {name}}}\n\
             spec: {{cidrs: [10.{n}.0.0/16]}}\n---\n"
        ),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn step_by_step_comes_to_the_same_as_all_at_once(
        steps in prop::collection::vec((select(vec!["a", "b", "c"]), prop::collection::vec(object(), 0..6)), 1..12),
        at_once in 1..4usize,
    ) {
        let mut world = World::new();
        world.catalog.all().into_iter().for_each(|event| world.state.apply(event));
        let mut files = BTreeMap::new();
        for steps in steps.chunks(at_once) {
            for (file, held) in steps {
                match held.is_empty() {
                    true => world.catalog.remove(&name(file)),
                    false => drop(world.catalog.put(&name(file), objects(&held.concat()))),
                }
                files.insert(*file, held.concat());
            }
            world.take();
            let mut afresh = World::new();
            files.iter().for_each(|(file, text)| drop(afresh.catalog.put(&name(file), objects(text))));
            afresh.catalog.take_events();
            afresh.catalog.all().into_iter().for_each(|event| afresh.state.apply(event));
            prop_assert_eq!(format!("{:?}", world.catalog.all()), format!("{:?}", afresh.catalog.all()));
            let same = |state: &State| {
                let services: Vec<_> = state.services().cloned().collect();
                let slices: Vec<_> = ["n1", "n2", "n3"].into_iter()
                    .flat_map(|n| state.slices(&ObjectName::new("default", n)).cloned().collect::<Vec<_>>()).collect();
                let nodes: Vec<_> = ["n1", "n2", "n3"].into_iter().map(|n| state.node(n).cloned()).collect();
                (services, slices, nodes, state.service_cidrs())
            };
            prop_assert_eq!(same(&world.state), same(&afresh.state));
            let told = |world: &World| world.catalog.problems().collect::<Vec<_>>();
            prop_assert_eq!(told(&world), told(&afresh));
        }
    }
}
