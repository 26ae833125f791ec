//! Pressure: when more connections are begun than the budget allows, SYNs are answered with cookies until it is over.
//!
//! The program in the kernel counts and answers; this module decides when it may answer, and keeps the sysctl
//! `net.ipv4.tcp_syncookies` of the daemon's network namespace in step: the kernel takes a connection that a cookie
//! opens only at a listener that has lately sent a cookie itself. With 2 it sends nothing else, and the program lets
//! some SYNs through to every listener. The former value comes back when no cookie is on its way any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use portcullis_ebpf_common::Cause;
use portcullis_ebpf_common::tables::Cookies;

use crate::config::{CookieMode, FloodConfig};

/// Whether the kernel sends cookies: 0 never, 1 when a listener's queue is full, 2 always.
const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_syncookies";
const ALWAYS: &str = "2";
/// Where the former value stands while another is in force, for a daemon that was killed in between.
const FORMER: &str = "tcp_syncookies.former";
/// What is counted when a SYN is over the budget of all together.
pub(super) const OVER: [Cause; 2] = [Cause::SynTotal, Cause::CookieSent];

/// What the daemon does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Pressure began, or began again.
    Begin,
    /// Pressure is over.
    End,
    /// Nobody can come with a cookie any more.
    Forget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Quiet,
    /// Since when, and when a SYN was over the budget last.
    Pressure {
        since: SystemTime,
        last: Instant,
    },
    /// Cookies that were sent may come back yet, until then.
    Settling {
        until: Instant,
    },
}

/// Decides by what is counted and by the clock.
#[derive(Debug)]
struct Watch {
    phase: Phase,
    over: u64,
    calm: Duration,
    cookie_life: Duration,
}

impl Watch {
    fn new(config: &FloodConfig) -> Self {
        let FloodConfig { calm, cookie_life, .. } = *config;
        Self { phase: Phase::Quiet, over: 0, calm, cookie_life }
    }

    /// `over`: SYNs over the budget since the program began.
    fn step(&mut self, over: u64, now: Instant, wall: SystemTime) -> Option<Step> {
        let more = over > self.over;
        self.over = over;
        match self.phase {
            Phase::Quiet | Phase::Settling { .. } if more => {
                self.phase = Phase::Pressure { since: wall, last: now };
                Some(Step::Begin)
            }
            Phase::Pressure { since, .. } if more => {
                self.phase = Phase::Pressure { since, last: now };
                None
            }
            Phase::Pressure { last, .. } if now.saturating_duration_since(last) >= self.calm => {
                self.phase = Phase::Settling { until: now + self.cookie_life };
                Some(Step::End)
            }
            Phase::Settling { until } if now >= until => {
                self.phase = Phase::Quiet;
                Some(Step::Forget)
            }
            Phase::Quiet | Phase::Pressure { .. } | Phase::Settling { .. } => None,
        }
    }
}

/// The flood defence as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodState {
    /// Since when more connections are begun than the budget allows.
    pub pressure_since: Option<SystemTime>,
    /// Whether SYNs are answered with cookies.
    pub cookies: bool,
}

/// Watches the pressure and switches cookies.
#[derive(Debug)]
pub(super) struct Defence {
    mode: CookieMode,
    watch: Watch,
    sysctl: Sysctl,
    cookies: Cookies,
}

impl Defence {
    pub(super) fn new(config: &FloodConfig, state_dir: &Path) -> Self {
        let mut sysctl = Sysctl::new(SYSCTL.into(), state_dir.join(FORMER));
        sysctl.recover();
        let mut defence =
            Self { mode: config.cookies, watch: Watch::new(config), sysctl, cookies: Cookies::Off };
        if defence.mode == CookieMode::Always && defence.prepare() {
            defence.cookies = Cookies::Always;
        }
        defence
    }

