//! One installation, from the first question to the restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::credentials::{self, Credentials};
use crate::disks::{self, Disk};
use crate::keys::is_key;
use crate::orders::{Orders, Then};
use crate::terminals::Terminals;
use crate::{Places, copy, output};

/// Controllers with many disks take their time.
const DISKS_LIMIT: Duration = Duration::from_secs(30);
/// Where systemd says which partition the machine was started from (its Boot Loader Interface).
const MEDIUM: &str = "firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const MOUNT_POINT: &str = "/run/portcullis-esp";
const KEYS: &str = "appliance.admin-keys";

/// Installs, and starts the machine again or switches it off.
///
/// # Errors
/// Whatever kept it from installing; nothing was written unless the message says so.
pub fn run(places: &Places, terminals: &mut Terminals) -> Result<()> {
    let mut given = credentials::read(places.credentials.as_deref())?;
    let orders = Orders::read(&given)?;
    terminals.say("\r\nPortcullis: this writes the appliance to a disk of this machine.");
    copy::check(&places.image)?;
    let disks = wait_for_disks(places)?;
    let disk = which(&disks, &orders, terminals)?;
    if !given.contains_key(KEYS) {
        ask_for_key(&mut given, &orders, terminals);
    }
    if must_confirm(disk, &orders) {
        confirm(disk, terminals)?;
    }
    write(places, disk, terminals)?;
    let partition = system_partition(places, disk)?;
    let told = credentials::hand_over(&given, &partition, Path::new(MOUNT_POINT))?;
    if !told.is_empty() {
        terminals.say(&format!("The machine will be told: {}.", told.join(", ")));
    }
    terminals.say(&format!("The appliance is on {}.", disk.name));
    finish(&orders, terminals)
}

