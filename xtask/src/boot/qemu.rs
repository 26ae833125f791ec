//! A guest in QEMU, from its start to its last line.
//!
//! It is emulated, because a machine that is itself a guest has no second level to offer; a kernel alone is up in
//! seconds all the same. It has no network, and this machine's files it can only read.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use portcullis_tests::{process::Child, wait};
use tempfile::TempDir;

use super::debian::{self, Machine};
use super::guest::{self, TAG, Work};
use super::lines::Lines;
use super::report::{Mark, Report};
use crate::shell;

/// Tables of the kernel side are made at full size, by several tests at once. What is not used costs nothing.
const MEMORY: &str = "2G";
/// Work is steered from one to the other.
const PROCESSORS: &str = "2";
/// Whatever goes wrong in the kernel ends the guest, so that the console tells it.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet oops=panic panic_on_warn=1 panic=-1";
/// Pairs of network cards: a lab takes two, and a test that moves one between machines a third.
const CARD_PAIRS: u8 = 3 * TESTS_AT_ONCE;
/// On a busy machine QEMU 10 rarely aborts while the guest sets up its devices: its threads then disagree about the
/// guest's memory (`iotlb_to_section`). One thread for both processors would avoid that at twice the time.
const STARTS: u8 = 3;
/// Tests mostly wait, for deadlines and for what must not come: more go at once than there are processors.
pub(crate) const TESTS_AT_ONCE: u8 = 3;
const CONSOLE: &str = "console.log";
const WORK: &str = "work.log";
/// How much of the console an error shows.
const TAIL_LINES: usize = 40;
/// For what takes a moment.
const MOMENT: Duration = Duration::from_secs(20);

/// Starts a guest, hands every line of its programs to `show`, and returns what the work came to.
///
/// The logs stay in `target/boot` for reading.
pub(crate) fn run(
    machine: &Machine,
    work: &Work,
    limit: Duration,
    mut show: impl FnMut(&str),
) -> Result<Report> {
    for _ in 1..STARTS {
        match once(machine, work, limit, &mut show)? {
            Outcome::Done(report) => return Ok(report),
            Outcome::Crashed(told) => shell::say(&format!("{told:#}\nstarting the guest again …")),
        }
    }
    match once(machine, work, limit, &mut show)? {
        Outcome::Done(report) => Ok(report),
        Outcome::Crashed(told) => Err(told),
    }
}

enum Outcome {
    Done(Report),
    /// QEMU ended by a signal before the guest's work began, which says nothing about the work.
    Crashed(anyhow::Error),
}

fn once(machine: &Machine, work: &Work, limit: Duration, show: &mut impl FnMut(&str)) -> Result<Outcome> {
    let directory = tempfile::Builder::new().prefix("pc-boot-").tempdir().context("make a directory")?;
    let mark = mark(&directory);
    let initramfs = directory.path().join("initramfs");
    fs::write(&initramfs, guest::initramfs(machine, work, &mark)?).context("write the initramfs")?;
    let mut guest = Guest::start(machine, directory.path(), &initramfs)?;
    let mut report = Report::default();
    let mut lines = Lines::new(directory.path().join(WORK));
    let followed = wait::attempt(limit, "the end of the guest's work", || {
        // Asked first: what a guest has said until its end is read after its end.
        let ended = guest.qemu.try_status()?;
        for line in lines.read()? {
            if let Some(text) = report.take(&mark, &line) {
                show(text);
            }
        }
        Ok::<_, anyhow::Error>((report.done || ended.is_some()).then_some(ended))
    });
    let kept = keep_logs(directory.path());
    match followed {
        Ok(_) if report.done => kept.map(|()| Outcome::Done(report)),
        Ok(ended) => {
            let told = guest.told(&anyhow!("the guest ended before its work was done"));
            let crashed = ended.is_some_and(|status| status.signal().is_some()) && report.kernel.is_none();
            if crashed { Ok(Outcome::Crashed(told)) } else { Err(told) }
        }
        Err(error) => Err(guest.told(&error)),
    }
}

/// The name of a new temporary directory is as random as its mark must be.
fn mark(directory: &TempDir) -> Mark {
    Mark::new(&directory.path().file_name().unwrap_or_default().to_string_lossy())
}

