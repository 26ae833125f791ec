use super::Config;
use serde::Serialize;
/// What a reload changes: at once, and only after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReloadPlan {
    pub live: Vec<String>,
    pub restart: Vec<String>,
}
pub fn compare(_old: &Config, _new: &Config) -> ReloadPlan {
    ReloadPlan::default()
}
