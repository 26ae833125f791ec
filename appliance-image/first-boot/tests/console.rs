//! A person at a terminal, and a volume as hypervisors attach it, with the gateway's own command to judge what comes of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as the tests themselves do")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::unistd::ttyname;
use portcullis_first_boot::network::Cards;
use portcullis_first_boot::{Places, configure, seed, wizard};
use portcullis_installer::terminals::Terminals;
use portcullis_tests::skip::skip;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq6YKy4vT3L0bKQ admin@desk";
const DEFAULT: &str = include_str!("../../overlay/usr/lib/credstore/appliance.configuration");
const LIMIT: Duration = Duration::from_secs(60);

struct Machine {
    place: tempfile::TempDir,
    places: Places,
}

impl Machine {
    /// With a command that takes everything, and writes down what it was told.
    fn new(cards: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for directory in [
            "root/usr/lib/credstore",
            "root/etc/portcullis",
            "root/usr/share/zoneinfo/Europe",
            "dev/disk/by-label",
        ] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for (name, address) in cards {
            fs::create_dir_all(at(&format!("sys/class/net/{name}/device"))).unwrap();
            fs::write(at(&format!("sys/class/net/{name}/address")), format!("{address}\n")).unwrap();
        }
        fs::write(at("root/usr/share/zoneinfo/Europe/Berlin"), "").unwrap();
        fs::write(at("root/usr/lib/credstore/appliance.configuration"), DEFAULT).unwrap();
        fs::write(at("root/etc/portcullis/portcullis.toml"), DEFAULT).unwrap();
        let command = "#!/bin/sh\ndir=$(dirname \"$0\")\necho \"$@\" >>\"$dir/asked\"\n\
            case \"$*\" in *import*) cat >\"$dir/imported\";; *--set*) cat >\"$dir/password\";; *--judge*) read -r said; case \"$said\" in *hunter2*|*weak*) echo 'portcullis: too weak' >&2; exit 65;; esac;; *check*) echo '{\"problems\":[],\"findings\":[]}';; esac\n";
        fs::write(at("portcullis"), command).unwrap();
        fs::set_permissions(at("portcullis"), fs::Permissions::from_mode(0o755)).unwrap();
        let places = Places {
            root: at("root"),
            sys: at("sys"),
            dev: at("dev"),
            credentials: None,
            portcullis: at("portcullis"),
        };
        Self { place, places }
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.place.path().join(path)).unwrap_or_default()
    }
}

/// What a terminal shows, and its keyboard.
struct Person {
    keyboard: File,
    screen: Receiver<String>,
    seen: String,
    all: String,
}

impl Person {
    fn sit_down(places: Places) -> (Self, thread::JoinHandle<Result<(), String>>) {
        let pair = openpty(None, None).unwrap();
        let name = ttyname(pair.slave.as_fd()).unwrap();
        let keyboard = File::from(pair.master);
        let mut output = keyboard.try_clone().unwrap();
        let (sender, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()).into_owned();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        let wizard = thread::spawn(move || {
            // Open as long as somebody asks there.
            let _held = pair.slave;
            let mut terminals = Terminals::open(&[name.to_str().unwrap()]);
            wizard::run(&places, &mut terminals).map_err(|error| format!("{error:#}"))
        });
        (Self { keyboard, screen, seen: String::new(), all: String::new() }, wizard)
    }

    /// Waits for a text and answers it.
    fn answer(&mut self, question: &str, answer: &str) -> String {
        let before = self.expect(question);
        self.keyboard.write_all(format!("{answer}\n").as_bytes()).unwrap();
        before
    }

    fn expect(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some((before, after)) = self.seen.split_once(text) {
                let before = before.to_owned();
                self.seen = after.to_owned();
                return before;
            }
            let left = LIMIT.saturating_sub(begun.elapsed());
            match self.screen.recv_timeout(left) {
                Ok(more) => {
                    self.all.push_str(&more);
                    self.seen.push_str(&more);
                }
                Err(_) => panic!("no `{text}` in: {}", self.seen),
            }
        }
    }
}