    /// Goes on by another configuration; the pressure stays what it is.
    pub(super) fn change(&mut self, config: &FloodConfig) {
        (self.watch.calm, self.watch.cookie_life) = (config.calm, config.cookie_life);
        if self.mode == config.cookies {
            return;
        }
        self.mode = config.cookies;
        let wanted = match self.mode {
            CookieMode::Always => Cookies::Always,
            CookieMode::Auto if matches!(self.watch.phase, Phase::Pressure { .. }) => Cookies::On,
            CookieMode::Auto | CookieMode::Off => Cookies::Off,
        };
        let may = wanted != Cookies::Off && self.prepare();
        self.cookies = if may { wanted } else { Cookies::Off };
        if self.cookies == Cookies::Off {
            // Cookies that were sent may come back yet, as after pressure; then the sysctl goes back.
            let until = Instant::now() + self.watch.cookie_life;
            self.watch.phase = Phase::Settling { until };
        }
    }

    /// What the program should do with SYNs over the budget.
    pub(super) fn cookies(&self) -> Cookies {
        self.cookies
    }

    pub(super) fn state(&self) -> FloodState {
        let pressure_since = match self.watch.phase {
            Phase::Pressure { since, .. } => Some(since),
            Phase::Quiet | Phase::Settling { .. } => None,
        };
        FloodState { pressure_since, cookies: self.cookies != Cookies::Off }
    }

    /// Looks at the count of SYNs over the budget; says what the program should do when that changes.
    pub(super) fn look(&mut self, over: u64) -> Option<Cookies> {
        let step = self.watch.step(over, Instant::now(), SystemTime::now())?;
        let auto = self.mode == CookieMode::Auto;
        let cookies = match step {
            Step::Begin if auto && self.prepare() => Cookies::On,
            Step::Begin | Step::Forget => self.cookies,
            Step::End if auto => Cookies::Off,
            Step::End => self.cookies,
        };
        if step == Step::Forget && self.mode != CookieMode::Always {
            self.sysctl.restore();
        }
        match step {
            Step::Begin => tracing::warn!(
                cookies = cookies != Cookies::Off,
                "under pressure: more connections are begun than xdp.flood.syn_total allows"
            ),
            Step::End => tracing::info!(syns_over_budget = over, "the pressure is over"),
            Step::Forget => tracing::debug!("no SYN cookie is on its way any more"),
        }
        let changed = cookies != self.cookies;
        self.cookies = cookies;
        changed.then_some(cookies)
    }

    /// The former value of the sysctl comes back.
    pub(super) fn stop(&mut self) {
        self.sysctl.restore();
        self.cookies = Cookies::Off;
    }

    /// Whether the kernel's listeners are ready for cookies.
    fn prepare(&mut self) -> bool {
        match self.sysctl.set() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(
                    %error,
                    "SYN cookies cannot be used: the daemon must be able to write net.ipv4.tcp_syncookies; SYNs \
                     over the budget are dropped"
                );
                false
            }
        }
    }
}

impl Drop for Defence {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A sysctl that has another value for a while.
#[derive(Debug)]
struct Sysctl {
    path: PathBuf,
    note: PathBuf,
    former: Option<String>,
}

impl Sysctl {
    fn new(path: PathBuf, note: PathBuf) -> Self {
        Self { path, note, former: None }
    }

    /// Puts back what a daemon that was killed has left.
    fn recover(&mut self) {
        if let Ok(former) = fs::read_to_string(&self.note) {
            self.former = Some(former.trim().to_owned()).filter(|value| matches!(value.as_str(), "0" | "1"));
            self.restore();
        }
    }

    fn set(&mut self) -> io::Result<()> {
        if self.former.is_some() {
            return Ok(());
        }
        let value = fs::read_to_string(&self.path)?.trim().to_owned();
        if value == ALWAYS {
            return Ok(());
        }
        // Without the note a killed daemon leaves cookies on, which costs little; that must not keep them off.
        if let Err(error) = fs::write(&self.note, &value) {
            tracing::warn!(path = %self.note.display(), %error, "the former value of tcp_syncookies is not noted");
        }
        fs::write(&self.path, ALWAYS)?;
        self.former = Some(value);
        Ok(())
    }

