//! What a measurement came to, against what was promised.

use serde::Serialize;
use serde_json::{Value, json};

use crate::stats::{self, Estimate};

/// What was promised of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Promise {
    AtLeast(f64),
    AtMost(f64),
    /// For information only.
    Nothing,
}

/// One ratio with its spread.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) id: String,
    /// What is divided by what.
    pub(crate) title: String,
    pub(crate) promise: Promise,
    /// The least that has to hold, where that is less than what was promised.
    pub(crate) gate: Option<f64>,
    /// `None` when it could not be measured; `why` says why.
    pub(crate) ratio: Option<Estimate>,
    pub(crate) why: Option<String>,
    /// What makes the figure worthless, though there is one.
    pub(crate) invalid: Option<String>,
}

impl Goal {
    /// From the ratios of the rounds.
    pub(crate) fn new(id: &str, title: &str, promise: Promise, ratios: &[f64]) -> Self {
        let ratio = stats::estimate(ratios);
        let why = ratio.is_none().then(|| String::from("there was no round"));
        Self { id: id.into(), title: title.into(), promise, gate: None, ratio, why, invalid: None }
    }

    /// With what makes the figure worthless, if anything does.
    pub(crate) fn unless(mut self, invalid: Option<String>) -> Self {
        self.invalid = self.invalid.or(invalid);
        self
    }

    pub(crate) fn missing(id: &str, title: &str, promise: Promise, why: &str) -> Self {
        let why = Some(why.into());
        Self { id: id.into(), title: title.into(), promise, gate: None, ratio: None, why, invalid: None }
    }

    /// Whether the whole interval keeps the promise. What was not measured, or is worthless, keeps none.
    pub(crate) fn met(&self) -> Option<bool> {
        self.number().map(|goal| self.keeps(goal))
    }

    /// The same of the least that has to hold.
    pub(crate) fn gate_met(&self) -> Option<bool> {
        self.gate.map(|gate| self.keeps(gate))
    }

    fn keeps(&self, number: f64) -> bool {
        let within = |ratio: &Estimate| match self.promise {
            Promise::AtLeast(_) => ratio.low >= number,
            Promise::AtMost(_) => ratio.high <= number,
            Promise::Nothing => false,
        };
        self.invalid.is_none() && self.ratio.as_ref().is_some_and(within)
    }

    fn number(&self) -> Option<f64> {
        match self.promise {
            Promise::AtLeast(goal) | Promise::AtMost(goal) => Some(goal),
            Promise::Nothing => None,
        }
    }

    /// For the last line of output; only what was promised is in it.
    pub(crate) fn summary(&self) -> Option<Value> {
        let goal = self.number()?;
        let [ratio, low, high] =
            self.ratio.map_or([None; 3], |ratio| [ratio.median, ratio.low, ratio.high].map(Some));
        Some(json!({
            "id": self.id, "ratio": ratio, "low": low, "high": high, "goal": goal, "gate": self.gate,
            "met": self.met(), "gate_met": self.gate_met(),
        }))
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let sign = match self.promise {
            Promise::AtLeast(_) => "≥",
            Promise::AtMost(_) => "≤",
            Promise::Nothing => "-",
        };
        let number =
            |number: Option<f64>| number.map_or_else(String::new, |number| format!("{sign} {number}"));
        let promise =
            if self.promise == Promise::Nothing { String::from("-") } else { number(self.number()) };
        let verdict = match (self.met(), self.gate_met()) {
            (Some(true), _) => "met",
            (Some(false), Some(true)) => "gate only",
            (Some(false), _) => "NOT MET",
            (None, _) => "",
        };
        let found = match (&self.ratio, &self.why) {
            (Some(found), _) => {
                format!("{:>7.2}  {:>16}", found.median, format!("{:.2} … {:.2}", found.low, found.high))
            }
            (None, why) => format!("not measured: {}", why.as_deref().unwrap_or("no reason")),
        };
        let gate = number(self.gate);
        let mut line = format!("{:<66} {promise:>7} {gate:>7} {found:<25} {verdict}", self.title);
        if let Some(invalid) = &self.invalid {
            line.push_str(&format!("  INVALID: {invalid}"));
        }
        line
    }
}

/// What stands above such lines.
pub(crate) fn heading() -> String {
    format!("{:<66} {:>7} {:>7} {:>7}  {:>16}", "ratio", "goal", "gate", "median", "95 %")
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
        let expected = json!({"id": "drop", "ratio": 5.0, "low": 5.0, "high": 5.0, "goal": 4.0, "gate": null,
            "met": true, "gate_met": null});
        assert_eq!(goal.summary(), Some(expected));
        let missing = Goal::missing("gone", "gone", Promise::AtLeast(2.0), "no such thing");
        let expected = json!({"id": "gone", "ratio": null, "low": null, "high": null, "goal": 2.0, "gate": null,
            "met": false, "gate_met": null});
        assert_eq!(missing.summary(), Some(expected));
        assert!(missing.line().contains("not measured: no such thing") && missing.line().contains("NOT MET"));
        assert_eq!(Goal::new("i", "i", Promise::Nothing, &[5.0]).summary(), None);
    }

    #[test]
    fn between_gate_and_goal_only_the_gate_is_met() {
        let goal = Goal { gate: Some(0.65), ..Goal::new("x", "x", Promise::AtMost(0.45), &[0.6]) };
        assert_eq!((goal.met(), goal.gate_met()), (Some(false), Some(true)));
        assert!(goal.line().contains("gate only") && goal.line().contains("≤ 0.65"), "{}", goal.line());
        let lost = Goal { gate: Some(0.65), ..Goal::new("x", "x", Promise::AtMost(0.45), &[0.7]) };
        assert_eq!((lost.met(), lost.gate_met()), (Some(false), Some(false)));
        assert!(lost.line().contains("NOT MET"));
    }

    #[test]
    fn a_worthless_figure_keeps_nothing() {
        let goal = Goal { gate: Some(1.5), ..Goal::new("x", "x", Promise::AtLeast(2.0), &[3.0]) };
        let worthless = goal.unless(Some(String::from("the load was the limit")));
        assert_eq!((worthless.met(), worthless.gate_met()), (Some(false), Some(false)));
        assert!(worthless.line().contains("INVALID: the load was the limit"));
    }
}
