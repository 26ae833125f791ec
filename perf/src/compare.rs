//! Contenders side by side: slices in turns, figures of rounds, ratios to the best of the others.

use std::fmt;
use std::io::Write;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::bench::Lane;
use crate::interrupt;
use crate::stats::{self, Estimate};

/// The slices of all contenders in all rounds: by round, by contender, in the order in which they were taken.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series<S> {
    pub(crate) labels: Vec<String>,
    pub(crate) rounds: Vec<Vec<Vec<S>>>,
}

impl<S> Series<S> {
    /// All slices of one contender.
    pub(crate) fn of(&self, label: &str) -> Vec<&S> {
        let index = self.labels.iter().position(|one| one == label);
        self.rounds.iter().filter_map(|round| round.get(index?)).flatten().collect()
    }
}

/// Each round there and back through all contenders, so that a drift of the machine falls on all alike. A peer that
/// fails is out from then on, aloud; when we fail, the measurement fails.
pub(crate) fn interleave<S>(
    lanes: &mut [Lane],
    rounds: u32,
    progress: &mut dyn Write,
    what: &str,
    mut slice: impl FnMut(&mut Lane) -> Result<S>,
) -> Result<Series<S>> {
    let labels: Vec<String> = lanes.iter().map(|lane| lane.label.clone()).collect();
    let mut series = Series { labels, rounds: Vec::new() };
    for round in 1..=rounds {
        let mut slices: Vec<Vec<S>> = lanes.iter().map(|_| Vec::new()).collect();
        for index in (0..lanes.len()).chain((0..lanes.len()).rev()) {
            interrupt::check()?;
            let (Some(lane), Some(own)) = (lanes.get_mut(index), slices.get_mut(index)) else { continue };
            if lane.is_out {
                continue;
            }
            match slice(lane) {
                Ok(done) => own.push(done),
                Err(error) if lane.is_ours() => {
                    return Err(error).with_context(|| format!("{what} through {}", lane.label));
                }
                Err(error) => {
                    interrupt::check()?;
                    lane.is_out = true;
                    own.clear();
                    writeln!(progress, "{what}: {} is out: {error:#}; {}", lane.label, lane.log_tail())?;
                }
            }
        }
        series.rounds.push(slices);
        writeln!(progress, "{what}: round {round} of {rounds}")?;
    }
    Ok(series)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One figure of all contenders in all rounds; `None` where one was out.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    labels: Vec<String>,
    rounds: Vec<Vec<Option<f64>>>,
}

impl Table {
    /// From a series, with what one contender's slices of one round come to.
    pub(crate) fn of<S>(
        title: &str,
        unit: &'static str,
        better: Better,
        series: &Series<S>,
        figure: impl Fn(&[S]) -> f64,
    ) -> Self {
        let one = |slices: &Vec<S>| {
            let value = (!slices.is_empty()).then(|| figure(slices));
            value.filter(|value| value.is_finite())
        };
        let rounds = series.rounds.iter().map(|round| round.iter().map(one).collect()).collect();
        Self { title: title.into(), unit, better, labels: series.labels.clone(), rounds }
    }

    fn get(&self, round: &[Option<f64>], label: &str) -> Option<f64> {
        let index = self.labels.iter().position(|one| one == label)?;
        round.get(index).copied().flatten()
    }

    /// In each round, ours by the best of the rivals that were in it.
    pub(crate) fn ratios(&self, ours: &str, rivals: &[&str]) -> Vec<f64> {
        let ratio = |round: &Vec<Option<f64>>| {
            let found = rivals.iter().filter_map(|rival| self.get(round, rival));
            let best = found.reduce(|best, next| match self.better {
                Better::Higher => best.max(next),
                Better::Lower => best.min(next),
            });
            Some(self.get(round, ours)? / best?)
        };
        self.rounds.iter().filter_map(ratio).filter(|ratio| ratio.is_finite()).collect()
    }

