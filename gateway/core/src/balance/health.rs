//! Whether a server is usable, from the results of its checks.
//!
//! A server whose first check is not back yet is used: after a start or a reload nobody should wait for a check.
//! The first result decides at once; later the state changes after `rise` good or `fall` bad results in a row.

/// What is believed of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not checked yet, or not checked at all.
    Unknown,
    Up,
    Down,
}

impl State {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    #[must_use]
    pub fn is_usable(self) -> bool {
        self != Self::Down
    }
}

/// How many results in a row change the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Good ones, until a server that is down is up.
    pub rise: u32,
    /// Bad ones, until a server that is up is down.
    pub fall: u32,
}

/// The health of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    thresholds: Thresholds,
    state: State,
    /// Results in a row that speak against the state.
    against: u32,
}

impl Health {
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, state: State::Unknown, against: 0 }
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// A check came back; the new state where it changed.
    pub fn handle_result(&mut self, good: bool) -> Option<State> {
        let (opposite, needed) = match (self.state, good) {
            (State::Unknown, true) => (State::Up, 1),
            (State::Unknown, false) => (State::Down, 1),
            (State::Down, true) => (State::Up, self.thresholds.rise),
            (State::Up, false) => (State::Down, self.thresholds.fall),
            (State::Up, true) | (State::Down, false) => {
                self.against = 0;
                return None;
            }
        };
        self.against = self.against.saturating_add(1);
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.state = opposite;
        Some(opposite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(Thresholds { rise: 2, fall: 3 })
    }

    fn after(results: &[bool]) -> State {
        let mut health = health();
        for good in results {
            health.handle_result(*good);
        }
        health.state()
    }

    #[test]
    fn a_server_is_used_until_its_first_check_and_the_first_result_decides() {
        assert!(health().state().is_usable());
        assert_eq!(health().handle_result(true), Some(State::Up));
        assert_eq!(health().handle_result(false), Some(State::Down));
    }

    #[test]
    fn a_server_falls_after_as_many_failures_in_a_row_as_are_set() {
        assert_eq!(after(&[true, false, false]), State::Up);
        assert_eq!(after(&[true, false, false, false]), State::Down);
        assert_eq!(after(&[true, false, false, true, false, false]), State::Up);
    }

    #[test]
    fn a_server_rises_after_as_many_successes_in_a_row_as_are_set() {
        assert_eq!(after(&[false, true]), State::Down);
        assert_eq!(after(&[false, true, false, true]), State::Down);
        assert_eq!(after(&[false, true, true]), State::Up);
    }

    #[test]
    fn a_change_is_told_once() {
        let mut health = health();
        let told: Vec<_> =
            [false, false, true, true, true].map(|good| health.handle_result(good)).into_iter().collect();
        assert_eq!(told, [Some(State::Down), None, None, Some(State::Up), None]);
    }
}
