//! Names of kube-proxy 1.37 (pkg/proxy/metrics), with its labels and meaning, for graphs and alerts that exist.

use std::fmt;

use jiff::Timestamp;
use lb_common::ip::Family;

use super::rows::{Rows, number};
use super::{Changed, Snapshot};
use crate::health::family_name;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

pub(super) fn encode(snapshot: &Snapshot, rows: &mut Rows<'_>) -> fmt::Result {
    let by_family = |times: [Option<Timestamp>; 2]| {
        let both = FAMILIES.into_iter().zip(times);
        both.filter_map(|(family, time)| {
            Some(([("ip_family", family_name(family))], time?.as_duration().as_secs_f64()))
        })
    };
    rows.gauges(
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "When the maps were last as they should be",
        by_family(snapshot.progress.map(|progress| progress.updated)),
    )?;
    rows.gauges(
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "When news last came in that have to get into the maps",
        by_family([snapshot.last_news; 2]),
    )?;
    rows.gauges(
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Ports of Services whose traffic policy asks for endpoints on this node, where all are elsewhere",
        [
            ([("traffic_policy", "internal")], number(snapshot.no_local_endpoints.internal)),
            ([("traffic_policy", "external")], number(snapshot.no_local_endpoints.external)),
        ],
    )?;
    changed(rows, "endpoint", "EndpointSlices", snapshot.endpoint_slices)?;
    changed(rows, "service", "Services", snapshot.services)
}

fn changed(rows: &mut Rows<'_>, name: &str, title: &str, Changed { total, pending }: Changed) -> fmt::Result {
    rows.counter(
        &format!("kubeproxy_sync_proxy_rules_{name}_changes"),
        &format!("{title} that changed"),
        number(total),
    )?;
    rows.gauge(
        &format!("kubeproxy_sync_proxy_rules_{name}_changes_pending"),
        &format!("{title} whose change is not in the maps yet"),
        number(pending),
    )
}
