//! The sizing page: sessions per core and memory per 1,000 sessions, computed from a results file.
//!
//! Nothing in it is a hope: a figure that was not measured is missing from the page.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::compare::Figure;

/// The page plans for this share of a core, so that storms and tails find room.
const PLANNED: f64 = 0.70;
const OURS: &str = "portcullis";

/// What the page needs of a results file.
#[derive(Debug, Deserialize)]
pub(crate) struct Results {
    date: String,
    machine: Machine,
    pub(crate) figures: Vec<Figure>,
}

#[derive(Debug, Deserialize)]
struct Machine {
    cpu_model: String,
    cpus: u64,
    kernel: String,
}

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} holds no results of goals", path.display()))
    }

    fn ours(&self, id: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.id == id)?.median(OURS)
    }
}

/// A mix of sessions.
struct Mix {
    name: &'static str,
    active: f64,
    /// Of an active session, each way.
    messages_per_second: f64,
}

/// What G2 measures.
const MEASURED: Mix = Mix {
    name: "office: 60 % active, 20 messages a second (measured)",
    active: 0.6,
    messages_per_second: 20.0,
};

const MIXES: [Mix; 4] = [
    Mix { name: "office, quiet: 30 % active, 10 messages a second", active: 0.3, messages_per_second: 10.0 },
    MEASURED,
    Mix { name: "busy: 80 % active, 30 messages a second", active: 0.8, messages_per_second: 30.0 },
    Mix { name: "video in every session: 60 messages a second", active: 1.0, messages_per_second: 60.0 },
];

/// The page as Markdown.
pub(crate) fn page(results: &Results) -> Result<String> {
    let Results { date, machine, .. } = results;
    // The mix as it was measured says most; what a message cost on fewer sessions is the next best.
    let of_mix = results.ours("G2").map(|cores| cores / cores_of(&MEASURED, 1.0));
    let micros = of_mix.or_else(|| results.ours("G1"));
    let micros = micros.context("the results lack G2 and G1, the CPU time of messages")?;
    ensure!(micros > 0.0, "a message that costs nothing is none");
    let mut page = format!(
        "# Sizing\n\nComputed by `cargo xtask perf sizing` from the measurement of {date} on {} ({} CPUs, Linux {}): \
         a message of 256 to 1,228 bytes there and back costs {micros:.1} µs of a core. Your processor differs; \
         `cargo xtask perf` measures it, in less time with `--quick`.\n\n## Sessions per core\n\n\
         With {:.0} % of a core planned for, the rest left to storms of logons and to tails.\n\n\
         | mix | cores per 1,000 sessions | sessions per core |\n|---|---|---|\n",
        machine.cpu_model,
        machine.cpus,
        machine.kernel,
        PLANNED * 100.0
    );
    for mix in &MIXES {
        let cores = cores_of(mix, micros);
        let line = format!("| {} | {cores:.3} | {:.0} |\n", mix.name, PLANNED / cores * 1_000.0);
        page.push_str(&line);
    }
    page.push_str(
        "\nOne process holds 9,500 sessions where it may open 20,000 descriptors, two for each; raise `LimitNOFILE` for \
         more.\n",
    );
    memory(&mut page, results);
    logons(&mut page, results);
    Ok(page)
}

fn memory(page: &mut String, results: &Results) {
    let Some(kilobytes) = results.ours("G5") else { return };
    // Writing to a String cannot fail, here and below.
    let _infallible = writeln!(
        page,
        "\n## Memory\n\nAn idle session takes {kilobytes:.1} KB of the gateway's memory: {:.1} MB for 1,000. What the \
         kernel needs for its two sockets, and for bytes that wait in them, comes on top.",
        kilobytes * 1_000.0 / 1_024.0
    );
}

fn logons(page: &mut String, results: &Results) {
    let Some(full) = results.ours("G4") else { return };
    let _infallible = writeln!(
        page,
        "\n## Logons\n\nA core sets {full:.0} sessions up in a second, with a full handshake (ECDSA P-256), a ticket \
         that is redeemed and a connection to the machine: 1,000 people who log on within a minute take {:.1} % of it.",
        1_000.0 / 60.0 / full * 100.0
    );
}

/// Cores for a thousand sessions of a mix.
fn cores_of(mix: &Mix, micros: f64) -> f64 {
    1_000.0 * mix.active * mix.messages_per_second * micros / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(ids: &[(&str, f64)]) -> Results {
        let figures: Vec<_> = ids
            .iter()
            .map(|(id, median)| {
                serde_json::json!({"id": id, "title": "t", "unit": "u", "better": "lower", "bars": [
                    {"label": "portcullis", "value": {"median": median, "low": median, "high": median}}]})
            })
            .collect();
        let machine = serde_json::json!({"cpu_model": "Some CPU", "cpus": 2, "kernel": "6.1", "more": 1});
        let whole = serde_json::json!({"date": "2026-11-22", "machine": machine, "figures": figures});
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn cores_follow_from_messages_and_their_cost() {
        // 600 sessions with 20 messages a second of 10 µs: 0.12 cores, so 5,833 sessions on 70 % of one.
        let page = page(&results(&[("G1", 10.0)])).unwrap();
        let line = page.lines().find(|line| line.contains("60 % active, 20")).unwrap();
        assert!(line.contains("| 0.120 | 5833 |"), "{line}");
    }

    #[test]
    fn the_measured_mix_says_more_than_a_single_message() {
        // 0.06 cores for 12,000 messages a second: 5 µs each.
        let page = page(&results(&[("G1", 10.0), ("G2", 0.06)])).unwrap();
        assert!(page.contains("costs 5.0 µs") && page.contains("| 0.060 | 11667 |"), "{page}");
    }

    #[test]
    fn what_was_not_measured_is_not_on_the_page() {
        let small = page(&results(&[("G1", 10.0)])).unwrap();
        assert!(!small.contains("## Memory") && !small.contains("## Logons"));
        let whole = page(&results(&[("G1", 10.0), ("G4", 5_000.0), ("G5", 2.0)])).unwrap();
        assert!(whole.contains("2.0 KB") && whole.contains("0.3 % of it"), "{whole}");
        assert!(page(&results(&[("G4", 1.0)])).is_err());
    }
}
