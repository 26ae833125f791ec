//! Counting what passed, failed and was skipped, and showing it at the end.

use std::time::Duration;

use serde::Serialize;

use crate::shell;

/// What one step came to.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    /// What failed, each as a line for a person.
    pub(crate) failed: Vec<String>,
    /// What could not run here, each with its reason.
    pub(crate) skipped: Vec<String>,
}

impl Tally {
    pub(crate) fn passed() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    pub(crate) fn failed(why: &str) -> Self {
        Self { failed: vec![why.to_owned()], ..Self::default() }
    }

    pub(crate) fn skipped(why: &str) -> Self {
        Self { skipped: vec![why.to_owned()], ..Self::default() }
    }

    /// A step that passed, or failed in one way.
    pub(crate) fn of(good: bool, remedy: &str) -> Self {
        if good { Self::passed() } else { Self::failed(remedy) }
    }

    /// A check that passed when it found nothing.
    pub(crate) fn of_findings(findings: Vec<String>) -> Self {
        if findings.is_empty() { Self::passed() } else { Self { failed: findings, ..Self::default() } }
    }

    /// How many of each, as a line for a person.
    pub(crate) fn counts(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len())
    }

    /// Adds another step's outcome.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// Adds what a line of `cargo test` says, if it says anything that counts.
    pub(crate) fn read_test_line(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failed.push(name.to_owned());
        }
        if let Some((name, reason)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored"))
        {
            let reason = reason.trim_start_matches(", ");
            self.skipped.push(format!("{name}: {}", if reason.is_empty() { "ignored" } else { reason }));
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(" passed"));
            self.passed += count.and_then(|count| count.trim().parse::<usize>().ok()).unwrap_or(0);
        }
    }

    /// Tests that found at run time that they cannot run were counted as passed by their runner.
    pub(crate) fn move_to_skipped(&mut self, reasons: Vec<String>) {
        self.passed = self.passed.saturating_sub(reasons.len());
        self.skipped.extend(reasons);
    }
}

/// Prints the table, every failure and every skip, and the closing line. Returns whether nothing failed.
pub(crate) fn summarise(rows: &[(&str, Tally, Duration)]) -> bool {
    shell::print("");
    for (name, tally, time) in rows {
        let word = match (tally.failed.is_empty(), tally.passed, tally.skipped.is_empty()) {
            (false, ..) => "FAILED",
            (true, 0, false) => "skipped",
            (true, ..) => "ok",
        };
        let counts =
            format!("{} passed {} failed {} skipped", tally.passed, tally.failed.len(), tally.skipped.len());
        shell::print(&format!("{name:<11} {word:<8} {:>7.1} s   {counts}", time.as_secs_f64()));
    }
    for (name, tally, _) in rows {
        tally.skipped.iter().for_each(|why| shell::print(&format!("skipped: {name}: {why}")));
    }
    for (name, tally, _) in rows {
        tally.failed.iter().for_each(|why| shell::print(&format!("FAILED: {name}: {why}")));
    }
    let mut total = Tally::default();
    for (_, tally, _) in rows {
        total.passed += tally.passed;
        total.failed.extend(tally.failed.iter().cloned());
        total.skipped.extend(tally.skipped.iter().cloned());
    }
    shell::print("");
    shell::print(&total.counts());
    total.failed.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cargo_test_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "running 4 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test a::d ... ignored, needs a screen",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.25s",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s",
        ] {
            tally.read_test_line(line);
        }
        assert_eq!(tally.passed, 5);
        assert_eq!(tally.failed, ["a::c"]);
        assert_eq!(tally.skipped, ["a::d: needs a screen"]);
    }

    #[test]
    fn a_test_that_skipped_itself_did_not_pass() {
        let mut tally = Tally { passed: 2, ..Tally::default() };
        tally.move_to_skipped(vec![String::from("x: no namespaces")]);
        assert_eq!((tally.passed, tally.skipped.len()), (1, 1));
    }
}
