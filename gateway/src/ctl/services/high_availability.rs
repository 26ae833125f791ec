//! Answers about high availability.

use super::{Outcome, Services};
use crate::ctl::protocol::{ErrorCode, Failure, HaAddress, HaStatus};
use crate::log::rfc3339;

impl Services {
    /// Lets both sides know of each other as they are now.
    pub(crate) fn look_at_ha(&self) {
        self.ha.look(|| self.standing());
    }

    pub(super) fn ha_state(&self) -> Option<String> {
        self.look_at_ha();
        self.ha.report().map(|(_, report)| report.state.as_str().to_owned())
    }

    pub(super) fn high_availability(&self) -> Outcome<HaStatus> {
        self.look_at_ha();
        let Some((config, report)) = self.ha.report() else {
            let text = "the configuration has no [high_availability]: this appliance is alone";
            return Err(Failure::new(ErrorCode::Unavailable, text));
        };
        let addresses = config.addresses.iter().zip(&report.here).map(|(floating, here)| HaAddress {
            address: floating.address.to_string(),
            interface: floating.interface.clone(),
            here: *here,
        });
        Ok(HaStatus {
            state: report.state.as_str().to_owned(),
            since: rfc3339(report.since),
            changes: report.changes,
            standing: report.standing.as_str().to_owned(),
            reason: report.standing.reason().map(str::to_owned),
            interface: config.interface.clone(),
            router_id: config.router_id,
            priority: config.node.priority,
            address: config.node.address.to_string(),
            peer: config.node.peer.to_string(),
            virtual_addresses: addresses.collect(),
            fingerprint: self.identity()?.fingerprint(),
            sync: config.node.sync.is_some(),
            in_common_since: self.in_common_since(),
        })
    }
}