fn keep_logs(directory: &Path) -> Result<()> {
    let kept = debian::directory()?;
    for log in [CONSOLE, WORK] {
        let from = directory.join(log);
        if from.is_file() {
            fs::copy(from, kept.join(log)).with_context(|| format!("keep {log}"))?;
        }
    }
    Ok(())
}

/// The hardware addresses of two cards that a wire joins.
fn card_pair(pair: u8) -> [String; 2] {
    // Locally administered.
    [0, 1].map(|end| format!("02:00:00:00:{pair:02x}:{end:02x}"))
}

/// All cards of a guest, as the harness of the tests wants to be told of them.
pub(crate) fn cards() -> String {
    (0..CARD_PAIRS).map(|pair| card_pair(pair).join("=")).collect::<Vec<_>>().join(",")
}

/// QEMU and the program that hands it this machine's files. Both end with the guard.
struct Guest {
    qemu: Child,
    files: Child,
    console: PathBuf,
}

impl Guest {
    fn start(machine: &Machine, directory: &Path, initramfs: &Path) -> Result<Self> {
        let socket = directory.join("files.sock");
        let mut files = machine.virtiofsd();
        files.args(["--shared-dir", "/", "--readonly", "--sandbox", "none", "--cache", "always"]);
        // Other file systems below the root are part of the picture; the guest has its own /proc and /sys.
        files.args(["--no-announce-submounts", "--log-level", "error", "--socket-path"]).arg(&socket);
        let files = Child::spawn("virtiofsd", &mut files, directory)?;
        wait::until(MOMENT, "virtiofsd's socket", || socket.exists())
            .map_err(|error| files.with_log(&error))?;
        let console = directory.join(CONSOLE);
        let mut qemu = machine.qemu();
        qemu.args(["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", PROCESSORS]);
        qemu.args(["-m", MEMORY, "-numa", "node,memdev=memory"]);
        // virtiofsd writes into the guest's memory.
        qemu.args(["-object", &format!("memory-backend-memfd,id=memory,size={MEMORY},share=on")]);
        qemu.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
        qemu.args(["-serial", &format!("file:{}", console.display())]);
        qemu.args(["-serial", &format!("file:{}", directory.join(WORK).display())]);
        qemu.args(["-chardev", &format!("socket,id=files,path={}", socket.display())]);
        qemu.args(["-device", &format!("vhost-user-fs-pci,chardev=files,tag={TAG}")]);
        for pair in 0..CARD_PAIRS {
            // A hub with two ports is a wire.
            for address in card_pair(pair) {
                let id = address.replace(':', "");
                qemu.args(["-netdev", &format!("hubport,id=n{id},hubid={pair}")]);
                qemu.args(["-device", &format!("virtio-net-pci,netdev=n{id},mac={address},romfile=")]);
            }
        }
        qemu.args(["-device", "virtio-rng-pci", "-append", KERNEL_COMMAND_LINE]);
        qemu.arg("-kernel").arg(machine.kernel()).arg("-initrd").arg(initramfs);
        let qemu = Child::spawn("qemu", &mut qemu, directory)?;
        Ok(Self { qemu, files, console })
    }

    /// An error with the end of the guest's console, and what QEMU and virtiofsd said.
    fn told(&self, error: &anyhow::Error) -> anyhow::Error {
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n");
        let said = [tail, self.qemu.log_tail(), self.files.log_tail()];
        let said: Vec<&str> =
            said.iter().map(|text| text.trim_end()).filter(|text| !text.is_empty()).collect();
        if said.is_empty() {
            return anyhow!("{error:#}");
        }
        anyhow!("{error:#}; console, QEMU and virtiofsd said last:\n{}", said.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_is_named_once() {
        let cards = cards();
        let mut named: Vec<&str> = cards.split(['=', ',']).collect();
        assert_eq!(named.len(), usize::from(CARD_PAIRS) * 2, "{cards}");
        named.sort_unstable();
        named.dedup();
        assert_eq!(named.len(), usize::from(CARD_PAIRS) * 2, "{cards}");
    }
}
