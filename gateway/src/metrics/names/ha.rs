//! Metrics of high availability; absent where the appliance is alone.

use super::{Family, counter, gauge};

pub const HA_STATE: Family = gauge(
    "portcullis_ha_state",
    &["state"],
    "1 for the state that this appliance is in: master, backup, fault or stopped; 0 for the others.",
);
pub const HA_STATE_CHANGES: Family =
    counter("portcullis_ha_state_changes_total", &[], "Changes of that state since the daemon started.");
pub const HA_SERVES: Family =
    gauge("portcullis_ha_serves", &[], "Whether this appliance is fit for the virtual addresses.");
pub const HA_ADDRESSES: Family =
    gauge("portcullis_ha_addresses", &[], "Virtual addresses that this appliance has.");

pub(super) const ALL: [Family; 4] = [HA_STATE, HA_STATE_CHANGES, HA_SERVES, HA_ADDRESSES];
