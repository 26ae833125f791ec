//! Commits against a file system whose power goes at every possible moment.

use std::time::{Duration, SystemTime};

use super::trial::{Start, settle};
use super::*;
use crate::sync::lock;

const OLD: &str = "[limits]\nsessions = 1\n";
const NEW: &str = "[limits]\nsessions = 2\n";
const MINUTES: Duration = Duration::from_mins(5);

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("x.toml"), OLD).unwrap();
        Self { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("x.toml")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }

    fn start_at(&self, now: SystemTime) -> Start {
        settle(&Disk::default(), &self.file(), self.directory.path(), self.text(), now)
    }

    fn open(&self) -> Store {
        let start = self.start_at(SystemTime::now());
        Store::open(&self.file(), self.directory.path(), start)
    }
}

fn ann() -> Origin {
    Origin { who: "ann".into(), uid: Some(7), claimed_from: None }
}

/// As the daemon's reloader does it.
fn commit(store: &mut Store, text: &str, on_trial: bool) -> std::io::Result<u64> {
    store.stage(text)?;
    let trial = on_trial.then(|| Trial::new(&store.running(), text, "ann", MINUTES));
    if let Some(trial) = &trial {
        store.note_trial(trial)?;
    }
    store.adopt(text, trial, &ann(), "commit", "a test")
}

#[test]
fn a_commit_is_in_the_file_and_in_the_history() {
    let place = Place::new();
    let mut store = place.open();
    assert_eq!(commit(&mut store, NEW, false).unwrap(), 2);
    assert_eq!(place.text(), NEW);
    let again = place.open();
    let actions: Vec<_> = again.history().entries().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["commit", "start"]);
    assert_eq!(again.past(0).unwrap(), NEW);
    assert_eq!(again.past(1).unwrap(), OLD);
    assert_eq!(again.past(2), None);
}

#[test]
fn a_power_cut_at_any_moment_of_a_commit_leaves_the_old_or_the_new_configuration_whole() {
    for on_trial in [false, true] {
        let mut outcomes = [0, 0];
        for moment in 0.. {
            let place = Place::new();
            let mut store = place.open();
            *lock(&store.disk.power) = Some(moment);
            let committed = commit(&mut store, NEW, on_trial).is_ok();
            let finished = lock(&store.disk.power).is_some_and(|left| left > 0);
            drop(store);
            let text = place.text();
            assert!(text == OLD || text == NEW, "after {moment}: {text:?}");
            assert!(!committed || text == NEW, "who was told of success has it");
            outcomes[usize::from(text == NEW)] += 1;
            // The next start works and knows what is on trial, and the next commit is not disturbed by what is left.
            let mut again = place.open();
            assert_eq!(*again.running(), *text);
            assert_eq!(again.trial().is_some(), on_trial && text == NEW, "after {moment}");
            assert_eq!(again.past(0).unwrap(), text);
            commit(&mut again, "[limits]\nsessions = 3\n", false).unwrap();
            assert!(place.text().contains("= 3") && again.trial().is_none());
            if finished {
                break;
            }
            assert!(moment < 100);
        }
        assert!(outcomes[0] > 3 && outcomes[1] > 1, "{outcomes:?}");
    }
}

#[test]
fn what_was_not_confirmed_in_time_is_gone_after_a_restart() {
    let place = Place::new();
    commit(&mut place.open(), NEW, true).unwrap();
    let start = place.start_at(SystemTime::now() + MINUTES);
    assert_eq!((start.text.as_str(), place.text().as_str()), (OLD, OLD));
    let mut store = Store::open(&place.file(), place.directory.path(), start);
    assert_eq!(store.take_news().len(), 1);
    assert_eq!(store.history().entries().next().unwrap().action, "revert");
    assert!(place.open().trial().is_none());
}

#[test]
fn a_power_cut_while_a_configuration_comes_back_leaves_one_of_them_whole() {
    for moment in 0..12 {
        let place = Place::new();
        commit(&mut place.open(), NEW, true).unwrap();
        let disk = Disk::default();
        *lock(&disk.power) = Some(moment);
        let late = SystemTime::now() + MINUTES;
        let start = settle(&disk, &place.file(), place.directory.path(), place.text(), late);
        assert_eq!(start.text, OLD, "the daemon starts with the one before in any case");
        let text = place.text();
        assert!(text == OLD || text == NEW, "after {moment}: {text:?}");
        assert_eq!(place.start_at(late).text, OLD);
        assert_eq!(place.text(), OLD);
    }
}

#[test]
fn a_restart_in_time_goes_on_waiting_for_what_is_left() {
    let place = Place::new();
    commit(&mut place.open(), NEW, true).unwrap();
    let start = place.start_at(SystemTime::now() + MINUTES / 2);
    assert_eq!(start.text, NEW);
    let left = start.trial.unwrap().ends.saturating_duration_since(std::time::Instant::now());
    assert!(left > MINUTES / 3 && left <= MINUTES / 2, "{left:?}");
}

#[test]
fn a_start_that_did_not_get_ready_is_not_tried_twice() {
    let place = Place::new();
    commit(&mut place.open(), NEW, true).unwrap();
    assert_eq!(place.start_at(SystemTime::now()).text, NEW);
    let start = place.start_at(SystemTime::now());
    assert_eq!((start.text.as_str(), place.text().as_str()), (OLD, OLD));
}

#[test]
fn a_start_that_got_ready_may_be_followed_by_another() {
    let place = Place::new();
    commit(&mut place.open(), NEW, true).unwrap();
    for _ in 0..3 {
        let mut store = place.open();
        assert!(store.trial().is_some());
        store.note_ready();
    }
    let mut store = place.open();
    assert!(store.confirm() && !store.confirm());
    assert!(place.open().trial().is_none());
    assert_eq!(place.start_at(SystemTime::now() + MINUTES).text, NEW);
}

#[test]
fn a_clock_that_was_set_back_does_not_make_the_trial_longer() {
    let place = Place::new();
    commit(&mut place.open(), NEW, true).unwrap();
    let start = place.start_at(SystemTime::UNIX_EPOCH);
    let left = start.trial.unwrap().ends.saturating_duration_since(std::time::Instant::now());
    assert!(left <= MINUTES);
}

#[test]
fn a_file_that_was_edited_since_is_a_new_decision() {
    let place = Place::new();
    commit(&mut place.open(), NEW, true).unwrap();
    std::fs::write(place.file(), "[limits]\nsessions = 7\n").unwrap();
    let start = place.start_at(SystemTime::now() + MINUTES);
    assert!(start.text.contains("= 7") && start.reverted.is_none());
    std::fs::write(place.file(), NEW).unwrap();
    assert!(place.start_at(SystemTime::now() + MINUTES).text.contains("= 2"), "it was forgotten");
}

#[test]
fn the_file_behind_a_link_is_the_one_that_changes() {
    let place = Place::new();
    let real = place.directory.path().join("real.toml");
    std::fs::rename(place.file(), &real).unwrap();
    std::os::unix::fs::symlink(&real, place.file()).unwrap();
    commit(&mut place.open(), NEW, false).unwrap();
    assert_eq!(std::fs::read_to_string(real).unwrap(), NEW);
    assert!(place.file().symlink_metadata().unwrap().is_symlink());
}
