//! How what only the appliance has does, for metrics.

use super::names::appliance as names;
use super::text;
use crate::settings::Standing;
use crate::update::{JobState, Places, SlotState, Status, read_json};

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

impl Facts {
    pub(crate) fn look(settings: Option<&Standing>, places: &Places, support_shells: usize) -> Self {
        let settings_applied = settings.map(|standing| *standing == Standing::Applied);
        let update = read_json::<Status>(&places.status()).ok().map(|status| Update {
            failed: status.job.is_some_and(|job| job.state == JobState::Failed),
            versions: SlotState::ALL
                .map(|state| (state.as_str(), status.slots.iter().filter(|slot| slot.state == state).count()))
                .to_vec(),
        });
        Self { settings_applied, update, support_shells }
    }
}

pub(super) fn render(facts: &Facts, writer: &mut text::Writer) {
    let update = facts.update.as_ref();
    writer.single(names::SETTINGS_APPLIED, facts.settings_applied.map(u8::from));
    writer.single(names::SUPPORT_SHELLS, Some(facts.support_shells));
    writer.single(names::UPDATE_FAILED, update.map(|update| u8::from(update.failed)));
    let versions = update.into_iter().flat_map(|update| &update.versions);
    writer.family(names::UPDATE_VERSIONS, versions.map(|(state, count)| (vec![(*state).to_owned()], *count)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Slot, write_json};

    #[test]
    fn a_machine_that_is_no_appliance_tells_of_no_settings_and_no_updates() {
        let place = tempfile::tempdir().unwrap();
        let places = Places { run: place.path().to_owned(), ..Places::default() };
        assert_eq!(Facts::look(None, &places, 0), Facts::default());
    }

    #[test]
    fn versions_are_counted_by_state() {
        let place = tempfile::tempdir().unwrap();
        let places = Places { run: place.path().to_owned(), ..Places::default() };
        let slots = vec![Slot { version: "2".into(), state: SlotState::Failed, tries_left: None }];
        write_json(&places.status(), &Status { slots, ..Status::default() }, 0o644).unwrap();
        let why = Standing::NotApplied("no link".to_owned());
        let facts = Facts::look(Some(&why), &places, 1);
        assert_eq!(facts.settings_applied, Some(false));
        let counted = [("good", 0), ("on-trial", 0), ("failed", 1), ("set-aside", 0)];
        assert_eq!(facts.update, Some(Update { failed: false, versions: counted.to_vec() }));
    }
}
