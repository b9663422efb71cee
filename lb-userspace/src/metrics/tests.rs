use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use lb_common::ip::Family;

use super::*;
use crate::bpf::{Hook, How};
use crate::devices::Role;
use crate::health::Question;

fn attachment(index: u32, role: Role) -> Attachment {
    Attachment { index, role, hook: Hook::TcEgress, how: How::Tcx }
}

fn snapshot() -> Snapshot {
    let updated = Timestamp::from_second(1000).ok();
    Snapshot {
        progress: [Progress { queued: None, updated }, Progress::default()],
        services: Changed { total: 7, pending: 2 },
        no_local_endpoints: Elsewhere { internal: 3, external: 4 },
        repairs: Repairs { entries: 3, devices: 2, sockets: 1 },
        store_errors: StoreErrors { full: 1, read: 0, write: 4 },
        fill: vec![Fill { map: "NAMES", entries: 5, capacity: 10, option: None }],
        attachments: vec![attachment(2, Role::Pod), attachment(3, Role::Pod), attachment(4, Role::Nic)],
        problems: vec![("NoRoom", 2)],
        source_well: true,
        packets: vec![(Reason::Reply, 9), (Reason::NotService, 0)],
        ..Snapshot::default()
    }
}

fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "no line `{line}` in\n{text}");
    }
}

#[test]
fn levels_and_counts_are_those_of_the_snapshot() {
    let metrics = Metrics::new(&Programming::default(), &Probes::default(), snapshot);
    let text = metrics.render().unwrap();
    assert_lines(
        &text,
        &[
            "# TYPE kubeproxy_sync_proxy_rules_service_changes counter",
            "kubeproxy_sync_proxy_rules_service_changes_total 7.0",
            "kubeproxy_sync_proxy_rules_service_changes_pending 2.0",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1000.0",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\"} 3.0",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"} 4.0",
            "sluice_map_entries{map=\"NAMES\"} 5.0",
            "sluice_map_capacity{map=\"NAMES\"} 10.0",
            "sluice_map_errors_total{kind=\"write\"} 4.0",
            "sluice_repairs_total{what=\"map_entry\"} 3.0",
            "sluice_repairs_total{what=\"device_program\"} 2.0",
            "sluice_repairs_total{what=\"socket_program\"} 1.0",
            "sluice_device_programs{device=\"pod\",program=\"tc_egress\",way=\"tcx\"} 2.0",
            "sluice_device_programs{device=\"nic\",program=\"tc_egress\",way=\"tcx\"} 1.0",
            "sluice_problems{reason=\"NoRoom\"} 2.0",
            "sluice_source_connected 1.0",
            "sluice_packets_total{reason=\"reply\"} 9.0",
        ],
    );
    let never = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}";
    assert!(!text.contains(never), "what never happened has no time");
    assert!(!text.contains("not_service"), "strangers are not counted, so that a zero would lie");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn each_scrape_looks_anew() {
    let scrapes = Mutex::new(0);
    let look = move || {
        let mut scrapes = scrapes.lock().unwrap();
        *scrapes += 1;
        Snapshot { writes: *scrapes, ..Snapshot::default() }
    };
    let metrics = Metrics::new(&Programming::default(), &Probes::default(), look);
    for line in ["sluice_map_writes_total 1.0", "sluice_map_writes_total 2.0"] {
        assert_lines(&metrics.render().unwrap(), &[line]);
    }
}

#[test]
fn what_happens_is_seen_in_the_next_scrape() {
    let (programming, probes) = (Programming::default(), Probes::default());
    let metrics = Metrics::new(&programming, &probes, Snapshot::default);
    assert_lines(
        &metrics.render().unwrap(),
        &[
            "kubeproxy_proxy_healthz_total{code=\"503\"} 0",
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 0",
        ],
    );
    probes.answered(Question::Healthz, 503);
    probes.answered(Question::Livez, 200);
    programming.round(Duration::from_millis(3));
    programming.changes(2, Duration::from_micros(300));
    programming.network(Family::V6, SystemTime::now() - Duration::from_millis(400));
    assert_lines(
        &metrics.render().unwrap(),
        &[
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 0",
            "kubeproxy_proxy_livez_total{code=\"200\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.002\",ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv4\"} 1",
            "sluice_programming_duration_seconds_bucket{le=\"0.00025\"} 0",
            "sluice_programming_duration_seconds_bucket{le=\"0.0005\"} 2",
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.25\",ip_family=\"IPv6\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.5\",ip_family=\"IPv6\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"300.0\",ip_family=\"IPv6\"} 1",
        ],
    );
}

#[test]
fn this_process_has_used_memory_and_files() {
    let text = Metrics::new(&Programming::default(), &Probes::default(), Snapshot::default).render().unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<f64>().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_cpu_seconds_total") >= 0.0);
    let now = Timestamp::now().as_duration().as_secs_f64();
    assert!((0.0..600.0).contains(&(now - value("process_start_time_seconds"))));
}
