//! A person at the console of a machine that runs: right and wrong passwords, and what comes behind them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as the tests themselves do")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, openpty};
use nix::unistd::{getegid, geteuid, ttyname};
use portcullis_first_boot::Places;
use portcullis_first_boot::login::{self, Login};

const LIMIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse";

struct Machine {
    place: tempfile::TempDir,
    places: Places,
    login: Login,
}

impl Machine {
    /// With a command that knows one password, and a command line that says who it runs for.
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for directory in ["root/var/lib/appliance/keys", "root/var/lib/appliance/passwords", "root/etc"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(at("root/etc/os-release"), "ID=x\nIMAGE_VERSION=0.1.0.7\n").unwrap();
        fs::write(at("root/var/lib/appliance/keys/admin"), "ssh-ed25519 AAAA").unwrap();
        let program = |name: &str, text: &str| {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        program(
            "portcullis",
            "#!/bin/sh\ndir=$(dirname \"$0\")\necho \"$@\" >>\"$dir/asked\"\nread -r typed\n\
             if test \"$typed\" = 'correct horse'; then exit 0; else exit 1; fi\n",
        );
        program(
            "shell",
            "#!/bin/sh\necho \"for $USER at $PORTCULLIS_CONSOLE; args $#; $(tty)\"\nstty -a | tr ';' '\\n' | grep isig\n\
             read -r line\necho \"took $line\"\n",
        );
        let places = Places {
            root: at("root"),
            sys: at("sys"),
            dev: at("dev"),
            credentials: None,
            portcullis: at("portcullis"),
        };
        let login = Login {
            shell: at("shell"),
            ids: |_| Some((geteuid().as_raw(), getegid().as_raw())),
            idle: Duration::from_mins(5),
            pause: Duration::from_millis(10),
        };
        Self { place, places, login }
    }

    fn with_password(self, user: &str) -> Self {
        fs::write(self.places.root.join("var/lib/appliance/passwords").join(user), "x").unwrap();
        self
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.place.path().join("asked")).unwrap_or_default()
    }
}

struct Person {
    keyboard: File,
    screen: Receiver<String>,
    seen: String,
    all: String,
    device: String,
}

impl Person {
    fn sit_down(machine: &Machine) -> (Self, thread::JoinHandle<Result<(), String>>) {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let device = ttyname(slave.as_fd()).unwrap();
        let keyboard = File::from(master);
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
        let (places, login, terminal) = (machine.places.clone(), machine.login.clone(), device.clone());
        let serving = thread::spawn(move || {
            let _held = slave;
            login::run(&places, &login, &terminal).map_err(|error| format!("{error:#}"))
        });
        let device = device.to_str().unwrap().to_owned();
        (Self { keyboard, screen, seen: String::new(), all: String::new(), device }, serving)
    }

    fn send(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn expect(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some((before, after)) = self.seen.split_once(text) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.seen = after;
                return before;
            }
            match self.screen.recv_timeout(LIMIT.saturating_sub(begun.elapsed())) {
                Ok(more) => {
                    self.all.push_str(&more);
                    self.seen.push_str(&more);
                }
                Err(_) => panic!("no `{text}` in: {}", self.seen),
            }
        }
    }

    fn log_in(&mut self, user: &str, password: &str) {
        self.expect("login: ");
        self.send(&format!("{user}\n"));
        self.expect("Password");
        self.send(&format!("{password}\n"));
    }
}

#[test]
fn the_right_password_alone_leads_into_the_command_line_and_is_not_shown() {
    let machine = Machine::new().with_password("operator");
    let (mut person, serving) = Person::sit_down(&machine);
    assert!(person.expect("login: ").contains("Portcullis 0.1.0.7"));
    person.send("operator\n");
    person.expect("Password");
    person.send("wrong password\n");
    person.expect("That is not right");
    person.expect("1 since the last login");
    // Whoever has no password, and whoever there is not, is told the same.
    for user in ["admin", "root", "operator; sh", "-f root"] {
        person.log_in(user, PASSWORD);
        person.expect("That is not right");
    }
    person.log_in("operator", &"x".repeat(2000));
    person.expect("That is not right");
    assert_eq!(machine.asked().lines().count(), 1, "{}", machine.asked());
    person.log_in("operator", PASSWORD);
    let name = person.device.rsplit('/').next().unwrap().to_owned();
    person.expect(&format!("for operator at {name}; args 0; {}", person.device));
    assert!(!person.expect("isig").ends_with('-'), "keys are signals for the command line");
    person.send("hello\n");
    person.expect("took hello");
    person.expect("\x1b[2J");
    assert_eq!(serving.join().unwrap(), Ok(()));
    assert!(!person.all.contains(PASSWORD) && !person.all.contains("wrong password"), "{}", person.all);
    assert_eq!(machine.asked(), "access-job --check operator\n".repeat(2));
}

#[test]
fn without_a_password_the_console_says_how_one_is_set_and_takes_none() {
    let machine = Machine::new();
    let (mut person, serving) = Person::sit_down(&machine);
    person.expect("access password set admin");
    person.send("admin\n");
    person.expect("No password is set");
    person.send("\x04");
    person.expect("No password is set");
    assert_eq!(machine.asked(), "");
    assert!(!person.all.contains("Password of") && !serving.is_finished());
    // As soon as there is one, it asks.
    let _machine = machine.with_password("admin");
    person.log_in("admin", PASSWORD);
    person.expect("for admin at");
    person.send("\n");
    assert_eq!(serving.join().unwrap(), Ok(()));
}

#[test]
fn who_types_nothing_is_logged_out() {
    let mut machine = Machine::new().with_password("admin");
    machine.login.idle = Duration::ZERO;
    let (mut person, serving) = Person::sit_down(&machine);
    person.log_in("admin", PASSWORD);
    person.expect("\x1b[2J");
    assert_eq!(serving.join().unwrap(), Ok(()));
    assert!(!person.all.contains("took"));
}

#[test]
fn what_is_no_terminal_is_no_console() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(!login::is_there(file.path()) && !login::is_there("/dev/null".as_ref()));
    assert!(!login::is_there("/nonexistent".as_ref()));
}
