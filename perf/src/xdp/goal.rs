//! What a measurement came to, against what was promised.

use serde::Serialize;
use serde_json::{Value, json};

use crate::stats::{self, Estimate};

/// What was promised of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Promise {
    AtLeast(f64),
    AtMost(f64),
    /// For information only.
    Nothing,
}

/// One ratio with its spread.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Goal {
    pub(super) id: String,
    /// What is divided by what.
    pub(super) title: String,
    pub(super) promise: Promise,
    /// `None` when it could not be measured; `why` says why.
    pub(super) ratio: Option<Estimate>,
    pub(super) why: Option<String>,
}

impl Goal {
    /// From the ratios of the rounds.
    pub(super) fn new(id: &str, title: &str, promise: Promise, ratios: &[f64]) -> Self {
        let ratio = stats::estimate(ratios);
        let why = ratio.is_none().then(|| String::from("there was no round"));
        Self { id: id.into(), title: title.into(), promise, ratio, why }
    }

    pub(super) fn missing(id: &str, title: &str, promise: Promise, why: &str) -> Self {
        Self { id: id.into(), title: title.into(), promise, ratio: None, why: Some(why.into()) }
    }

    /// Whether the whole interval keeps the promise. What was not measured keeps none.
    pub(super) fn met(&self) -> Option<bool> {
        let within = |keeps: fn(&Estimate, f64) -> bool, goal| {
            Some(self.ratio.as_ref().is_some_and(|ratio| keeps(ratio, goal)))
        };
        match self.promise {
            Promise::AtLeast(goal) => within(|ratio, goal| ratio.low >= goal, goal),
            Promise::AtMost(goal) => within(|ratio, goal| ratio.high <= goal, goal),
            Promise::Nothing => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match self.promise {
            Promise::AtLeast(goal) | Promise::AtMost(goal) => Some(goal),
            Promise::Nothing => None,
        }
    }

    /// For the last line of output; only what was promised is in it.
    pub(super) fn summary(&self) -> Option<Value> {
        let goal = self.number()?;
        let [ratio, low, high] =
            self.ratio.map_or([None; 3], |ratio| [ratio.median, ratio.low, ratio.high].map(Some));
        Some(json!({
            "id": self.id, "ratio": ratio, "low": low, "high": high, "goal": goal, "met": self.met(),
        }))
    }

    /// One line for people.
    pub(super) fn line(&self) -> String {
        let promise = match self.promise {
            Promise::AtLeast(goal) => format!("≥ {goal}"),
            Promise::AtMost(goal) => format!("≤ {goal}"),
            Promise::Nothing => String::from("-"),
        };
        let verdict = match self.met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let found = match (&self.ratio, &self.why) {
            (Some(found), _) => {
                format!("{:>7.2}× {:>16}", found.median, format!("{:.2} … {:.2}", found.low, found.high))
            }
            (None, why) => format!("not measured: {}", why.as_deref().unwrap_or("no reason")),
        };
        format!("{:<66} {promise:>7} {found:<25} {verdict}", self.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_kept_by_the_whole_interval_or_not_at_all() {
        let met = |promise, ratios: &[f64]| Goal::new("x", "x", promise, ratios).met();
        assert_eq!(met(Promise::AtLeast(4.0), &[4.1, 5.0, 4.5]), Some(true));
        assert_eq!(met(Promise::AtLeast(4.0), &[3.9, 5.0, 4.5]), Some(false));
        assert_eq!(met(Promise::AtMost(1.05), &[1.01, 1.04]), Some(true));
        assert_eq!(met(Promise::AtMost(1.05), &[1.01, 1.06]), Some(false));
        assert_eq!(met(Promise::Nothing, &[2.0]), None);
        assert_eq!(met(Promise::AtLeast(1.0), &[]), Some(false));
    }

    #[test]
    fn the_summary_has_the_agreed_form_and_only_promises() {
        let goal = Goal::new("drop", "drop", Promise::AtLeast(4.0), &[5.0]);
        let expected = json!({"id": "drop", "ratio": 5.0, "low": 5.0, "high": 5.0, "goal": 4.0, "met": true});
        assert_eq!(goal.summary(), Some(expected));
        let missing = Goal::missing("gone", "gone", Promise::AtLeast(2.0), "no such thing");
        let expected =
            json!({"id": "gone", "ratio": null, "low": null, "high": null, "goal": 2.0, "met": false});
        assert_eq!(missing.summary(), Some(expected));
        assert!(missing.line().contains("not measured: no such thing") && missing.line().contains("NOT MET"));
        assert_eq!(Goal::new("i", "i", Promise::Nothing, &[5.0]).summary(), None);
    }
}
