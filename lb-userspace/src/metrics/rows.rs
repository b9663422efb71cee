//! One metric after the other, from values that are known when they are asked for.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Writes metrics, each as one value or as rows of labels and a value.
pub(super) struct Rows<'a>(pub(super) DescriptorEncoder<'a>);

impl Rows<'_> {
    /// What goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.begin(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// The same, by labels.
    pub(super) fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut metric = self.begin(name, help, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    /// What only goes up while the agent runs. `_total` is added to the name.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        count(&mut self.begin(name, help, MetricType::Counter)?, value)
    }

    /// The same, by labels.
    pub(super) fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut metric = self.begin(name, help, MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, value)| count(&mut metric.encode_family(&labels)?, number(value)))
    }

    fn begin<'s>(&'s mut self, name: &'s str, help: &str, kind: MetricType) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }
}

fn count(metric: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
}

/// A number as Prometheus has them. Above 2⁵³ it is not exact.
#[expect(clippy::cast_precision_loss, reason = "every number in Prometheus is of this kind")]
pub(super) fn number(n: u64) -> f64 {
    n as f64
}
