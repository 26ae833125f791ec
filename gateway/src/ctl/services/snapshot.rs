//! What metrics tell of things that others own, as it is now.

use portcullis_core::limits::{BANS_MAX, SUSPECTS_MAX};

use super::Services;
use crate::forward::{ForwardServer, ForwardStatus};
use crate::ha::{Report, Standing as Role, State};
use crate::metrics::{Snapshot, appliance, forward, ha};
use crate::settings::{self, Standing};
use crate::update::{JobState, Places, SlotState, Status, read_json};

impl Services {
    pub(super) fn snapshot(&self) -> Snapshot {
        let config = self.config.load();
        let limits = &config.limits;
        let (sessions, bytes, live) = self.session_totals();
        let (connections, handshakes) = self.gate.in_use();
        let (bans, suspects) = self.bans.counts();
        Snapshot {
            sessions,
            bytes,
            stas: self.pool.status().into_iter().map(|sta| (sta.name, sta.state == "up")).collect(),
            tickets_live: self.authority.as_ref().map(|authority| authority.live()),
            limits: vec![
                ("connections", Some(connections), limits.connections),
                ("connections_per_source", None, limits.connections_per_source),
                ("handshakes", Some(handshakes), limits.handshakes),
                ("handshakes_per_source", None, limits.handshakes_per_source),
                ("sessions", Some(live), limits.sessions),
                ("sessions_per_source", None, limits.sessions_per_source),
                ("sessions_per_user", None, limits.sessions_per_user),
                ("bans", Some(bans.iter().map(|(_, count)| count).sum()), BANS_MAX),
                ("suspects", Some(suspects), SUSPECTS_MAX),
            ],
            ebpf: self.kernel.to_string(),
            bans: bans.to_vec(),
            forwards: self.forward_status().iter().map(of_forward).collect(),
            xdp: self.kernel.facts(),
            log_lines_lost: self.log.lines_lost(),
            directories: config.directories(),
            acme: self.acme.facts(),
            relay_workers: self.workers,
            relay_engine: self.relay_engine.as_str(),
            relay_enters: self.relay.enters(),
            syslog: config.syslog.is_some().then(|| self.syslog.fact()),
            ha: self.ha.report().map(|(_, report)| of_ha(&report)),
            appliance: of_appliance(
                settings::standing().as_ref(),
                &Places::default(),
                self.bench.shells.open().len(),
            ),
        }
    }
}

fn of_ha(report: &Report) -> ha::Fact {
    ha::Fact {
        states: State::ALL.map(|state| (state.as_str(), state == report.state)).to_vec(),
        changes: report.changes,
        serves: report.standing == Role::Serves,
        addresses: report.here.iter().filter(|here| **here).count(),
    }
}

fn of_forward(status: &ForwardStatus) -> forward::Fact {
    let server = |server: &ForwardServer| forward::Server {
        name: server.name.clone(),
        up: server.state != "down",
        weight: if server.drained { 0 } else { server.weight },
        flows: server.flows,
        kernel_flows: server.kernel.flows,
        kernel_bytes: [server.kernel.bytes_up, server.kernel.bytes_down],
        kernel_packets: [server.kernel.packets_up, server.kernel.packets_down],
    };
    forward::Fact {
        listener: status.listener.clone(),
        in_kernel: status.path == "kernel",
        servers: status.servers.iter().map(server).collect(),
    }
}

fn of_appliance(settings: Option<&Standing>, places: &Places, support_shells: usize) -> appliance::Facts {
    let settings_applied = settings.map(|standing| *standing == Standing::Applied);
    let update = read_json::<Status>(&places.status()).ok().map(|status| appliance::Update {
        failed: status.job.is_some_and(|job| job.state == JobState::Failed),
        versions: SlotState::ALL
            .map(|state| (state.as_str(), status.slots.iter().filter(|slot| slot.state == state).count()))
            .to_vec(),
    });
    appliance::Facts { settings_applied, update, support_shells }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::appliance::{Facts, Update};
    use crate::update::{Slot, write_json};

    #[test]
    fn a_machine_that_is_no_appliance_tells_of_no_settings_and_no_updates() {
        let place = tempfile::tempdir().unwrap();
        let places = Places { run: place.path().to_owned(), ..Places::default() };
        assert_eq!(of_appliance(None, &places, 0), Facts::default());
    }

    #[test]
    fn versions_are_counted_by_state() {
        let place = tempfile::tempdir().unwrap();
        let places = Places { run: place.path().to_owned(), ..Places::default() };
        let slots = vec![Slot { version: "2".into(), state: SlotState::Failed, tries_left: None }];
        write_json(&places.status(), &Status { slots, ..Status::default() }, 0o644).unwrap();
        let why = Standing::NotApplied("no link".to_owned());
        let facts = of_appliance(Some(&why), &places, 1);
        assert_eq!(facts.settings_applied, Some(false));
        let counted = [("good", 0), ("on-trial", 0), ("failed", 1), ("set-aside", 0)];
        assert_eq!(facts.update, Some(Update { failed: false, versions: counted.to_vec() }));
    }
}