    fn restore(&mut self) {
        let Some(former) = self.former.take() else { return };
        if let Err(error) = fs::write(&self.path, &former) {
            tracing::error!(%error, former, "net.ipv4.tcp_syncookies cannot be set to its former value");
        }
        fs::remove_file(&self.note).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn config() -> FloodConfig {
        FloodConfig {
            calm: Duration::from_secs(1),
            cookie_life: Duration::from_secs(2),
            ..FloodConfig::default()
        }
    }

    #[test]
    fn pressure_begins_with_the_first_syn_over_the_budget_and_ends_after_a_calm_time() {
        let (mut watch, mut now, wall) = (Watch::new(&config()), Instant::now(), SystemTime::UNIX_EPOCH);
        assert_eq!(watch.step(0, now, wall), None);
        assert_eq!(watch.step(3, now, wall), Some(Step::Begin));
        for over in 4..30 {
            now += TICK;
            assert_eq!(watch.step(over, now, wall), None, "it goes on");
        }
        let mut steps = Vec::new();
        for tick in 1..=40 {
            now += TICK;
            steps.extend(watch.step(29, now, wall).map(|step| (tick, step)));
        }
        assert_eq!(steps, [(10, Step::End), (30, Step::Forget)]);
    }

    #[test]
    fn pressure_that_comes_back_before_cookies_are_forgotten_begins_again() {
        let (mut watch, now, wall) = (Watch::new(&config()), Instant::now(), SystemTime::UNIX_EPOCH);
        assert_eq!(watch.step(1, now, wall), Some(Step::Begin));
        assert_eq!(watch.step(1, now + 10 * TICK, wall), Some(Step::End));
        assert_eq!(watch.step(2, now + 11 * TICK, wall), Some(Step::Begin));
        assert_eq!(watch.step(2, now + 40 * TICK, wall), Some(Step::End));
    }

    fn value(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn defence(config: &FloodConfig, directory: &Path) -> Defence {
        let sysctl = Sysctl::new(directory.join("sysctl"), directory.join(FORMER));
        Defence { mode: config.cookies, watch: Watch::new(config), sysctl, cookies: Cookies::Off }
    }

    #[test]
    fn cookies_go_on_with_the_sysctl_and_the_former_value_comes_back_at_the_latest_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sysctl");
        fs::write(&path, "1\n").unwrap();
        let mut defence = defence(&config(), directory.path());
        assert_eq!(defence.look(0), None);
        assert_eq!(defence.look(5), Some(Cookies::On));
        assert_eq!((value(&path), defence.state().cookies), ("2".to_owned(), true));
        assert!(defence.state().pressure_since.is_some());
        drop(defence);
        assert_eq!(value(&path), "1");
        assert!(!directory.path().join(FORMER).exists());
    }

    #[test]
    fn without_the_sysctl_and_without_the_wish_there_are_no_cookies() {
        let directory = tempfile::tempdir().unwrap();
        let mut absent = defence(&config(), directory.path());
        assert_eq!(absent.look(5), None);
        assert!(absent.state().pressure_since.is_some() && !absent.state().cookies);
        fs::write(directory.path().join("sysctl"), "1").unwrap();
        let off = FloodConfig { cookies: CookieMode::Off, ..config() };
        assert_eq!(defence(&off, directory.path()).look(5), None);
        assert_eq!(value(&directory.path().join("sysctl")), "1");
    }

    #[test]
    fn what_a_killed_daemon_left_is_put_right() {
        let directory = tempfile::tempdir().unwrap();
        let (path, note) = (directory.path().join("sysctl"), directory.path().join(FORMER));
        fs::write(&path, "2").unwrap();
        fs::write(&note, "1").unwrap();
        Sysctl::new(path.clone(), note.clone()).recover();
        assert_eq!(value(&path), "1");
        assert!(!note.exists());
        // An administrator's own 2 stays.
        fs::write(&path, "2").unwrap();
        let mut sysctl = Sysctl::new(path.clone(), note);
        sysctl.set().unwrap();
        sysctl.restore();
        assert_eq!(value(&path), "2");
    }
}
