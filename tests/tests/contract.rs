//! What a Service promises, line by line, and the tests that prove each. docs/behaviour.md tells it as users read it.
//!
//! Beside these stand two that know all of it: `sluice_answers_as_kube_proxy_does` (random clusters and changes, beside the
//! real kube-proxy) and `sluice_treats_every_row_so` (every place, kind of address, policy, family and protocol).

use std::fs;
use std::path::Path;

/// What is promised, and names of tests.
type Row = (&'static str, &'static [&'static str]);

const VERDICTS: &[Row] = &[
    (
        "a port with no usable endpoint anywhere is refused: TCP reset, else ICMP port unreachable",
        &[
            "a_service_without_endpoints_and_a_port_it_lacks_are_refused_at_once",
            "the_refusal_is_one_that_the_client_accepts",
        ],
    ),
    (
        "internalTrafficPolicy Local, endpoints elsewhere only: dropped, and the external path works",
        &["a_service_of_the_node_leads_to_endpoints_on_the_node", "traffic_policies_row_by_row"],
    ),
    (
        "externalTrafficPolicy Local, none here, client outside: dropped; clients inside meet the policy Cluster",
        &["traffic_policies_row_by_row", "what_only_other_nodes_serve_vanishes"],
    ),
    (
        "loadBalancerSourceRanges: dropped, every client, load-balancer IPs only; blanks trimmed; a zero CIDR is no limit",
        &[
            "source_ranges_limit_load_balancer_ips_and_nothing_else",
            "only_sources_in_a_range_may_call",
            "a_source_that_may_not_call_is_not_even_refused",
            "source_ranges_limit_the_families_that_they_are_of",
            "addresses_and_ranges_are_taken_as_old_objects_have_them_and_the_rest_is_left_out",
        ],
    ),
    (
        "a port that a Service does not have is refused at its ClusterIP, and never at an address of the node",
        &[
            "a_service_without_endpoints_and_a_port_it_lacks_are_refused_at_once",
            "other_ports_of_external_addresses_are_not_refused",
            "an_address_that_is_the_nodes_own_is_refused_alone",
            "a_node_port_is_found_and_other_ports_of_the_node_are_left_alone",
        ],
    ),
    (
        "not programmed: ipMode Proxy, labels service-proxy-name and headless, ClusterIP None, ExternalName; types may change",
        &[
            "what_is_not_programmed_leaves_no_trace",
            "slices_of_nobody_and_for_no_virtual_ip_are_left_out",
            "addresses_and_ranges_are_taken_as_old_objects_have_them_and_the_rest_is_left_out",
            "a_service_moves_between_types",
        ],
    ),
    (
        "who is masqueraded, and who keeps its address",
        &[
            "a_client_outside_is_led_to_another_node_and_its_answers_come_back_the_same_way",
            "a_backend_on_this_node_keeps_the_clients_address",
            "a_pod_keeps_its_address_to_whatever_node",
            "a_pod_reaches_itself_through_its_own_service",
        ],
    ),
    ("externalIPs behind a switch", &["other_ports_of_external_addresses_are_not_refused"]),
    (
        "NodePorts at the addresses that are named, at loopback for processes of the node",
        &[
            "node_ports_are_where_the_list_says",
            "a_node_port_is_a_port_of_the_nodes_primary_addresses_and_of_nothing_else_of_them",
            "processes_of_a_node_reach_node_ports_at_loopback_addresses",
            "a_process_that_no_hook_sees_reaches_node_ports_of_its_own_node",
            "what_else_goes_by_the_loopback_device_goes_its_way",
        ],
    ),
];

const ENDPOINTS: &[Row] = &[
    (
        "usable is what is ready; publishNotReadyAddresses makes it so",
        &["the_contract_row_by_row", "endpoints_that_are_not_ready_serve_where_the_service_says_so"],
    ),
    (
        "several slices, one endpoint in two of them, families apart",
        &[
            "one_endpoint_in_two_slices_counts_once_and_with_its_best_face",
            "endpoints_come_from_several_slices_once_and_in_both_families",
            "families_stay_apart",
        ],
    ),
    (
        "hints: the node's, else the zone's, if all ready ones have them and one names this place; else all",
        &["the_contract_row_by_row", "hints_of_the_other_family_do_not_matter", "a_node_without_a_zone_takes_all"],
    ),
    (
        "none ready: those that serve while they terminate; the local set falls back on its own",
        &[
            "the_contract_row_by_row",
            "the_policy_local_row_by_row",
            "traffic_policies_row_by_row",
            "only_ready_pods_serve_and_terminating_ones_where_there_is_no_other",
        ],
    ),
    (
        "ports go by name, slice by slice; one number for TCP and UDP",
        &[
            "ports_go_by_name_slice_by_slice",
            "of_services_that_want_one_node_port_the_first_by_name_has_it_and_the_other_is_told_once",
        ],
    ),
    (
        "a connection stays with its backend to its end",
        &[
            "an_open_connection_stays_when_its_endpoint_leaves",
            "an_established_flow_stays_with_its_backend_when_that_leaves",
            "an_established_flow_outlives_its_service",
            "an_established_flow_outlives_a_change_of_ranges",
        ],
    ),
    (
        "datagrams leave a backend that left, also for nobody, and at every kind of address",
        &[
            "a_udp_socket_does_not_stick_to_a_backend_that_left",
            "datagrams_leave_a_backend_that_no_longer_serves_at_once",
        ],
    ),
    (
        "session affinity: client and Service, refreshed by use, forgotten with the backend, the same in every path, switched",
        &[
            "a_client_with_affinity_stays_until_its_backend_leaves",
            "affinity_lasts_while_it_is_used_and_is_switched_on_and_off",
            "a_client_stays_while_it_comes_back_in_time_and_its_backend_serves",
            "a_stay_is_refreshed_by_new_flows",
            "two_policies_of_a_service_are_two_stays",
            "clients_are_let_go_by_each_policy_under_which_they_stay",
            "a_process_of_the_node_stays_with_its_backend_and_a_pod_is_left_to_its_packets",
        ],
    ),
];

const HEALTH: &[Row] = &[
    (
        "healthCheckNodePort: code, headers and body",
        &[
            "load_balancers_hear_the_same_as_from_kube_proxy",
            "a_load_balancer_hears_of_the_endpoints_of_its_family_and_of_the_nodes_health",
            "load_balancers_hear_of_each_address_that_is_ready_here_once",
        ],
    ),
    (
        "healthz and livez, tied to the real programs and maps",
        &["a_node_without_a_program_is_unhealthy_until_it_is_back"],
    ),
    (
        "metrics that users graph already",
        &["what_happens_is_seen_in_the_next_scrape", "metrics_are_what_they_are_named"],
    ),
];

const TRAPS: &[Row] = &[
    (
        "a SYN that is sent again reaches the same backend",
        &[
            "a_syn_that_is_sent_again_reaches_the_same_backend",
            "a_retried_syn_reaches_the_same_backend_though_the_set_has_changed",
        ],
    ),
    ("parallel first datagrams of one flow", &["of_two_first_packets_at_once_one_chooses_for_both"]),
    (
        "two virtual IPs that lead one client port to one backend",
        &[
            "two_frontends_one_backend_one_client_port_do_not_collide",
            "two_virtual_ips_with_one_backend_do_not_collide",
            "behind_a_node_port_a_client_gets_a_port_that_it_uses_for_nothing_else",
            "one_port_calls_one_backend_by_several_nodes",
        ],
    ),
    (
        "nothing that netfilter would call INVALID resets a live connection, and nothing of ours is INVALID",
        &["a_rule_that_drops_what_is_invalid_harms_nothing", "a_reset_that_the_other_side_ignores_ends_nothing"],
    ),
    (
        "errors carry the inner header; the MTU of a path is found",
        &[
            "the_mtu_of_a_path_through_a_service_is_discovered",
            "an_error_about_a_packet_to_a_backend_reaches_the_client_as_one_of_its_service",
        ],
    ),
    (
        "fragments behind the first",
        &["fragments_in_any_order_behind_the_first_are_known", "datagrams_above_the_mtu_are_whole_at_both_ends"],
    ),
    (
        "partial checksums, aggregates; sums of all bytes",
        &[
            "every_offload_setting_carries_bulk_data_and_datagrams_whole",
            "what_a_device_has_summed_up_leaves_the_node_with_a_right_sum",
            "what_a_device_has_summed_up_goes_up_the_stack_with_a_right_sum",
            "what_a_device_has_summed_up_goes_in_through_the_service_device_with_a_right_sum",
        ],
    ),
    (
        "pairs are not half lost",
        &["a_pair_that_lost_a_half_is_made_whole", "a_flood_of_half_open_connections_disturbs_nobody"],
    ),
    ("a policy's rule still applies to pods", &["a_rule_toward_a_pod_applies_to_traffic_through_a_service"]),
];

fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("contract.rs") {
            into.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

#[test]
fn every_test_that_the_contract_names_is_there() {
    let (root, mut text) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), String::new());
    for folder in ["lb-common/src", "lb-userspace/src", "lb-userspace/tests", "tests/tests", "tests/src"] {
        sources(&root.join(folder), &mut text);
    }
    for (line, tests) in [VERDICTS, ENDPOINTS, HEALTH, TRAPS].into_iter().flatten() {
        assert!(!tests.is_empty(), "nothing proves \"{line}\"");
        for test in *tests {
            let is_there = [format!("fn {test}()"), format!("fn {test}<A")].iter().any(|found| text.contains(found));
            assert!(is_there, "{test} should prove \"{line}\", and is not there");
        }
    }
}