#[test]
fn a_person_at_the_console_says_who_may_log_in_and_where() {
    let machine = Machine::new(&[("eth0", "02:00:00:00:00:01"), ("eth1", "02:00:00:00:00:02")]);
    let (mut person, wizard) = Person::sit_down(machine.places.clone());
    person.answer("or the word `password`", "hunter2");
    person.expect("Too weak.");
    person.answer("or the word `password`", KEY);
    person.answer("Card by which", "eth9");
    person.expect("There is no such card");
    person.answer("Card by which", "");
    person.answer("Address of eth0", "192.0.2.10");
    person.expect("with the length of its network's prefix");
    person.answer("Address of eth0", "192.0.2.10/24");
    person.answer("Gateway", "10.0.0.1");
    person.expect("another machine of the network 192.0.2.0/24");
    person.answer("Gateway", "192.0.2.1");
    person.answer("Name servers", "192.0.2.53 192.0.2.54");
    person.answer("Host name", "gate1");
    person.answer("Time zone", "Europe/Atlantis");
    person.expect("There is no such time zone");
    person.answer("Time zone", "Europe/Berlin");
    person.answer("Is that right?", "yes");
    person.expect("Done: ssh admin@192.0.2.10");
    wizard.join().unwrap().unwrap();
    assert_eq!(fs::read_to_string(machine.places.keys()).unwrap(), format!("{KEY}\n"));
    let seen: toml::Table = machine.read("imported").parse().unwrap();
    let expected: toml::Table =
        "host_name = \"gate1\"\ntime_zone = \"Europe/Berlin\"\ndns = [\"192.0.2.53\", \"192.0.2.54\"]\n\
        interface = [{ name = \"eth0\", addresses = [\"192.0.2.10/24\"], gateways = [\"192.0.2.1\"] }]"
            .parse()
            .unwrap();
    assert_eq!(seen["network"].as_table(), Some(&expected));
    assert_eq!(
        machine.read("asked"),
        "access-job --judge-key\naccess-job --judge-key\nconfigure import\n\
         configure commit -m answered at the console\nconfigure confirm\n"
    );
}

#[test]
fn nothing_is_changed_before_somebody_agrees() {
    let machine = Machine::new(&[("eth0", "02:00:00:00:00:01")]);
    let (mut person, wizard) = Person::sit_down(machine.places.clone());
    person.answer("or the word `password`", KEY);
    person.answer("Address of eth0", "dhcp");
    person.answer("Host name", "");
    person.answer("Time zone", "");
    person.answer("Is that right?", "perhaps");
    person.expect("Write yes or no");
    person.answer("Is that right?", "no");
    person.expect("or the word `password`");
    assert_eq!(machine.read("asked"), "access-job --judge-key\n", "asks and changes nothing");
    assert!(!machine.places.has_keys() && !wizard.is_finished());
    // Meanwhile somebody else tells the machine: it asks no further.
    fs::create_dir_all(machine.places.keys().parent().unwrap()).unwrap();
    fs::write(machine.places.keys(), KEY).unwrap();
    for (question, answer) in
        [("", KEY), ("Address of eth0", ""), ("Host name", ""), ("Time zone", ""), ("Is that right?", "no")]
    {
        person.answer(question, answer);
    }
    person.expect("nothing is left to ask");
    wizard.join().unwrap().unwrap();
}

#[test]
fn a_password_in_the_place_of_a_key_is_asked_for_twice_and_not_shown() {
    let machine = Machine::new(&[("eth0", "02:00:00:00:00:01")]);
    let (mut person, wizard) = Person::sit_down(machine.places.clone());
    person.answer("or the word `password`", "password");
    person.expect("SSH has no way in until");
    person.answer("Password of admin", "hunter2");
    person.expect("Too weak.");
    person.answer("Password of admin", "correct horse");
    person.answer("The same again", "battery staple");
    person.expect("not the same");
    person.answer("Password of admin", "correct horse");
    person.answer("The same again", "correct horse");
    person.answer("Address of eth0", "192.0.2.10/24");
    for question in ["Gateway", "Name servers", "Host name", "Time zone"] {
        person.answer(question, "");
    }
    let shown = person.answer("Is that right?", "yes") + &person.expect("Done: log in here as admin");
    wizard.join().unwrap().unwrap();
    assert!(machine.read("asked").ends_with("access-job --set admin\n"), "{}", machine.read("asked"));
    assert_eq!(machine.read("password"), "correct horse\n");
    assert!(!machine.places.has_keys() && shown.contains("no SSH yet"));
    assert!(!person.all.contains("hunter2") && !person.all.contains("correct horse"), "{}", person.all);
}

#[test]
fn a_weak_key_of_a_seed_is_told_and_lets_nobody_in() {
    let machine = Machine::new(&CARDS);
    let told_by = |keys: &str| {
        let user = format!("#cloud-config\nssh_authorized_keys: [{keys}]\n");
        fs::write(machine.place.path().join("user-data"), user).unwrap();
        let read = seed::read(machine.place.path(), &Cards::find(&machine.places.sys));
        let mut told = Vec::new();
        configure::follow(&machine.places, &read, &mut |line| told.push(line.to_owned())).unwrap();
        told
    };
    let weak = KEY.replace("admin@desk", "weak");
    let told = told_by(&weak);
    assert!(told.iter().any(|line| line.ends_with("a key is not taken: too weak")), "{told:?}");
    assert!(!machine.places.has_keys());
    told_by(&format!("{weak}, {KEY}"));
    assert_eq!(fs::read_to_string(machine.places.keys()).unwrap(), format!("{KEY}\n"));
}