fn wait_for_disks(places: &Places) -> Result<Vec<Disk>> {
    let medium = medium(&places.sys);
    let begun = Instant::now();
    loop {
        let disks = disks::find(&places.sys, &places.dev, medium.as_deref())?;
        if !disks.is_empty() {
            return Ok(disks);
        }
        if begun.elapsed() > DISKS_LIMIT {
            bail!("this machine has no disk that the kernel knows");
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// The partition that firmware started, as its id in the partition table.
fn medium(sys: &Path) -> Option<String> {
    // Four bytes of attributes, then UTF-16.
    let bytes = fs::read(sys.join(MEDIUM)).ok()?;
    let units =
        bytes.get(4..)?.chunks_exact(2).filter_map(|pair| pair.try_into().ok()).map(u16::from_le_bytes);
    let text = String::from_utf16(&units.collect::<Vec<u16>>()).ok()?;
    Some(text.trim_end_matches('\0').to_owned()).filter(|text| !text.is_empty())
}

fn which<'a>(disks: &'a [Disk], orders: &Orders, terminals: &mut Terminals) -> Result<&'a Disk> {
    if let Some(wanted) = &orders.disk {
        return disks::choose(disks, wanted);
    }
    loop {
        terminals.say("\r\nDisks:");
        for disk in disks {
            let unfit =
                disk.unfit.as_ref().map(|why| format!(" (cannot be used: {why})")).unwrap_or_default();
            terminals.say(&format!("  {}{unfit}", disk.describe()));
        }
        let answer = terminals
            .ask("Which disk?")
            .context("nobody is there to be asked: give the credential install.disk")?;
        if answer.is_empty() {
            continue;
        }
        match disks::choose(disks, &answer) {
            Ok(disk) => return Ok(disk),
            Err(error) => terminals.say(&format!("{error:#}")),
        }
    }
}

/// A machine without a key is one that nobody gets into; that may be meant, when it is told later.
fn ask_for_key(given: &mut Credentials, orders: &Orders, terminals: &mut Terminals) {
    if orders.disk.is_some() {
        terminals.say("No key of an administrator was given (appliance.admin-keys): the machine must be told one later.");
        return;
    }
    let question =
        "Public SSH key of an administrator, as in id_ed25519.pub (empty: tell the machine later):";
    while let Some(answer) = terminals.ask(question) {
        if answer.is_empty() {
            return;
        }
        if is_key(&answer) {
            given.insert(KEYS.to_owned(), format!("{answer}\n").into_bytes());
            return;
        }
        terminals.say("That is no public key: it begins like `ssh-ed25519 AAAA`.");
    }
}

fn must_confirm(disk: &Disk, orders: &Orders) -> bool {
    // A disk with nothing on it that a credential names has nothing to lose.
    !orders.erase && (orders.disk.is_none() || disk.holds.is_some())
}

fn confirm(disk: &Disk, terminals: &mut Terminals) -> Result<()> {
    terminals.say(&format!("\r\nEVERYTHING on this disk will be lost: {}", disk.describe()));
    let question = format!("Type `{}` to go on:", disk.name);
    match terminals.ask(&question) {
        Some(answer) if answer == disk.name => Ok(()),
        Some(_) => bail!("that was not `{}`: nothing was written", disk.name),
        None => {
            bail!("nobody is there to be asked: give the credential install.erase=yes; nothing was written")
        }
    }
}

fn write(places: &Places, disk: &Disk, terminals: &mut Terminals) -> Result<()> {
    let damaged = || format!("{} is erased and not usable now", disk.name);
    terminals.say("Writing …");
    let written =
        copy::write(&places.image, &disk.node, |done| terminals.say(&format!("  {} MB", done / 1_000_000)));
    let written = written.with_context(damaged)?;
    // What is read next comes from the disk, not from memory.
    output(Command::new("blockdev").arg("--flushbufs").arg(&disk.node)).with_context(damaged)?;
    terminals.say("Reading back and comparing …");
    let verified =
        copy::verify(&places.image, &disk.node, |done| terminals.say(&format!("  {} MB", done / 1_000_000)));
    verified.with_context(damaged)?;
    terminals.say(&format!("{} MB are on the disk as they should be.", written / 1_000_000));
    // The second copy of the partition table belongs to the end of the disk.
    output(Command::new("sfdisk").args(["--relocate", "gpt-bak-std"]).arg(&disk.node))
        .with_context(damaged)?;
    output(Command::new("blockdev").arg("--rereadpt").arg(&disk.node)).with_context(damaged)?;
    output(Command::new("udevadm").args(["settle", "--timeout=30"])).map(drop).with_context(damaged)
}

/// The first partition of the image, which the kernel knows by now.
fn system_partition(places: &Places, disk: &Disk) -> Result<PathBuf> {
    let place = places.sys.join("class/block").join(&disk.name);
    for entry in fs::read_dir(&place).with_context(|| format!("list {}", place.display()))? {
        let inner = entry.context("list the partitions")?.path();
        let number = fs::read_to_string(inner.join("partition")).unwrap_or_default();
        if number.trim() == "1" {
            return Ok(places.dev.join(inner.file_name().unwrap_or_default()));
        }
    }
    bail!("the kernel does not see the partitions of {}: start the machine again", disk.name)
}

fn finish(orders: &Orders, terminals: &mut Terminals) -> Result<()> {
    let then = match orders.then {
        Some(then) => then,
        None if orders.disk.is_some() => Then::PowerOff,
        None => {
            terminals.ask("Take the medium out and press Enter to start the machine.");
            Then::Reboot
        }
    };
    let (verb, what) = match then {
        Then::Reboot => ("reboot", "The machine starts again."),
        Then::PowerOff => ("poweroff", "The machine is switched off."),
    };
    terminals.say(what);
    output(Command::new("systemctl").args(["--no-block", verb])).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;

    fn disk(name: &str, holds: Option<&str>) -> Disk {
        Disk {
            name: name.to_owned(),
            node: PathBuf::from("/dev").join(name),
            bytes: 8_000_000_000,
            model: "M".to_owned(),
            serial: String::new(),
            holds: holds.map(str::to_owned),
            ours: false,
            unfit: None,
        }
    }

    /// Answers each question with the next line.
    struct Person {
        answers: Vec<&'static str>,
        sender: Option<mpsc::Sender<String>>,
    }

    impl Write for Person {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let said = String::from_utf8_lossy(bytes);
            if said.trim_end().ends_with(['?', ':']) && !said.contains("Disks:") {
                match (self.answers.pop(), &self.sender) {
                    (Some(answer), Some(sender)) => drop(sender.send(answer.to_owned())),
                    _ => self.sender = None,
                }
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn person(answers: &[&'static str]) -> Terminals {
        let (sender, lines) = mpsc::channel();
        let answers = answers.iter().rev().copied().collect();
        Terminals::of(
            Box::new(std::io::LineWriter::with_capacity(9000, Person { answers, sender: Some(sender) })),
            lines,
        )
    }

    #[test]
    fn a_person_is_asked_again_until_the_answer_is_a_disk() {
        let disks = [disk("sda", None), disk("sdb", None)];
        let chosen = which(&disks, &Orders::default(), &mut person(&["sdz", "", "sdb"])).unwrap();
        assert_eq!(chosen.name, "sdb");
        assert!(which(&disks, &Orders::default(), &mut person(&["sdz"])).is_err());
    }

    #[test]
    fn nothing_is_erased_without_a_word() {
        let told = |disk: Option<&str>, erase| Orders { disk: disk.map(str::to_owned), erase, then: None };
        let (full, empty) = (disk("sda", Some("2 partitions")), disk("sda", None));
        assert!(must_confirm(&full, &told(None, false)));
        assert!(must_confirm(&empty, &told(None, false)));
        assert!(must_confirm(&full, &told(Some("sda"), false)));
        assert!(!must_confirm(&empty, &told(Some("sda"), false)));
        assert!(!must_confirm(&full, &told(Some("sda"), true)));
        confirm(&full, &mut person(&["sda"])).unwrap();
        for refused in [confirm(&full, &mut person(&["yes"])), confirm(&full, &mut person(&[]))] {
            assert!(refused.unwrap_err().to_string().contains("nothing was written"));
        }
    }

    #[test]
    fn a_key_is_recognised_before_it_is_handed_over() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq6YKy4vT3L0bKQ admin@desk";
        let mut given = Credentials::new();
        ask_for_key(&mut given, &Orders::default(), &mut person(&["hunter2", key]));
        assert_eq!(given.get(KEYS).map(Vec::as_slice), Some(format!("{key}\n").as_bytes()));
        let mut none = Credentials::new();
        ask_for_key(&mut none, &Orders::default(), &mut person(&[""]));
        assert!(none.is_empty());
    }

    #[test]
    fn the_medium_is_what_systemd_says_it_was_started_from() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(medium(sys.path()), None);
        let path = sys.path().join(MEDIUM);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text: Vec<u8> = "0A0B\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(&path, [&[6, 0, 0, 0], text.as_slice()].concat()).unwrap();
        assert_eq!(medium(sys.path()).as_deref(), Some("0A0B"));
    }
}