    /// All figures less that of one contender in the same round, which is not in it any more.
    pub(crate) fn minus(mut self, label: &str) -> Self {
        let Some(index) = self.labels.iter().position(|one| one == label) else { return self };
        for round in &mut self.rounds {
            let base = (index < round.len()).then(|| round.remove(index)).flatten();
            for value in round.iter_mut() {
                *value = value.zip(base).map(|(value, base)| value - base);
            }
        }
        self.labels.remove(index);
        self
    }

    /// A contender's figure over all rounds.
    pub(crate) fn values(&self, label: &str) -> Vec<f64> {
        self.rounds.iter().filter_map(|round| self.get(round, label)).collect()
    }

    /// For people, plots and the sizing page.
    pub(crate) fn figure(&self, id: &str) -> Figure {
        let bar =
            |label: &String| Some(Bar { label: label.clone(), value: stats::estimate(&self.values(label))? });
        Figure {
            id: id.into(),
            title: self.title.clone(),
            unit: self.unit.into(),
            better: self.better,
            bars: self.labels.iter().filter_map(bar).collect(),
        }
    }
}

/// One figure of all contenders: medians of the rounds with their intervals.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    pub(crate) bars: Vec<Bar>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: Estimate,
}

impl Figure {
    /// A contender's median.
    pub(crate) fn median(&self, label: &str) -> Option<f64> {
        self.bars.iter().find(|bar| bar.label == label).map(|bar| bar.value.median)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}, {}", self.id, self.title, self.unit)?;
        for Bar { label, value: Estimate { median, low, high } } in &self.bars {
            let digits = if median.abs() < 100.0 { 2 } else { 0 };
            let interval = format!("{low:.digits$} … {high:.digits$}");
            writeln!(f, "  {label:<24} {median:>10.digits$}  {interval:>20}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series() -> Series<f64> {
        let labels = ["us", "a", "b"].map(String::from).to_vec();
        let rounds = vec![
            vec![vec![4.0, 6.0], vec![10.0, 10.0], vec![20.0, 20.0]],
            vec![vec![6.0, 6.0], vec![30.0, 30.0], vec![20.0, 20.0]],
            vec![vec![5.0, 5.0], vec![], vec![20.0, 20.0]],
        ];
        Series { labels, rounds }
    }

    fn mean(slices: &[f64]) -> f64 {
        f64::midpoint(slices[0], slices[1])
    }

    fn close(found: &[f64], expected: &[f64]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9)
    }

    #[test]
    fn the_best_of_the_rivals_is_found_anew_in_each_round() {
        let table = Table::of("cost", "µs", Better::Lower, &series(), mean);
        assert!(close(&table.ratios("us", &["a", "b"]), &[0.5, 0.3, 0.25]));
        let table = Table::of("rate", "1/s", Better::Higher, &series(), mean);
        assert!(close(&table.ratios("us", &["a", "b"]), &[0.25, 0.2, 0.25]));
    }

    #[test]
    fn who_is_out_is_missing_and_nothing_else() {
        let table = Table::of("cost", "µs", Better::Lower, &series(), mean);
        assert!(close(&table.values("a"), &[10.0, 30.0]));
        assert!(close(&table.ratios("us", &["a"]), &[0.5, 0.2]));
        assert!(table.ratios("us", &["c"]).is_empty() && table.ratios("c", &["a"]).is_empty());
    }

    #[test]
    fn what_is_paired_is_subtracted_round_by_round() {
        let table = Table::of("cost", "µs", Better::Lower, &series(), mean).minus("b");
        assert!(close(&table.values("us"), &[-15.0, -14.0, -15.0]));
        assert!(close(&table.values("a"), &[-10.0, 10.0]));
        assert!(table.values("b").is_empty());
    }

    #[test]
    fn figures_have_a_bar_for_each_contender() {
        let figure = Table::of("cost", "µs", Better::Lower, &series(), mean).figure("G0");
        assert_eq!(figure.bars.len(), 3);
        assert!((figure.median("b").unwrap() - 20.0).abs() < 1e-9);
        assert!(figure.to_string().contains("G0 cost, µs"));
        let back: Figure = serde_json::from_str(&serde_json::to_string(&figure).unwrap()).unwrap();
        assert_eq!(back.bars.len(), 3);
    }
}
