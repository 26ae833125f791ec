//! The daemon's eye on support shells: which are open, in the audit log when each begins and ends, and grants that
//! nobody has used.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::job::RECORD;
use super::{GRANTS, Grant, OPEN, USED_WITHIN, unix_now};
use crate::audit::{Audit, Record};
use crate::sync::lock;
use crate::update::read_json;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How late the beginning may have been seen: between two looks, or on a busy machine. A shell that ends so soon before
/// its time would be over has ended by that.
const LATE: Duration = Duration::from_secs(5);

/// Shells that are open, by the names of their directories.
#[derive(Debug, Default)]
pub struct Shells(Mutex<BTreeMap<String, Open>>);

/// One of them.
#[derive(Clone, Debug)]
pub struct Open {
    pub grant: Grant,
    seen: Instant,
}

impl Open {
    /// How long it may still last.
    #[must_use]
    pub fn left(&self) -> Duration {
        Duration::from_secs(self.grant.seconds).saturating_sub(self.seen.elapsed())
    }

    /// Why it has ended, which the shell itself is not asked.
    fn why(&self) -> &'static str {
        if self.left() <= LATE { "its time was over" } else { "it was left" }
    }
}

impl Shells {
    #[must_use]
    pub fn open(&self) -> Vec<Open> {
        lock(&self.0).values().cloned().collect()
    }

    /// Notes in the audit log what has begun and ended since the last look.
    fn look(&self, directory: &Path, audit: &Audit) {
        let there = names(directory);
        let mut known = lock(&self.0);
        let gone: Vec<String> = known.keys().filter(|name| !there.contains(name)).cloned().collect();
        for open in gone.iter().filter_map(|name| known.remove(name)) {
            let seconds = open.seen.elapsed().as_secs();
            let detail = format!("after {seconds} s: {}", open.why());
            note(audit, &open.grant, "support-shell-end", &detail);
        }
        for name in there {
            if known.contains_key(&name) {
                continue;
            }
            // One that has no record yet is just being opened.
            if let Ok(grant) = read_json::<Grant>(&directory.join(&name).join(RECORD)) {
                note(audit, &grant, "support-shell-begin", &format!("for {} s at most", grant.seconds));
                known.insert(name, Open { grant, seen: Instant::now() });
            }
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn note(audit: &Audit, grant: &Grant, what: &str, detail: &str) {
    let what = serde_json::json!({ "cmd": what, "reason": grant.reason });
    audit.add(&Record::new(grant.origin.clone(), Some("administrator"), what, "done", detail));
}

/// Takes away what was granted and not used.
fn tidy(directory: &Path) {
    for name in names(directory).into_iter().filter(|name| name.starts_with("support-shell-")) {
        let path = directory.join(&name);
        let granted = read_json::<Grant>(&path).map_or(0, |grant| grant.granted);
        if unix_now().saturating_sub(granted) > USED_WITHIN.as_secs() {
            fs::remove_file(&path).ok();
        }
    }
}

/// Looks, as long as the daemon runs.
pub(crate) async fn run(shells: Arc<Shells>, audit: Arc<Audit>) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        shells.look(Path::new(OPEN), &audit);
        tidy(Path::new(GRANTS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Origin;
    use crate::update::write_json;

    #[test]
    fn the_audit_log_has_when_a_shell_begins_and_when_it_ends() {
        let place = tempfile::tempdir().unwrap();
        let (audit, open) = (Audit::new(place.path()), place.path().join("open"));
        let shells = Shells::default();
        shells.look(&open, &audit);
        fs::create_dir_all(open.join("1-2-3")).unwrap();
        shells.look(&open, &audit);
        assert!(audit.newest(9).is_empty() && shells.open().is_empty());
        let origin = Origin { who: "ann".into(), uid: Some(7), ..Origin::default() };
        let grant = Grant { origin, reason: "a disk".into(), seconds: 60, granted: 1 };
        write_json(&open.join("1-2-3").join(RECORD), &grant, 0o644).unwrap();
        shells.look(&open, &audit);
        assert_eq!(shells.open().len(), 1);
        fs::remove_dir_all(open.join("1-2-3")).unwrap();
        shells.look(&open, &audit);
        assert!(shells.open().is_empty());
        let records = audit.newest(9);
        let told: Vec<_> =
            records.iter().map(|record| (record.origin.who.as_str(), record.what["cmd"].as_str())).collect();
        assert_eq!(told, [("ann", Some("support-shell-begin")), ("ann", Some("support-shell-end"))]);
        assert!(records[1].detail.ends_with("it was left") && records[1].what["reason"] == "a disk");
    }

    #[test]
    fn a_shell_whose_beginning_was_seen_late_has_ended_because_its_time_was_over() {
        let lasted = |seconds| {
            let grant =
                Grant { origin: Origin::default(), reason: "x".into(), seconds: 60, granted: unix_now() };
            Open { grant, seen: Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap() }.why()
        };
        assert_eq!([lasted(59), lasted(61)], ["its time was over"; 2]);
        assert_eq!(lasted(50), "it was left");
    }

    #[test]
    fn what_was_granted_and_not_used_goes_and_other_requests_stay() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| place.path().join(name);
        let grant = |granted| Grant { origin: Origin::default(), reason: "x".into(), seconds: 60, granted };
        write_json(&file("support-shell-old"), &grant(unix_now() - 100), 0o600).unwrap();
        write_json(&file("support-shell-new"), &grant(unix_now()), 0o600).unwrap();
        fs::write(file("update"), "{}").unwrap();
        tidy(place.path());
        let mut left = names(place.path());
        left.sort();
        assert_eq!(left, ["support-shell-new", "update"]);
    }
}
