//! What may be asked about updates, and about health, which decides whether one stays.

use serde::{Deserialize, Serialize};

pub use crate::update::{
    Job as UpdateJob, JobState as UpdateState, Order as UpdateOrder, Source as UpdateSource,
    Status as UpdateStatus,
};

/// Answer to `update`: by this name `update-status` tells what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateAsked {
    pub id: String,
}

/// Whether the gateway does what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether all is well.
    pub ready: bool,
    /// The same of what is in this machine's hands: authorities may be down.
    pub own: bool,
    pub checks: Vec<HealthCheck>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// `gateway`, `packet-filter` or `authorities`.
    pub name: String,
    pub ok: bool,
    pub told: String,
}
