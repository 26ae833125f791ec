//! What is printed and what is kept: a table for people, one JSON object for scripts, the raw series for later.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cpu::Cpus;
use crate::finding::{Finding, Shares};
use crate::machine::Facts;
use crate::measure::{self, Measure, Round};
use crate::smoke::Plan;
use crate::stats::Estimate;

/// Time of others, as a share of one CPU, above which the machine was not quiet.
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

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kind: &'static str,
    date: String,
    machine: Facts,
    settings: Settings,
    /// Ours, theirs.
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
        let labels = contenders.each_ref().map(|seen| seen.label.as_str());
        let find = |(measure, rounds)| Finding::new(measure, rounds, labels);
        let measures = series.into_iter().filter_map(find).collect();
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
                    "shares": found.shares, "doubts": found.doubts,
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

    /// The worst disturbance of any measure.
    fn disturbance(&self) -> Shares {
        let all = self.measures.iter().flat_map(|found| found.shares);
        all.fold(Shares::default(), |worst, shares| Shares {
            others: worst.others.max(shares.others),
            stolen: worst.stolen.max(shares.stolen),
            ..worst
        })
    }
}

/// The table, and below it whatever makes a figure doubtful.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ours, theirs] = &self.contenders;
        let (machine, settings) = (&self.machine, &self.settings);
        writeln!(f, "{} against {}", ours.version, theirs.version)?;
        writeln!(f, "{}; {}", settings.tls, settings.certificate)?;
        writeln!(
            f,
            "{}, {} CPUs, Linux {}; contenders on CPU {}, load and back end on CPU {}; {} rounds",
            machine.cpu_model,
            machine.cpus,
            machine.kernel,
            settings.contender_cpu,
            settings.load_cpu,
            settings.rounds
        )?;
        writeln!(
            f,
            "\n{:<30} {:>10} {:>10} {:>7}  {:<13} {:<14} {:>9} {:>9}",
            "measure", ours.label, theirs.label, "ratio", "95 %", "verdict", "own CPU", "load CPU"
        )?;
        for found in &self.measures {
            let Estimate { median, low, high } = found.ratio;
            let pair = |of: fn(&Shares) -> f64| {
                let [ours, theirs] = found.shares.each_ref().map(|shares| of(shares) * 100.0);
                format!("{ours:.0}/{theirs:.0}%")
            };
            writeln!(
                f,
                "{:<30} {:>10.1} {:>10.1} {median:>6.2}×  {:<13} {:<14} {:>9} {:>9}",
                format!("{}, {}", found.title, found.unit),
                found.ours,
                found.theirs,
                format!("{low:.2} … {high:.2}"),
                found.verdict,
                pair(|shares| shares.contender),
                pair(|shares| shares.load),
            )?;
        }
        for found in &self.measures {
            found.doubts.iter().try_for_each(|doubt| writeln!(f, "! {}: {doubt}", found.title))?;
        }
        let Shares { others, stolen, .. } = self.disturbance();
        if others.max(stolen) > OTHERS_LIMIT {
            let (others, stolen) = (others * 100.0, stolen * 100.0);
            writeln!(
                f,
                "! the machine was not quiet: others used up to {others:.0} % of a CPU, the hypervisor \
                 {stolen:.0} %; repeat on a quiet one before you quote anything"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::rounds;

    fn report(rounds: Vec<Round>) -> Report {
        let seen = |label: &str| Seen {
            label: label.into(),
            version: format!("{label} 1.0"),
            session_tickets: 2,
            cpu_source: "test",
        };
        let plan = Plan { rounds: 5, time: std::time::Duration::from_secs(2), null: false };
        let settings = Settings::new(plan, Cpus { contender: 0, load: 1 });
        let series = vec![(Measure::Setup, rounds)];
        Report::new("2026-11-21".into(), Facts::collect(), settings, [seen("us"), seen("them")], series)
    }

    #[test]
    fn the_table_shows_the_ratio_its_interval_and_the_verdict() {
        let text = report(rounds(1.0, 0.5, 0.5)).to_string();
        let line = text.lines().find(|line| line.starts_with("sessions set up")).unwrap();
        for piece in ["0.50×", "0.50 … 0.50", "worse", "100/50%", "50/50%"] {
            assert!(line.contains(piece), "{piece} in {line}");
        }
    }

    #[test]
    fn doubts_stand_below_the_table() {
        let mut series = rounds(1.0, 0.5, 0.5);
        for round in &mut series {
            round.ours[0].machine_busy_seconds += 1.0;
        }
        let text = report(series).to_string();
        assert!(text.contains("! sessions set up: them left its CPU idle for 50 %"), "{text}");
        assert!(text.contains("! the machine was not quiet: others used up to 50 % of a CPU"), "{text}");
    }

    #[test]
    fn the_saved_file_holds_the_raw_series_and_the_summary_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let report = report(rounds(1.0, 1.0, 0.5));
        let path = report.save(dir.path()).unwrap();
        assert!(path.ends_with("smoke-2026-11-21.json"));
        let saved: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(saved["measures"][0]["rounds"].as_array().unwrap().len(), 5);
        let summary = report.summary();
        assert_eq!(summary["measures"][0]["id"], "session-setup");
        assert!(summary["measures"][0].get("rounds").is_none());
    }
}
