use std::cell::RefCell;

use super::*;

thread_local! {
    static RUN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static BROKEN: RefCell<bool> = const { RefCell::new(false) };
}

/// Everything runs; what is asked of it is written down.
fn note(program: &str, arguments: &[&str]) -> Result<(), String> {
    if arguments.first() != Some(&"is-active") {
        RUN.with_borrow_mut(|run| run.push(format!("{program} {}", arguments.join(" "))));
    }
    if BROKEN.with_borrow(|broken| *broken) && program == "networkctl" {
        return Err("networkctl reload ended with 1: no".to_owned());
    }
    Ok(())
}

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let machine = Self(root);
        for directory in
            ["etc/portcullis", "proc/sys/kernel", "usr/share/zoneinfo/Europe", "run/portcullis-requests"]
        {
            fs::create_dir_all(machine.0.path().join(directory)).unwrap();
        }
        for (file, text) in [
            (HOST_NAME, "portcullis\n"),
            ("/usr/share/zoneinfo/UTC", ""),
            ("/usr/share/zoneinfo/Europe/Berlin", ""),
        ] {
            fs::write(machine.places().at(file), text).unwrap();
        }
        machine
    }

    fn places(&self) -> Places {
        Places { root: self.0.path().to_owned(), run: note }
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.places().at(path)).unwrap_or_default()
    }

    /// Applies a configuration; what was run, and how it went.
    fn apply(&self, text: &str) -> (Vec<String>, Status) {
        fs::write(self.places().at(config::PATH_DEFAULT), text).unwrap();
        RUN.take();
        fs::write(self.places().at(REQUESTS).join(REQUEST), "").unwrap();
        let done = run_job(&self.places()).unwrap();
        assert!(!self.places().at(REQUESTS).join(REQUEST).exists());
        let status: Status = serde_json::from_str(&self.read(STATUS)).unwrap();
        assert_eq!(status.done, done);
        (RUN.take(), status)
    }
}

const ONE: &str = "[server]\n[network]\nhost_name = \"gate1\"\ntime_zone = \"Europe/Berlin\"\ndns = [\"10.0.0.53\"]\n\
    [[network.interface]]\nname = \"eth0\"\naddresses = [\"192.0.2.10/24\"]\n\
    [[network.interface]]\nname = \"edge\"\nparent = \"eth1\"\nvlan = 10\naddresses = [\"203.0.113.1/24\"]\n";
const EDGE: &str = "/run/systemd/network/05-portcullis-edge.netdev";

#[test]
fn what_the_configuration_says_is_applied_once() {
    let machine = Machine::new();
    let (run, status) = machine.apply(ONE);
    assert!(status.done, "{status:?}");
    assert_eq!(
        run,
        [
            "networkctl reload",
            "systemctl reload-or-restart systemd-resolved.service",
            "chronyc reload sources"
        ]
    );
    assert_eq!(machine.read(HOST_NAME), "gate1");
    assert!(machine.read(EDGE).contains("Id=10"));
    let link = fs::read_link(machine.places().at(LOCAL_TIME)).unwrap();
    assert_eq!(link, Path::new("/usr/share/zoneinfo/Europe/Berlin"));
    let kept = machine.read(KEPT);
    assert!(kept.contains("[network]") && !kept.contains("[server]"), "{kept}");
    assert_eq!(config::parse_settings(&kept, Path::new("x")), config::parse_settings(ONE, Path::new("y")));
    // Again: nobody is disturbed.
    let (run, status) = machine.apply(ONE);
    assert!(run.is_empty() && status.told.is_empty(), "{run:?} {status:?}");
}

