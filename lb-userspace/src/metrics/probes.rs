//! What was answered to those who asked for health.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::health::Question;

type ByCode = Family<[(&'static str, u16); 1], Counter>;

/// Counters of answers. Clones are the same counters.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    healthz: ByCode,
    livez: ByCode,
}

impl Probes {
    /// Counts an answer with an HTTP status.
    pub fn answered(&self, question: Question, code: u16) {
        let counters = match question {
            Question::Healthz => &self.healthz,
            Question::Livez => &self.livez,
        };
        counters.get_or_create(&[("code", code)]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        // There from the start, so that the first rise is seen.
        for counters in [&self.healthz, &self.livez] {
            for code in [200, 503] {
                drop(counters.get_or_create(&[("code", code)]));
            }
        }
        registry.register("kubeproxy_proxy_healthz", "Answers of /healthz by HTTP status", self.healthz.clone());
        registry.register("kubeproxy_proxy_livez", "Answers of /livez by HTTP status", self.livez.clone());
    }
}
