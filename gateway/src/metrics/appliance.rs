//! How what only the appliance has does, for metrics.

use super::names::appliance as names;
use super::text;

/// What is told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `None` where nobody applies settings.
    pub settings_applied: Option<bool>,
    /// `None` where there are no updates.
    pub update: Option<Update>,
    pub support_shells: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The last order failed.
    pub failed: bool,
    /// Installed versions by state.
    pub versions: Vec<(&'static str, usize)>,
}

pub(super) fn render(facts: &Facts, writer: &mut text::Writer) {
    let update = facts.update.as_ref();
    writer.single(names::SETTINGS_APPLIED, facts.settings_applied.map(u8::from));
    writer.single(names::SUPPORT_SHELLS, Some(facts.support_shells));
    writer.single(names::UPDATE_FAILED, update.map(|update| u8::from(update.failed)));
    let versions = update.into_iter().flat_map(|update| &update.versions);
    writer.family(names::UPDATE_VERSIONS, versions.map(|(state, count)| (vec![(*state).to_owned()], *count)));
}
