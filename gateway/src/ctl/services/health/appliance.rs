//! What only the appliance has: settings of the machine that others apply for the daemon, and updates.

use super::check;
use crate::ctl::protocol::{Check, CheckState, UpdateState, UpdateStatus};
use crate::settings::Standing;
use crate::update::{Places, SlotState, read_json};

pub(super) fn checks(settings: Option<Standing>, places: &Places) -> Vec<Check> {
    let mut checks: Vec<Check> = settings.into_iter().map(of_settings).collect();
    // Elsewhere there is none.
    if let Ok(status) = read_json::<UpdateStatus>(&places.status()) {
        checks.extend(of_versions(&status));
        checks.extend(of_last_order(&status));
    }
    checks
}

fn of_settings(standing: Standing) -> Check {
    let name = "settings of the machine";
    match standing {
        Standing::Applied => check(name, CheckState::Good, "applied".to_owned()),
        Standing::UnderWay { since } => {
            check(name, CheckState::Doubtful, format!("being applied since {since}, and not done yet"))
        }
        Standing::NotApplied(why) => {
            let mut check = check(name, CheckState::Bad, format!("not applied: {why}"));
            check.remedy =
                "correct [network] and commit; `show log --unit appliance-settings.service` has more"
                    .to_owned();
            check
        }
    }
}

fn of_versions(status: &UpdateStatus) -> Vec<Check> {
    let mut checks = Vec::new();
    let running = status.running.as_str();
    let told = match status.slots.iter().find(|slot| slot.version == running) {
        Some(slot) if slot.state == SlotState::OnTrial => format!("{running} runs, on trial"),
        _ => format!("{running} runs"),
    };
    let next = match status.next.as_str() {
        next if next.is_empty() || next == running => String::new(),
        next => format!("; {next} starts with the next reboot"),
    };
    checks.push(check("version", CheckState::Good, told + &next));
    for slot in status.slots.iter().filter(|slot| slot.state == SlotState::Failed) {
        let detail = format!("{} was started in vain, so {running} runs", slot.version);
        let mut failed = check("version", CheckState::Doubtful, detail);
        failed.remedy = "install a newer one; `update rollback` would try this one again".to_owned();
        checks.push(failed);
    }
    checks
}

fn of_last_order(status: &UpdateStatus) -> Option<Check> {
    let job = status.job.as_ref().filter(|job| job.state == UpdateState::Failed)?;
    let detail = format!("{} of {} failed: {}", job.action, job.started, job.told);
    let mut failed = check("update", CheckState::Doubtful, detail);
    failed.remedy = "the version that runs is untouched; try again, or `update list`".to_owned();
    Some(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Job, Slot, write_json};

    fn found(settings: Option<Standing>, status: Option<&UpdateStatus>) -> Vec<(String, CheckState, String)> {
        let place = tempfile::tempdir().unwrap();
        let places = Places { run: place.path().to_owned(), ..Places::default() };
        if let Some(status) = status {
            write_json(&places.status(), status, 0o644).unwrap();
        }
        let checks = checks(settings, &places);
        checks.into_iter().map(|check| (check.name, check.state, check.detail)).collect()
    }

    fn two_versions(newer: SlotState) -> UpdateStatus {
        let slot = |version: &str, state| Slot { version: version.into(), state, tries_left: None };
        UpdateStatus {
            running: "1".into(),
            next: "1".into(),
            slots: vec![slot("2", newer), slot("1", SlotState::Good)],
            ..UpdateStatus::default()
        }
    }

    #[test]
    fn a_machine_that_is_no_appliance_has_none_of_this() {
        assert_eq!(found(None, None), []);
    }

    #[test]
    fn settings_that_are_not_in_force_are_told_with_the_reason() {
        let told = |standing| found(Some(standing), None).remove(0);
        assert_eq!(told(Standing::Applied).1, CheckState::Good);
        assert_eq!(told(Standing::UnderWay { since: "noon".into() }).1, CheckState::Doubtful);
        let (_, state, detail) = told(Standing::NotApplied("no link".into()));
        assert_eq!((state, detail.as_str()), (CheckState::Bad, "not applied: no link"));
    }

    #[test]
    fn a_version_that_fell_back_and_an_order_that_failed_are_told() {
        let mut status = two_versions(SlotState::Failed);
        let job = Job {
            id: "1".into(),
            action: "install".into(),
            state: UpdateState::Failed,
            told: "no signature".into(),
            percent: None,
            started: "2026-01-01T00:00:00Z".into(),
            versions: Vec::new(),
        };
        status.job = Some(job);
        let told: Vec<String> = found(None, Some(&status)).into_iter().map(|found| found.2).collect();
        assert_eq!(
            told,
            [
                "1 runs",
                "2 was started in vain, so 1 runs",
                "install of 2026-01-01T00:00:00Z failed: no signature"
            ]
        );
        status = UpdateStatus { next: "2".into(), ..two_versions(SlotState::OnTrial) };
        let told = found(None, Some(&status));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].2, "1 runs; 2 starts with the next reboot");
    }
}
