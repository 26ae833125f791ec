//! What may be asked of the machine itself.

use serde::{Deserialize, Serialize};

/// What the machine is to do; also the answer, when it is about to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineOrder {
    pub action: MachineAction,
    /// Of a factory reset: the settings of the network stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_network: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineAction {
    Reboot,
    PowerOff,
    FactoryReset,
}
