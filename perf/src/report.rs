//! What is printed and what is kept: a table for people, one JSON object for scripts, the raw series for later.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cpu::Cpus;
use crate::load::Slice;
use crate::machine::Facts;
use crate::measure::{self, Measure, Round};
use crate::smoke::Plan;
use crate::stats::{self, Estimate, float};

/// From this share of its CPU on, the load generator may have been the limit.
const LOAD_LIMIT: f64 = 0.90;
/// From this share on, a contender that should be saturated was.
const SATURATED: f64 = 0.90;
/// Missed messages above this share make an echo measurement doubtful.
const MISSED_LIMIT: f64 = 0.01;
/// Busy time of others, as a share of one CPU, above which the machine was not quiet.
const OTHERS_LIMIT: f64 = 0.10;

/// What the probe saw of a contender.
#[derive(Debug, Serialize)]
pub(crate) struct Seen {
    pub(crate) label: String,
    pub(crate) version: String,
    /// TLS 1.3 session tickets that it sent on a new connection.
    pub(crate) session_tickets: u32,
    pub(crate) cpu_source: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    rounds: u32,
    seconds_per_contender_and_round: f64,
    order: &'static str,
    tls: &'static str,
    certificate: &'static str,
    contender_cpu: usize,
    load_cpu: usize,
    echo: String,
}

impl Settings {
    pub(crate) fn new(plan: Plan, cpus: Cpus) -> Self {
        Self {
            rounds: plan.rounds,
            seconds_per_contender_and_round: plan.time.as_secs_f64(),
            order: "ours, theirs, theirs, ours",
            tls: "TLS 1.3, TLS_AES_128_GCM_SHA256, X25519, no resumption",
            certificate: "ECDSA P-256, issued by a root without intermediates",
            contender_cpu: cpus.contender,
            load_cpu: cpus.load,
            echo: measure::echo_load(),
        }
    }
}

/// What one measure came to.
#[derive(Debug, Serialize)]
struct Finding {
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    higher_is_better: bool,
    ours: f64,
    theirs: f64,
    ratio: Estimate,
    verdict: &'static str,
    /// Shares of one CPU, over all slices of one side.
    contender_share: [f64; 2],
    load_share: [f64; 2],
    /// Busy time of the machine that is neither the contender's nor the load's: the kernel's threads, others.
    others_share: [f64; 2],
    doubts: Vec<String>,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kind: &'static str,
    date: String,
    machine: Facts,
    settings: Settings,
    contenders: [Seen; 2],
    measures: Vec<Finding>,
}

impl Report {
    pub(crate) fn new(
        date: String,
        machine: Facts,
        settings: Settings,
        contenders: [Seen; 2],
        series: Vec<(Measure, Vec<Round>)>,
    ) -> Self {
        let labels = [contenders[0].label.as_str(), contenders[1].label.as_str()];
        let findings = series.into_iter().filter_map(|(measure, rounds)| find(measure, rounds, labels));
        let measures = findings.collect();
        Self { kind: "smoke", date, machine, settings, contenders, measures }
    }

    /// The findings without the raw series, for one line of output.
    pub(crate) fn summary(&self) -> Value {
        let measures: Vec<Value> = self
            .measures
            .iter()
            .map(|found| {
                json!({
                    "id": found.id, "unit": found.unit, "higher_is_better": found.higher_is_better,
                    "ours": found.ours, "theirs": found.theirs, "ratio": found.ratio.median,
                    "low": found.ratio.low, "high": found.ratio.high, "verdict": found.verdict,
                    "load_share": found.load_share, "doubts": found.doubts,
                })
            })
            .collect();
        json!({
            "kind": self.kind, "date": self.date, "ours": self.contenders[0].version,
            "theirs": self.contenders[1].version, "measures": measures,
        })
    }

