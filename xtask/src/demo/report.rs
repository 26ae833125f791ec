//! Steps with their outcome and time, for people and as JSON. No ticket ever gets into one.

use std::time::Instant;

use anyhow::{Context as _, Result};
use portcullis_tests::wait;
use serde::Serialize;

use crate::shell;

/// Hexadecimal characters of a ticket's secret; no digest that is shown has that length.
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 30..=32;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) ok: bool,
    pub(crate) detail: String,
    pub(crate) ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) steps: Vec<Step>,
    /// What could not be shown on this machine, with the reason.
    pub(crate) skipped: Vec<String>,
}

impl Report {
    pub(crate) fn ok(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.ok)
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Object<'a> {
            ok: bool,
            steps: &'a [Step],
        }
        let object = Object { ok: self.ok(), steps: &self.steps };
        serde_json::to_string(&object).context("write the report as JSON")
    }
}

/// Takes the time of each step and prints it as soon as it is done.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    report: Report,
}

impl Reporter {
    /// Does one step. After an interruption the remaining steps are not done and count as failed.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<String>) {
        if wait::interrupted() {
            return;
        }
        self.finish(name, work);
    }

    /// Like [`Reporter::step`], also after an interruption.
    pub(crate) fn finish(&mut self, name: &str, work: impl FnOnce() -> Result<String>) {
        let begun = Instant::now();
        let (ok, detail) = match work() {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:#}")),
        };
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = Step { name: name.to_owned(), ok, detail: without_secrets(&detail), ms };
        let word = if ok { "ok    " } else { "FAILED" };
        shell::say(&format!("{word} {ms:>6} ms  {name}\n                  {}", step.detail));
        self.report.steps.push(step);
    }

    /// How many steps were done so far.
    pub(crate) fn count(&self) -> usize {
        self.report.steps.len()
    }

    pub(crate) fn skip(&mut self, what: &str) {
        self.report.skipped.push(what.to_owned());
    }

    pub(crate) fn into_report(self) -> Report {
        let mut report = self.report;
        if wait::interrupted() {
            let detail = String::from("not all steps were done");
            report.steps.push(Step { name: String::from("interrupted"), ok: false, detail, ms: 0 });
        }
        report
    }
}

/// Replaces what has the shape of a ticket's secret.
fn without_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut run = String::new();
    let flush = |run: &mut String, clean: &mut String| {
        clean.push_str(if SECRET_CHARS.contains(&run.len()) { "<ticket>" } else { run });
        run.clear();
    };
    for character in text.chars() {
        if character.is_ascii_hexdigit() {
            run.push(character);
        } else {
            flush(&mut run, &mut clean);
            clean.push(character);
        }
    }
    flush(&mut run, &mut clean);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_replaced_and_digests_stay() {
        let secret = "0123456789abcdef0123456789ABCDEF";
        assert_eq!(
            without_secrets(&format!("a ;40;STA123456789;{secret} b")),
            "a ;40;STA123456789;<ticket> b"
        );
        let digest = "0".repeat(64);
        assert_eq!(without_secrets(&digest), digest);
    }

    #[test]
    fn the_json_object_has_exactly_the_promised_keys() {
        let step = Step { name: "a".into(), ok: true, detail: "b".into(), ms: 1 };
        let report = Report { steps: vec![step], skipped: vec!["x".into()] };
        let text = r#"{"ok":true,"steps":[{"name":"a","ok":true,"detail":"b","ms":1}]}"#;
        assert_eq!(report.to_json().unwrap(), text);
    }

    #[test]
    fn a_report_without_steps_is_no_success() {
        assert!(!Report::default().ok());
    }

    #[test]
    fn a_failed_step_fails_the_report() {
        let mut reporter = Reporter::default();
        reporter.step("good", || Ok(String::new()));
        assert!(reporter.report.ok());
        reporter.step("bad", || anyhow::bail!("no"));
        assert!(!reporter.into_report().ok());
    }
}
