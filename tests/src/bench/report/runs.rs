//! One figure, measured several times.

use serde::{Deserialize, Serialize};

/// What each run gave, in the order in which they ran.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::bench) struct Runs(pub(in crate::bench) Vec<f64>);

impl Runs {
    pub(in crate::bench) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(in crate::bench) fn min(&self) -> f64 {
        quantile(&self.0, 0.0)
    }

    pub(in crate::bench) fn median(&self) -> f64 {
        quantile(&self.0, 0.5)
    }

    pub(in crate::bench) fn max(&self) -> f64 {
        quantile(&self.0, 1.0)
    }

    /// Each run as a multiple of the run of `base` beside it.
    pub(in crate::bench) fn over(&self, base: &Self) -> Self {
        Self(self.0.iter().zip(&base.0).map(|(value, base)| value / base).collect())
    }
}

/// The value that `share` of all do not exceed (nearest rank).
pub(in crate::bench) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = [4.0, 1.0, 3.0, 2.0];
        for (share, expected) in [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0)] {
            assert_eq!(quantile(&values, share), expected);
        }
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_ratio_is_of_two_runs_beside_each_other() {
        let ratios = Runs(vec![2.0, 9.0]).over(&Runs(vec![1.0, 3.0]));
        assert_eq!(ratios.0, [2.0, 3.0]);
    }
}
