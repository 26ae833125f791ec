//! What a run of scenarios came to, for people and for programs.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::ci::Tally;
use crate::image::build::Built;

/// Numbers by name, each with its unit at the end of its name.
pub(crate) type Measured = BTreeMap<String, f64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// One scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    /// Why it failed or was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) measured: Measured,
}

impl Row {
    pub(super) fn skipped(name: &str, why: &str) -> Self {
        let (name, why) = (name.to_owned(), Some(why.to_owned()));
        Self { name, outcome: Outcome::Skipped, why, seconds: 0.0, measured: Measured::new() }
    }
}

/// The image that was booted.
#[derive(Debug, Serialize)]
pub(crate) struct Image {
    root_hash: String,
    signed: bool,
    /// What the disk image takes on a disk: holes take nothing.
    disk_bytes: u64,
    kernel_bytes: u64,
    /// Of `portcullis.raw.zst`, where that was made of this image.
    #[serde(skip_serializing_if = "Option::is_none")]
    compressed_bytes: Option<u64>,
}

/// All of a run. Times and memory are those of an emulated machine.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<Image>,
    pub(crate) scenarios: Vec<Row>,
}

impl Image {
    pub(super) fn of(built: &Built) -> Result<Self> {
        let look = |path: &std::path::Path| {
            std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))
        };
        let raw = look(&built.raw)?;
        // One that was made before is of another image.
        let compressed =
            look(&built.raw.with_extension("raw.zst")).ok().filter(|made| made.mtime() >= raw.mtime());
        Ok(Self {
            root_hash: built.root_hash.clone(),
            signed: built.signed,
            disk_bytes: raw.blocks() * 512,
            kernel_bytes: look(&built.kernel)?.len(),
            compressed_bytes: compressed.map(|made| made.len()),
        })
    }

    /// A line for a person.
    fn line(&self) -> String {
        let megabytes = crate::image::megabytes;
        let compressed = match self.compressed_bytes {
            Some(bytes) => format!("{:.0} MB compressed", megabytes(bytes)),
            None => "not compressed yet (cargo xtask image --no-build --format raw.zst)".to_owned(),
        };
        let (disk, kernel) = (megabytes(self.disk_bytes), megabytes(self.kernel_bytes));
        format!("image: {disk:.0} MB on disk, {kernel:.0} MB of it kernel and initrd; {compressed}")
    }
}

impl Report {
    /// None of these can be run.
    pub(super) fn skipped<'a>(names: impl Iterator<Item = &'a str>, why: &str) -> Self {
        Self { scenarios: names.map(|name| Row::skipped(name, why)).collect(), ..Self::default() }
    }

    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for row in &self.scenarios {
            let told = || format!("{}: {}", row.name, row.why.as_deref().unwrap_or_default());
            match row.outcome {
                Outcome::Passed => tally.passed += 1,
                Outcome::Failed => tally.failed.push(told()),
                Outcome::Skipped => tally.skipped.push(told()),
            }
        }
        tally
    }

    /// What the image takes and what was measured, in lines for a person.
    pub(crate) fn lines(&self) -> Vec<String> {
        let rows = self.scenarios.iter().filter(|row| !row.measured.is_empty()).map(|row| {
            let numbers = row.measured.iter().map(|(name, number)| format!("{name} {number:.1}"));
            format!("{}: {}", row.name, numbers.collect::<Vec<_>>().join(", "))
        });
        self.image.iter().map(Image::line).chain(rows).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_each_scenario_once_and_tells_what_was_measured() {
        let row = |name: &str, outcome, why: Option<&str>, measured: &[(&str, f64)]| Row {
            name: name.to_owned(),
            outcome,
            why: why.map(str::to_owned),
            seconds: 1.0,
            measured: measured.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect(),
        };
        let report = Report {
            scenarios: vec![
                row("a", Outcome::Passed, None, &[("memory_used_mib", 209.0)]),
                row("b", Outcome::Failed, Some("it said no"), &[]),
                row("c", Outcome::Skipped, Some("not signed"), &[]),
            ],
            ..Report::default()
        };
        let tally = report.tally();
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, ["b: it said no"]);
        assert_eq!(tally.skipped, ["c: not signed"]);
        assert_eq!(report.lines(), ["a: memory_used_mib 209.0"]);
        let none = Report::skipped(["a", "b"].into_iter(), "no image");
        assert_eq!(none.tally().skipped, ["a: no image", "b: no image"]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["scenarios"][0]["measured"]["memory_used_mib"], 209.0);
        assert_eq!(json["scenarios"][2]["outcome"], "skipped");
    }
}
