//! What may be asked about updates.

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