/// A volume with these files, by a program of the machine; none where there is no such program.
fn volume(place: &Path, program: &str, files: &[(&str, &str)]) -> Option<PathBuf> {
    let content = place.join("content");
    fs::create_dir_all(&content).unwrap();
    for (name, text) in files {
        fs::write(content.join(name), text).unwrap();
    }
    let image = place.join("seed.img");
    let done = match program {
        "mkfs.vfat" => {
            File::create(&image).unwrap().set_len(1 << 20).unwrap();
            let made = Command::new(program).args(["-n", "CIDATA"]).arg(&image).output();
            made.and_then(|_| {
                Command::new("mcopy")
                    .arg("-i")
                    .arg(&image)
                    .args(files.iter().map(|(name, _)| content.join(name)))
                    .arg("::")
                    .output()
            })
        }
        _ => Command::new(program)
            .args(["-quiet", "-V", "cidata", "-J", "-r", "-o"])
            .arg(&image)
            .arg(&content)
            .output(),
    };
    done.is_ok_and(|output| output.status.success()).then_some(image)
}

const CARDS: [(&str, &str); 2] = [("eth0", "02:00:00:00:00:01"), ("eth1", "02:00:00:00:00:02")];
const META: (&str, &str) = ("meta-data", "instance-id: a\n");
const NETWORK: (&str, &str) = (
    "network-config",
    "version: 2\nethernets:\n  x:\n    match: {macaddress: \"02:00:00:00:00:02\"}\n    addresses: [192.0.2.10/24]\n",
);

fn user_data() -> String {
    format!("#cloud-config\nhostname: gate1\nruncmd: [x]\nssh_authorized_keys: [{KEY}]\n")
}

/// What a machine that is told these files must be.
fn check(machine: &Machine, told: &[String]) {
    assert_eq!(fs::read_to_string(machine.places.keys()).unwrap(), format!("{KEY}\n"), "{told:?}");
    let text = fs::read_to_string(machine.places.configuration()).unwrap();
    let seen: toml::Table = text.parse().unwrap();
    assert_eq!(seen["network"]["host_name"].as_str(), Some("gate1"), "{text}");
    assert_eq!(seen["network"]["interface"][0]["name"].as_str(), Some("eth1"), "{text}");
    assert_eq!(seen["xdp"]["interface"][1]["role"].as_str(), Some("edge"), "{text}");
    assert!(told.iter().any(|line| line.contains("`runcmd` is not done")), "{told:?}");
}

#[test]
fn a_seed_tells_name_key_and_network() {
    let machine = Machine::new(&CARDS);
    let user = user_data();
    for (name, text) in [META, ("user-data", user.as_str()), NETWORK] {
        fs::write(machine.place.path().join(name), text).unwrap();
    }
    let read = seed::read(machine.place.path(), &Cards::find(&machine.places.sys));
    let mut told = Vec::new();
    configure::follow(&machine.places, &read, &mut |line| told.push(line.to_owned())).unwrap();
    check(&machine, &told);
    // Who was let in by a credential is not asked about.
    fs::write(machine.places.keys(), "another").unwrap();
    configure::follow(&machine.places, &read, &mut |line| told.push(line.to_owned())).unwrap();
    assert_eq!(fs::read_to_string(machine.places.keys()).unwrap(), "another");
}

#[test]
fn a_volume_of_a_hypervisor_is_mounted_and_read() {
    let user = user_data();
    for program in ["mkfs.vfat", "genisoimage", "xorrisofs"] {
        let machine = Machine::new(&CARDS);
        let Some(image) =
            volume(machine.place.path(), program, &[META, ("user-data", user.as_str()), NETWORK])
        else {
            skip(&format!("there is no {program} here"));
            continue;
        };
        let device = Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(&image).output();
        let Some(device) = device.ok().filter(|output| output.status.success()) else {
            return skip("no loop device can be had");
        };
        let device = String::from_utf8(device.stdout).unwrap().trim().to_owned();
        std::os::unix::fs::symlink(&device, machine.places.dev.join("disk/by-label/cidata")).unwrap();
        let mut told = Vec::new();
        let done = configure::run(&machine.places, &mut |line| told.push(line.to_owned()));
        Command::new("losetup").args(["--detach", &device]).output().unwrap();
        done.unwrap();
        if told.iter().any(|line| line.contains("neither ISO 9660 nor FAT")) {
            skip(&format!("this kernel does not mount what {program} makes"));
            continue;
        }
        check(&machine, &told);
    }
}

#[test]
fn a_network_that_cannot_be_taken_leaves_the_machine_as_it_is() {
    let machine = Machine::new(&[("eth0", "02:00:00:00:00:01")]);
    let directory = machine.place.path().join("seed");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("network-config"), "version: 2\nbridges: {}\n").unwrap();
    let read = seed::read(&directory, &Cards::find(&machine.places.sys));
    assert_eq!(read.network(), None);
    assert!(read.told.notes[0].contains("`bridges` is not taken"), "{:?}", read.told.notes);
}
