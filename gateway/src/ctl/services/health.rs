//! How the gateway does, check by check.

mod appliance;

use std::path::Path;

use rustix::fs::statvfs;

use super::tools::on_a_thread;
use super::{Outcome, Services};
use crate::check;
use crate::config::{self, Config, Severity};
use crate::ctl::protocol::{Check, CheckState, Health};
use crate::ha::Standing;
use crate::support_shell::watch::Open;
use crate::{settings, update};

/// What should be free of a file system: part of it in percent, or so many MiB where that is less.
const ROOM_DOUBTFUL: (u64, u64) = (15, 1024);
const ROOM_BAD: (u64, u64) = (5, 128);

impl Services {
    pub(super) async fn health(&self) -> Outcome<Health> {
        let config = self.config.load_full();
        let mut checks = vec![self.check_state(), self.check_stas(), self.check_reload()];
        checks.extend(self.check_filter());
        checks.push(self.check_log());
        checks.extend(self.check_syslog(&config));
        checks.extend(self.bench.shells.open().iter().map(shell));
        // Reads files: certificates, lists of users, keys.
        let found = on_a_thread(move || {
            let mut checks = vec![room("room for state", &config.server.state_dir)];
            if let Some(directory) = config.log.file.as_deref().and_then(Path::parent) {
                checks.push(room("room for the log", directory));
            }
            checks.extend(appliance::checks(settings::standing(), &update::Places::default()));
            let findings = check::check(&config);
            let worth = findings.iter().filter(|finding| finding.severity != Severity::Info);
            let finding = |finding: &config::Finding| Check {
                name: finding.subject.clone(),
                state: match finding.severity {
                    Severity::Error => CheckState::Bad,
                    _ => CheckState::Doubtful,
                },
                detail: finding.message.clone(),
                remedy: finding.remedy.clone(),
            };
            checks.extend(worth.map(finding));
            Ok(checks)
        });
        checks.extend(found.await?);
        let standing = self.standing();
        let reason = standing.reason().map(str::to_owned).unwrap_or_default();
        let own = !matches!(standing, Standing::Faulty(_));
        Ok(Health { ready: standing == Standing::Serves, own, reason, checks })
    }

    fn check_state(&self) -> Check {
        let state = match (self.state.is_ready(), self.state.is_drained()) {
            (true, _) => CheckState::Good,
            (_, true) => CheckState::Doubtful,
            _ => CheckState::Bad,
        };
        let listeners = self.config.load().listeners.len();
        let mut check = check("daemon", state, format!("{}, {listeners} listeners", self.state.as_str()));
        if self.state.is_drained() {
            check.remedy = "`undrain gateway` lets it take new sessions again".to_owned();
        }
        check
    }

    fn check_stas(&self) -> Check {
        let stas = self.pool.status();
        let down: Vec<String> = stas
            .iter()
            .filter(|sta| sta.state != "up")
            .map(|sta| format!("{} is {}", sta.name, sta.state))
            .collect();
        let state = match (down.len(), stas.len()) {
            (0, _) => CheckState::Good,
            (down, all) if down == all => CheckState::Bad,
            _ => CheckState::Doubtful,
        };
        let detail = match (stas.len(), down.is_empty()) {
            (0, _) => "none is configured".to_owned(),
            (all, true) => format!("all {all} are up"),
            (_, false) => down.join(", "),
        };
        check("ticket authorities", state, detail)
    }

    fn check_reload(&self) -> Check {
        let last = crate::sync::lock(&self.last_reload).clone();
        match last {
            Some(last) if !last.ok => {
                let mut check = check(
                    "configuration",
                    CheckState::Bad,
                    format!("the last reload failed: {}", last.error),
                );
                check.remedy = "what was in force before still is; correct the file and reload".to_owned();
                check
            }
            Some(last) if !last.restart.is_empty() => check(
                "configuration",
                CheckState::Doubtful,
                format!("waits for a restart: {}", last.restart.join(", ")),
            ),
            _ => check("configuration", CheckState::Good, "in force".to_owned()),
        }
    }

    fn check_filter(&self) -> Vec<Check> {
        let interfaces = self.kernel.interfaces();
        let one = |interface: crate::xdp::Filtered| {
            let state = if interface.is_attached() { CheckState::Good } else { CheckState::Bad };
            check(&format!("filter at {}", interface.name), state, interface.condition.to_string())
        };
        interfaces.into_iter().map(one).collect()
    }

    fn check_log(&self) -> Check {
        match self.log.lines_lost() {
            0 => check("log", CheckState::Good, "no line was lost".to_owned()),
            lost => check("log", CheckState::Doubtful, format!("{lost} lines were lost since the start")),
        }
    }

    fn check_syslog(&self, config: &Config) -> Option<Check> {
        let server = &config.syslog.as_ref()?.server;
        let fact = self.syslog.fact();
        Some(match (fact.fault, fact.connected) {
            (Some(fault), _) => check("syslog", CheckState::Doubtful, format!("{server}: {fault}")),
            (None, true) => check("syslog", CheckState::Good, format!("{server} gets the log")),
            (None, false) => check("syslog", CheckState::Doubtful, format!("{server} is being connected to")),
        })
    }
}

fn shell(open: &Open) -> Check {
    let who = open.grant.origin.who.as_str();
    let detail = format!("{who} has one for {} s more: {}", open.left().as_secs(), open.grant.reason);
    check("support shell", CheckState::Doubtful, detail)
}

fn check(name: &str, state: CheckState, detail: String) -> Check {
    Check { name: name.to_owned(), state, detail, remedy: String::new() }
}

fn room(name: &str, directory: &Path) -> Check {
    let Ok(space) = statvfs(directory) else {
        return check(name, CheckState::Doubtful, format!("{} cannot be looked at", directory.display()));
    };
    let percent = space.f_bavail.saturating_mul(100).checked_div(space.f_blocks).unwrap_or(0);
    let mib = space.f_bavail.saturating_mul(space.f_frsize) >> 20;
    let less = |(part, least): (u64, u64)| percent < part && mib < least;
    let state = match (less(ROOM_BAD), less(ROOM_DOUBTFUL)) {
        (true, _) => CheckState::Bad,
        (_, true) => CheckState::Doubtful,
        _ => CheckState::Good,
    };
    check(name, state, format!("{mib} MiB free, {percent} %, at {}", directory.display()))
}
