//! How long it takes until what was declared is in the maps: filled by the reconcile loop.

use std::time::{Duration, SystemTime};

use lb_common::ip;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::registry::Registry;

use crate::health::family_name;

type ByFamily = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// Histograms of the reconcile loop. Clones are the same histograms.
#[derive(Clone, Debug)]
pub struct Programming {
    rounds: ByFamily,
    network: ByFamily,
    changes: Histogram,
}

impl Default for Programming {
    fn default() -> Self {
        Self {
            rounds: ByFamily::new_with_constructor(sync_buckets),
            network: ByFamily::new_with_constructor(network_buckets),
            // A lone change takes less than a millisecond, a start with all of a large cluster seconds.
            changes: Histogram::new(exponential_buckets(0.000_125, 2.0, 18)),
        }
    }
}

impl Programming {
    /// A round of the loop, from its begin to the last write. It brings both families in step.
    pub fn round(&self, took: Duration) {
        for family in [ip::Family::V4, ip::Family::V6] {
            self.rounds.get_or_create(&labels(family)).observe(took.as_secs_f64());
        }
    }

    /// Changed objects, from the time when the news of them came in until they were in the maps.
    pub fn changes(&self, count: u64, took: Duration) {
        (0..count).for_each(|_| self.changes.observe(took.as_secs_f64()));
    }

    /// An EndpointSlice, from what made it change (`endpoints.kubernetes.io/last-change-trigger-time`, by the clock of
    /// the control plane) until now, when it is in the maps.
    pub fn network(&self, family: ip::Family, changed: SystemTime) {
        // Clocks of two machines may differ.
        let took = changed.elapsed().unwrap_or(Duration::ZERO);
        self.network.get_or_create(&labels(family)).observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        // There from the start, so that the first rise of a count is seen.
        for family in [ip::Family::V4, ip::Family::V6] {
            let _ = (self.rounds.get_or_create(&labels(family)), self.network.get_or_create(&labels(family)));
        }
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time of one round of the reconcile loop. A round programs both address families",
            self.rounds.clone(),
        );
        registry.register(
            "kubeproxy_network_programming_duration_seconds",
            "Time from the change of a Pod or a Service until the EndpointSlice that tells of it is in the maps",
            self.network.clone(),
        );
        registry.register(
            "sluice_programming_duration_seconds",
            "Time from the arrival of a changed object until it is in the maps",
            self.changes.clone(),
        );
    }
}

fn labels(family: ip::Family) -> [(&'static str, &'static str); 1] {
    [("ip_family", family_name(family))]
}

// The buckets of pkg/proxy/metrics, so that graphs of both proxies compare.
fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn network_buckets() -> Histogram {
    let seconds = linear_buckets(0.25, 0.25, 2).chain(linear_buckets(1.0, 1.0, 59));
    Histogram::new(seconds.chain(linear_buckets(60.0, 5.0, 12)).chain(linear_buckets(120.0, 30.0, 7)))
}