    /// Keeps everything as `smoke-DATE.json`; a second run of a day replaces the first.
    pub(crate) fn save(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(format!("{}-{}.json", self.kind, self.date));
        let text = serde_json::to_string_pretty(self).context("write the results as JSON")?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// The table, and below it whatever makes a figure doubtful.
impl fmt::Display for Report {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ours, theirs] = &self.contenders;
        let (machine, settings) = (&self.machine, &self.settings);
        writeln!(text, "{} ({}) against {} ({})", ours.label, ours.version, theirs.label, theirs.version)?;
        writeln!(text, "{}; {}", settings.tls, settings.certificate)?;
        writeln!(
            text,
            "{}, {} CPUs, Linux {}; contender on CPU {}, load and back end on CPU {}; {} rounds",
            machine.cpu_model,
            machine.cpus,
            machine.kernel,
            settings.contender_cpu,
            settings.load_cpu,
            settings.rounds
        )?;
        writeln!(
            text,
            "\n{:<39} {:>10} {:>10} {:>7}  {:<13} {:<13} {:>9} {:>9} {:>7}",
            "measure", ours.label, theirs.label, "ratio", "95 %", "verdict", "own CPU", "load CPU", "others"
        )?;
        for found in &self.measures {
            let Estimate { median, low, high } = found.ratio;
            let pair = |[first, second]: [f64; 2]| format!("{:.0}/{:.0}%", first * 100.0, second * 100.0);
            writeln!(
                text,
                "{:<39} {:>10.1} {:>10.1} {:>6.2}×  {:<13} {:<13} {:>9} {:>9} {:>7}",
                format!("{}, {}", found.title, found.unit),
                found.ours,
                found.theirs,
                median,
                format!("{low:.2} … {high:.2}"),
                found.verdict,
                pair(found.contender_share),
                pair(found.load_share),
                pair(found.others_share)
            )?;
        }
        let mut doubts =
            self.measures.iter().flat_map(|found| found.doubts.iter().map(|doubt| (found.title, doubt)));
        doubts.try_for_each(|(title, doubt)| writeln!(text, "! {title}: {doubt}"))
    }
}

fn find(measure: Measure, rounds: Vec<Round>, labels: [&str; 2]) -> Option<Finding> {
    let median = |of: fn(&Round) -> &[Slice; 2]| {
        stats::median(&rounds.iter().map(|round| measure.figure(of(round))).collect::<Vec<_>>())
    };
    let (ours, theirs) = (median(|round| &round.ours)?, median(|round| &round.theirs)?);
    let ratios: Vec<f64> = rounds.iter().map(|round| round.ratio(measure)).collect();
    let ratio = stats::estimate(&ratios)?;
    let sides = [
        Side::new(rounds.iter().flat_map(|round| &round.ours)),
        Side::new(rounds.iter().flat_map(|round| &round.theirs)),
    ];
    let doubts = sides.iter().zip(labels).flat_map(|(side, label)| side.doubts(measure, label)).collect();
    let [first, second] = &sides;
    Some(Finding {
        id: measure.id(),
        title: measure.title(),
        unit: measure.unit(),
        higher_is_better: measure.higher_is_better(),
        ours,
        theirs,
        ratio,
        verdict: verdict(measure, ratio),
        contender_share: [first.contender, second.contender],
        load_share: [first.load, second.load],
        others_share: [first.others, second.others],
        doubts,
        rounds,
    })
}

/// A difference only counts when the whole interval lies on one side of one.
fn verdict(measure: Measure, ratio: Estimate) -> &'static str {
    let better_is_up = measure.higher_is_better();
    if ratio.low > 1.0 {
        if better_is_up { "better" } else { "worse" }
    } else if ratio.high < 1.0 {
        if better_is_up { "worse" } else { "better" }
    } else {
        "no difference"
    }
}

/// Shares of one CPU over all slices of one contender in one measure.
struct Side {
    contender: f64,
    load: f64,
    others: f64,
    stolen: f64,
    missed: f64,
}

