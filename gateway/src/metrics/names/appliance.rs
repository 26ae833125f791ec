//! Metrics of what only the appliance has.

use super::{Family, gauge};

pub const SETTINGS_APPLIED: Family = gauge(
    "portcullis_settings_applied",
    &[],
    "1 while the machine's settings of the configuration are in force, else 0.",
);
pub const SUPPORT_SHELLS: Family = gauge("portcullis_support_shells", &[], "Support shells that are open.");
pub const UPDATE_FAILED: Family =
    gauge("portcullis_update_failed", &[], "1 when the last order about updates failed, else 0.");
pub const UPDATE_VERSIONS: Family =
    gauge("portcullis_update_versions", &["state"], "Versions of the appliance that are installed.");

pub const ALL: [Family; 4] = [SETTINGS_APPLIED, SUPPORT_SHELLS, UPDATE_FAILED, UPDATE_VERSIONS];