#[test]
fn a_device_that_is_changed_or_gone_is_removed_first() {
    let machine = Machine::new();
    machine.apply(ONE);
    assert_eq!(
        machine.apply(&ONE.replace("vlan = 10", "vlan = 11")).0,
        ["networkctl delete edge", "networkctl reload"]
    );
    let other_parent = ONE.replace("vlan = 10", "vlan = 11").replace("eth1", "eth2");
    assert_eq!(machine.apply(&other_parent).0, ["networkctl delete edge", "networkctl reload"]);
    let on_bond = other_parent.replace("parent = \"eth2\"", "parent = \"bond0\"")
        + "[[network.interface]]\nname = \"bond0\"\nmembers = [\"eth1\", \"eth2\"]\n";
    machine.apply(&on_bond);
    let run = machine.apply(&(on_bond + "mode = \"802.3ad\"\n")).0;
    assert_eq!(run, ["networkctl delete edge", "networkctl delete bond0", "networkctl reload"]);
}

#[test]
fn without_the_section_the_machine_is_as_it_came() {
    let machine = Machine::new();
    machine.apply(ONE);
    let (_, status) = machine.apply("[server]\n");
    assert!(status.done, "{status:?}");
    let left: Vec<_> = fs::read_dir(machine.places().at(networkd::DIRECTORY)).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!machine.places().at(servers::RESOLVED).exists() && !machine.places().at(KEPT).exists());
    assert_eq!(fs::read_link(machine.places().at(LOCAL_TIME)).unwrap(), Path::new("/usr/share/zoneinfo/UTC"));
}

#[test]
fn files_of_others_are_left_alone() {
    let machine = Machine::new();
    let directory = machine.places().at(networkd::DIRECTORY);
    fs::create_dir_all(&directory).unwrap();
    for name in ["10-mgmt.network", networkd::MASKED] {
        fs::write(directory.join(name), "[Match]\nName=eth0\n").unwrap();
    }
    machine.apply("[server]\n");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    machine.apply(ONE);
    assert_eq!(fs::read_to_string(directory.join("10-mgmt.network")).unwrap(), "[Match]\nName=eth0\n");
}

#[test]
fn a_wrong_text_changes_nothing_and_is_told() {
    let machine = Machine::new();
    machine.apply(ONE);
    let before = machine.read(EDGE);
    let (run, status) = machine.apply(&ONE.replace("vlan = 10", "vlan = 5000"));
    assert!(run.is_empty() && !status.done && status.told[0].contains("from 1 to 4094"), "{status:?}");
    assert_eq!(machine.read(EDGE), before);
}

#[test]
fn whoever_could_not_be_told_is_told_the_next_time() {
    let machine = Machine::new();
    BROKEN.set(true);
    let (_, status) = machine.apply(ONE);
    assert!(!status.done && status.told[0].contains("networkctl reload ended"), "{status:?}");
    BROKEN.set(false);
    let (run, status) = machine.apply(ONE);
    assert!(run.contains(&"networkctl reload".to_owned()) && status.done, "{run:?} {status:?}");
}

#[test]
fn whoever_was_not_told_because_the_job_was_ended_is_told_the_next_time() {
    let machine = Machine::new();
    machine.apply(ONE);
    let ended = Status { under_way: true, ..Status::default() };
    put(&machine.places().at(STATUS), &serde_json::to_string(&ended).unwrap()).unwrap();
    let (run, status) = machine.apply(ONE);
    assert!(run.contains(&"networkctl reload".to_owned()), "{run:?}");
    assert!(status.done && !status.under_way, "{status:?}");
}

#[test]
fn the_configuration_is_a_file_or_nothing() {
    let machine = Machine::new();
    let path = machine.places().at(config::PATH_DEFAULT);
    let secret = machine.places().at("/secret");
    fs::write(&secret, "[network]\nsecret = 1\n").unwrap();
    symlink(&secret, &path).unwrap();
    assert!(!run_job(&machine.places()).unwrap());
    let told = machine.read(STATUS);
    assert!(told.contains("cannot be read") && !told.contains("secret"), "{told}");
    fs::remove_file(&path).unwrap();
    assert!(run_job(&machine.places()).unwrap());
}

#[test]
fn a_zone_that_is_not_there_is_told() {
    let machine = Machine::new();
    let (_, status) = machine.apply(&ONE.replace("Berlin", "Atlantis"));
    assert!(status.told[0].contains("there is no /usr/share/zoneinfo/Europe/Atlantis"), "{status:?}");
}