impl Side {
    fn new<'a>(slices: impl Iterator<Item = &'a Slice>) -> Self {
        let (mut wall, mut units, mut missed) = (0.0, 0, 0);
        let mut side = Self { contender: 0.0, load: 0.0, others: 0.0, stolen: 0.0, missed: 0.0 };
        for slice in slices {
            wall += slice.wall_seconds;
            units += slice.units;
            missed += slice.missed;
            side.contender += slice.contender_cpu_seconds;
            side.load += slice.load_cpu_seconds;
            side.others += slice.machine_busy_seconds;
            side.stolen += slice.machine_stolen_seconds;
        }
        side.others = (side.others - side.contender - side.load).max(0.0);
        for share in [&mut side.contender, &mut side.load, &mut side.others, &mut side.stolen] {
            *share /= wall;
        }
        side.missed = float(missed) / float(units + missed).max(1.0);
        side
    }

    fn doubts(&self, measure: Measure, label: &str) -> Vec<String> {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let mut doubts = Vec::new();
        if self.load >= LOAD_LIMIT && self.contender < SATURATED {
            doubts.push(format!(
                "the load used {} of its CPU and {label} only {}: the load may have been the limit",
                percent(self.load),
                percent(self.contender)
            ));
        } else if measure.saturates() && self.contender < SATURATED {
            doubts.push(format!(
                "{label} used only {} of its CPU: it was not saturated",
                percent(self.contender)
            ));
        }
        if self.missed > MISSED_LIMIT {
            doubts.push(format!(
                "{label} did not keep up: {} of the messages were not sent",
                percent(self.missed)
            ));
        }
        if self.others > OTHERS_LIMIT || self.stolen > OTHERS_LIMIT {
            doubts.push(format!(
                "not a quiet machine during {label}: others used {} of a CPU, the hypervisor took {}",
                percent(self.others),
                percent(self.stolen)
            ));
        }
        doubts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::slice;

    fn rounds(ours: f64, theirs: f64, load: f64) -> Vec<Round> {
        let pair = |cpu: f64| [slice(1_000_000, cpu, load), slice(1_000_000, cpu, load)];
        vec![Round { ours: pair(ours), theirs: pair(theirs) }; 5]
    }

    fn seen(label: &str) -> Seen {
        Seen { label: label.into(), version: "1".into(), session_tickets: 2, cpu_source: "test" }
    }

    fn report(measure: Measure, rounds: Vec<Round>) -> Report {
        let cpus = Cpus { contender: 0, load: 1 };
        let plan = Plan { rounds: 5, time: std::time::Duration::from_secs(2), null: false };
        let contenders = [seen("us"), seen("them")];
        let series = vec![(measure, rounds)];
        Report::new("2026-11-21".into(), Facts::collect(), Settings::new(plan, cpus), contenders, series)
    }

    #[test]
    fn a_loss_is_called_one_in_both_directions() {
        let up = report(Measure::Down, rounds(1.0, 0.95, 0.5));
        assert_eq!(up.measures[0].verdict, "worse");
        let down = report(Measure::Echo, rounds(0.5, 0.25, 0.5));
        assert_eq!(down.measures[0].verdict, "worse");
        assert!(down.to_string().contains("2.00×"));
    }

    #[test]
    fn an_interval_around_one_is_no_difference() {
        let mut series = rounds(0.95, 1.0, 0.5);
        series.extend(rounds(1.0, 0.95, 0.5));
        assert_eq!(report(Measure::Up, series).measures[0].verdict, "no difference");
    }

    #[test]
    fn a_load_generator_at_its_limit_is_owned_up_to() {
        let limited = report(Measure::Down, rounds(0.6, 1.0, 0.97));
        assert_eq!(limited.measures[0].doubts.len(), 1, "{:?}", limited.measures[0].doubts);
        assert!(
            limited.to_string().contains("! TLS relay, down: the load used 97 % of its CPU and us only 60 %")
        );
        let sound = report(Measure::Down, rounds(1.0, 1.0, 0.5));
        assert!(sound.measures[0].doubts.is_empty(), "{:?}", sound.measures[0].doubts);
    }

    #[test]
    fn a_contender_that_is_not_saturated_is_only_a_doubt_where_it_should_be() {
        assert_eq!(report(Measure::Setup, rounds(0.5, 1.0, 0.5)).measures[0].doubts.len(), 1);
        assert!(report(Measure::Echo, rounds(0.3, 0.3, 0.5)).measures[0].doubts.is_empty());
    }

    #[test]
    fn the_saved_file_holds_the_raw_series_and_the_summary_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let report = report(Measure::Setup, rounds(1.0, 1.0, 0.5));
        let path = report.save(dir.path()).unwrap();
        assert!(path.ends_with("smoke-2026-11-21.json"));
        let saved: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(saved["measures"][0]["rounds"].as_array().unwrap().len(), 5);
        let summary = report.summary();
        assert_eq!(summary["measures"][0]["id"], "session-setup");
        assert!(summary["measures"][0].get("rounds").is_none());
    }
}
