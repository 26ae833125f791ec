//! Medians and their uncertainty. Deterministic: the same series always gives the same interval.

use serde::{Deserialize, Serialize};

/// Resamples per interval. More changes the third digit only.
const RESAMPLES: usize = 4_000;
/// Where the generator of resamples starts; any odd number would do.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// A median with the 95 % interval of a percentile bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The median of a series: the mean of the middle two when their number is even. `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// The median of a series and how far it can be trusted. `None` of nothing.
pub(crate) fn estimate(values: &[f64]) -> Option<Estimate> {
    let middle = median(values)?;
    let mut random = Random::new(SEED);
    let mut draws = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let resample: Vec<f64> =
            (0..values.len()).filter_map(|_| values.get(random.below(values.len())).copied()).collect();
        draws.extend(median(&resample));
    }
    draws.sort_by(f64::total_cmp);
    // The 2.5 % and 97.5 % quantiles: 1/40 of the draws lie outside on each side.
    let tail = draws.len() / 40;
    let low = *draws.get(tail)?;
    let high = *draws.get(draws.len().checked_sub(tail + 1)?)?;
    Some(Estimate { median: middle, low, high })
}

/// A small generator (xorshift64*) for resamples and for jitter. Not for secrets.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // The state zero would stay zero.
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from 0 to below 1.
    pub(crate) fn share(&mut self) -> f64 {
        float(self.next() >> 32) / 4_294_967_296.0
    }

    /// A number below `limit`, or 0 when `limit` is 0. The bias is below limit / 2^32: nothing, for our lengths.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let high = self.next() >> 32;
        let scaled = u64::try_from(limit).map_or(0, |limit| high.saturating_mul(limit) >> 32);
        usize::try_from(scaled).unwrap_or(0)
    }
}

/// A count as a floating-point number; exact up to 2^53.
pub(crate) fn float(count: u64) -> f64 {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).map_or(0.0, f64::from);
    half(count >> 32) * 4_294_967_296.0 + half(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_two() {
        assert_eq!(median(&[]), None);
        assert!(close(median(&[3.0, 1.0, 2.0]).unwrap(), 2.0));
        assert!(close(median(&[4.0, 1.0, 2.0, 3.0]).unwrap(), 2.5));
        assert!(close(median(&[7.0]).unwrap(), 7.0));
    }

    #[test]
    fn a_constant_series_has_no_uncertainty() {
        let found = estimate(&[1.5; 5]).unwrap();
        assert!(close(found.low, 1.5) && close(found.median, 1.5) && close(found.high, 1.5));
    }

    #[test]
    fn the_interval_of_few_rounds_spans_nearly_all_of_them() {
        // The chance that a median of five drawn with repetition is the smallest of five is 5.8 %: more than
        // 2.5 %, so the interval of five values reaches from the smallest to the largest.
        let found = estimate(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!(close(found.low, 1.0) && close(found.median, 3.0) && close(found.high, 5.0), "{found:?}");
    }

    #[test]
    fn one_outlier_among_many_does_not_reach_the_interval() {
        let mut values = vec![1.0; 20];
        values.push(100.0);
        assert!(close(estimate(&values).unwrap().high, 1.0));
    }

    #[test]
    fn the_interval_of_uniform_data_is_as_wide_as_theory_says() {
        // 101 values 0, 0.01, …, 1. The standard error of a uniform median is 1 / (2 √n) = 0.0498, so the
        // interval is about 0.5 ± 0.0975.
        let values: Vec<f64> = (0..=100_u32).map(|step| f64::from(step) / 100.0).collect();
        let found = estimate(&values).unwrap();
        assert!((found.low - 0.40).abs() < 0.03 && (found.high - 0.60).abs() < 0.03, "{found:?}");
    }

    #[test]
    fn the_same_series_gives_the_same_interval() {
        let values = [1.2, 0.9, 1.4, 1.1, 1.0, 1.3, 1.25];
        assert_eq!(estimate(&values), estimate(&values));
    }

    #[test]
    fn random_numbers_stay_below_their_limit_and_reach_every_value() {
        let mut random = Random::new(7);
        let mut seen = [false; 5];
        for _ in 0..1_000 {
            seen[random.below(5)] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn counts_beyond_32_bits_become_floats_unharmed() {
        assert!(close(float(0), 0.0));
        assert!(close(float(4_294_967_295), 4_294_967_295.0));
        assert!(close(float(1 << 40), 1_099_511_627_776.0));
    }
}
