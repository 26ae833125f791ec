//! The job with a stand-in for systemd-sysupdate; the real one works in the scenario `update`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::update::Url;

fn places(root: &Path, sysupdate: &str) -> Places {
    let places = Places {
        request: root.join("request"),
        run: root.join("run"),
        kept: root.join("kept"),
        uploads: root.join("uploads"),
        kernels: root.join("kernels"),
        transfers: root.join("transfers"),
        os_release: root.join("os-release"),
        sysupdate: root.join("sysupdate"),
    };
    for place in [&places.run, &places.kept, &places.uploads, &places.kernels, &places.transfers] {
        fs::create_dir(place).unwrap();
    }
    fs::write(&places.os_release, "ID=portcullis\nIMAGE_VERSION=\"1\"\nVARIANT_ID=cloud\n").unwrap();
    fs::write(places.kernels.join("portcullis_1.efi"), "").unwrap();
    let script = format!("#!/bin/sh\ncd {} || exit 1\n{sysupdate}\n", root.display());
    fs::write(&places.sysupdate, script).unwrap();
    fs::set_permissions(&places.sysupdate, fs::Permissions::from_mode(0o755)).unwrap();
    places
}

fn order(places: &Places, order: Order) -> (Status, Job) {
    let request = Request { id: "7".to_owned(), order };
    write_json(&places.request, &request, 0o600).unwrap();
    run(places).unwrap();
    assert!(!places.request.exists());
    let status: Status = read_json(&places.status()).unwrap();
    let job = status.job.clone().unwrap();
    assert_eq!(job.id, "7");
    (status, job)
}

fn url() -> Source {
    Source::Url(Url::parse("https://u.example/p").unwrap())
}

#[test]
fn without_a_request_it_says_what_there_is() {
    let root = tempfile::tempdir().unwrap();
    let places = places(root.path(), "exit 1");
    run(&places).unwrap();
    let status: Status = read_json(&places.status()).unwrap();
    assert_eq!((status.running.as_str(), status.next.as_str(), status.slots.len()), ("1", "1", 1));
    assert_eq!(status.job, None);
}

#[test]
fn a_version_is_installed_and_chosen_and_its_source_remembered() {
    let root = tempfile::tempdir().unwrap();
    let places = places(root.path(), "touch kernels/portcullis_2+3-0.efi");
    let (status, job) = order(&places, Order::Install { source: url(), version: None });
    assert_eq!((job.state, status.next.as_str()), (JobState::Done, "2"), "{}", job.told);
    assert!(job.told.contains("version 2"), "{}", job.told);
    assert_eq!(status.source.as_deref(), Some("https://u.example/p"));
    let (_, job) = order(&places, Order::Install { source: Source::Known, version: None });
    assert!(job.told.contains("no newer version"), "{}", job.told);
    let (status, _) = order(&places, Order::Rollback {});
    assert_eq!(status.next, "1");
}

#[test]
fn what_fails_is_told_and_leaves_what_runs() {
    let root = tempfile::tempdir().unwrap();
    let places = places(root.path(), "echo 'no signature' >&2; exit 1");
    let (status, job) = order(&places, Order::Install { source: url(), version: None });
    assert_eq!((job.state, status.next.as_str()), (JobState::Failed, "1"));
    assert!(job.told.contains("no signature"));
    assert_eq!(status.source, None);
    let (_, job) = order(&places, Order::List { source: Source::Known });
    assert!(job.told.contains("no source"), "{}", job.told);
    let (_, job) = order(&places, Order::Rollback {});
    assert!(job.told.contains("no other version"), "{}", job.told);
    let (_, job) = order(&places, Order::Install { source: Source::Upload, version: None });
    assert!(job.told.contains("handed over"), "{}", job.told);
}

#[test]
fn an_update_for_another_kernel_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    for (name, said) in [
        ("portcullis-full_2.efi", "is for the kernel `full`, and this machine has `cloud`"),
        ("portcullis_2.efi", "no kernel image"),
    ] {
        let place = root.path().join(name);
        fs::create_dir(&place).unwrap();
        fs::write(place.join(name), "").unwrap();
        fs::write(place.join("SHA256SUMS"), "").unwrap();
        assert!(for_kernel(&place, "cloud").unwrap_err().to_string().contains(said), "{name}");
        fs::write(place.join("portcullis-cloud_2.efi"), "").unwrap();
        for_kernel(&place, "cloud").unwrap();
    }
}

#[test]
fn a_version_on_trial_is_not_built_upon() {
    let root = tempfile::tempdir().unwrap();
    let places = places(root.path(), "exit 0");
    fs::rename(places.kernels.join("portcullis_1.efi"), places.kernels.join("portcullis_1+2-1.efi")).unwrap();
    let (_, job) = order(&places, Order::Install { source: url(), version: None });
    assert!(job.state == JobState::Failed && job.told.contains("on trial"), "{}", job.told);
}

#[test]
fn a_request_that_is_none_is_taken_away_and_told() {
    let root = tempfile::tempdir().unwrap();
    let places = places(root.path(), "exit 0");
    fs::write(&places.request, "{\"order\":\"wipe\"}").unwrap();
    run(&places).unwrap();
    let job = read_json::<Status>(&places.status()).unwrap().job.unwrap();
    assert_eq!((job.state, job.told.as_str()), (JobState::Failed, UNREADABLE));
    assert!(!places.request.exists());
}

#[test]
fn a_job_that_was_ended_has_failed() {
    let root = tempfile::tempdir().unwrap();
    let places = places(root.path(), "kill -KILL $PPID");
    let mut status = look(&places);
    status.job = Some(Job {
        id: "9".to_owned(),
        action: "install".to_owned(),
        state: JobState::Running,
        told: "making room".to_owned(),
        percent: None,
        started: String::new(),
        versions: Vec::new(),
    });
    write_json(&places.status(), &status, STATUS_MODE).unwrap();
    ended(&places).unwrap();
    let job = read_json::<Status>(&places.status()).unwrap().job.unwrap();
    assert!(job.state == JobState::Failed && job.told.contains("making room"), "{}", job.told);
}
