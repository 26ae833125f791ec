//! What is measured, in which unit, and what one round of it says.

use serde::Serialize;

use crate::load::{Slice, echo};
use crate::stats::float;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Down,
    Up,
    Setup,
    Echo,
}

impl Measure {
    pub(crate) const ALL: [Self; 4] = [Self::Down, Self::Up, Self::Setup, Self::Echo];

    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Down => "relay-down",
            Self::Up => "relay-up",
            Self::Setup => "session-setup",
            Self::Echo => "echo",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Down => "TLS relay, down",
            Self::Up => "TLS relay, up",
            Self::Setup => "sessions set up",
            Self::Echo => "256 B echo",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Down | Self::Up => "MB per CPU s",
            Self::Setup => "per CPU s",
            Self::Echo => "CPU µs each",
        }
    }

    pub(crate) fn higher_is_better(self) -> bool {
        self != Self::Echo
    }

    /// Whether the load goes as fast as it can, so that either the contender or the load is the limit.
    pub(crate) fn saturates(self) -> bool {
        self != Self::Echo
    }

    /// The figure of some slices of one contender together.
    pub(crate) fn figure<'a>(self, slices: impl IntoIterator<Item = &'a Slice>) -> f64 {
        let (mut units, mut cpu) = (0, 0.0);
        for slice in slices {
            units += slice.units;
            cpu += slice.contender_cpu_seconds;
        }
        match self {
            Self::Down | Self::Up => float(units) / cpu / 1e6,
            Self::Setup => float(units) / cpu,
            Self::Echo => cpu * 1e6 / float(units),
        }
    }
}

/// How the echo is made, for the report.
pub(crate) fn echo_load() -> String {
    format!(
        "{} connections, a message of {} bytes every {} ms on each, open loop, jittered",
        echo::CONNECTIONS,
        echo::MESSAGE_BYTES,
        echo::GAP.as_millis()
    )
}

/// Two slices of each contender, taken in the order ours, theirs, theirs, ours.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) ours: [Slice; 2],
    pub(crate) theirs: [Slice; 2],
}

impl Round {
    pub(crate) fn ratio(&self, measure: Measure) -> f64 {
        measure.figure(&self.ours) / measure.figure(&self.theirs)
    }

    /// The round in one line of progress.
    pub(crate) fn line(&self, measure: Measure) -> String {
        format!(
            "{:.1} against {:.1} {}: {:.2}×",
            measure.figure(&self.ours),
            measure.figure(&self.theirs),
            measure.unit(),
            self.ratio(measure)
        )
    }
}

#[cfg(test)]
pub(crate) fn slice(units: u64, contender_cpu_seconds: f64, load_cpu_seconds: f64) -> Slice {
    Slice {
        units,
        wall_seconds: 1.0,
        contender_cpu_seconds,
        contender_idle_seconds: 1.0 - contender_cpu_seconds,
        load_cpu_seconds,
        machine_busy_seconds: contender_cpu_seconds + load_cpu_seconds,
        machine_stolen_seconds: 0.0,
        missed: 0,
    }
}

/// Five equal rounds in which the contenders do the same work for so much CPU time.
#[cfg(test)]
pub(crate) fn rounds(ours: f64, theirs: f64, load: f64) -> Vec<Round> {
    let pair = |cpu: f64| [slice(1_000_000, cpu, load), slice(1_000_000, cpu, load)];
    vec![Round { ours: pair(ours), theirs: pair(theirs) }; 5]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_per_second_of_cpu_and_not_of_the_clock() {
        let slices = [slice(300_000_000, 0.25, 0.1), slice(700_000_000, 0.25, 0.1)];
        assert!((Measure::Down.figure(&slices) - 2_000.0).abs() < 1e-6);
        assert!((Measure::Setup.figure(&[slice(500, 0.1, 0.1)]) - 5_000.0).abs() < 1e-6);
        assert!((Measure::Echo.figure(&[slice(10_000, 0.2, 0.1)]) - 20.0).abs() < 1e-6);
    }

    #[test]
    fn the_ratio_of_a_round_is_ours_by_theirs() {
        let ours = [slice(200, 1.0, 0.1), slice(200, 1.0, 0.1)];
        let theirs = [slice(100, 1.0, 0.1), slice(100, 1.0, 0.1)];
        let round = Round { ours, theirs };
        assert!((round.ratio(Measure::Setup) - 2.0).abs() < 1e-9);
        assert!((round.ratio(Measure::Echo) - 0.5).abs() < 1e-9);
    }
}
