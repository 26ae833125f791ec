//! The appliance in QEMU: its firmware, its disk, what it is told at the first boot, and SSH to it.
//!
//! It is emulated (TCG), several times slower than the machines that it is made for. The only way in is a port of the
//! loopback interface that leads to the guest's port 22.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use portcullis_tests::process::{self, Child, Output};
use portcullis_tests::terminal::Terminal;
use portcullis_tests::wait;
use serde::Deserialize;
use tempfile::TempDir;

use super::builder::{self, Builder};
use super::esp;
use super::formats;
use super::keys;
use super::monitor;
use super::seed::{self, Keyboard};
use super::signature::{self, Signed, Signer};
use super::state::State;
use super::wiring::{Card, Wiring};
use crate::boot::debian::Machine;

const MEMORY: &str = "1G";
const PROCESSORS: &str = "2";
const CONSOLE: &str = "console.log";
/// Where somebody types at the serial line.
const SOCKET: &str = "console.socket";
/// Where its hardware is told what to do.
const MONITOR: &str = "monitor.socket";
const TAIL_LINES: usize = 30;
/// For one attempt to get in.
const ATTEMPT: Duration = Duration::from_secs(25);
const MOMENT: Duration = Duration::from_secs(60);
/// Where the data of the first slot begins: behind the table, the system partition and the hashes. See mkosi.repart.
const ROOT_OFFSET: u64 = (1 + 512 + 16) << 20;
const ROOT_BYTES: u64 = 256 << 20;

/// Who gets in by the administrator's key.
pub(super) const ADMINISTRATOR: &str = "admin";
/// The users of the appliance, each with a key and a role.
const USERS: [&str; 3] = [ADMINISTRATOR, "operator", "viewer"];

/// How somebody comes by SSH.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) user: &'a str,
    /// More for ssh(1).
    pub(super) options: &'a [String],
}

impl Default for Visit<'_> {
    fn default() -> Self {
        Self { user: ADMINISTRATOR, options: &[] }
    }
}

/// What the installer is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Medium {
    Cd,
    Usb,
}

/// How the machine is to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// Credentials by name, as the hypervisor would hand them over.
    pub(super) credentials: Vec<(String, String)>,
    /// More for the kernel's command line; only without Secure Boot.
    pub(super) command_line: Option<String>,
    pub(super) secure_boot: bool,
    /// Without any it has one, by which only SSH comes in.
    pub(super) cards: Vec<Card>,
    /// A machine with an empty disk, and the installer's ISO in it; without either it is told nothing.
    pub(super) medium: Option<(Medium, PathBuf)>,
    /// More of them, on the system partition.
    pub(super) on_disk: BTreeMap<String, String>,
    /// Whether nobody's keys are among the credentials.
    pub(super) without_keys: bool,
    /// Files of a NoCloud volume.
    pub(super) seed: BTreeMap<String, String>,
    /// Whether somebody types at the serial console.
    pub(super) answered: bool,
}

#[derive(Debug)]
pub(super) struct Vm<'a> {
    machine: &'a Machine,
    builder: &'a Builder,
    settings: Settings,
    place: TempDir,
    port: u16,
    qemu: Option<Child>,
    /// Behind QEMU, which ends before its networks go.
    wiring: Option<Wiring>,
    started: Instant,
    ejected: bool,
    keyboard: Option<Keyboard>,
}

impl<'a> Vm<'a> {
    /// A machine with a new disk, switched off.
    pub(super) fn new(
        machine: &'a Machine,
        builder: &'a Builder,
        raw: &Path,
        settings: Settings,
    ) -> Result<Self> {
        let place = tempfile::Builder::new().prefix("pc-vm-").tempdir().context("make a directory")?;
        let port = process::free_port()?;
        let wiring = if settings.cards.is_empty() { None } else { Some(Wiring::new(&settings.cards)?) };
        let started = Instant::now();
        let vm = Self {
            machine,
            builder,
            settings,
            place,
            port,
            qemu: None,
            wiring,
            started,
            ejected: false,
            keyboard: None,
        };
        match vm.settings.medium {
            Some(_) => formats::empty_disk(&vm.file("disk.raw"))?,
            None => formats::disk(raw, &vm.file("disk.raw"))?,
        }
        if !vm.settings.on_disk.is_empty() {
            esp::tell(builder, vm.place.path(), &vm.settings.on_disk)?;
        }
        let variables = if vm.settings.secure_boot {
            keys::enrolled(builder, VARIABLES)?
        } else {
            builder.file(VARIABLES)
        };
        fs::copy(variables, vm.file("variables.fd")).context("copy the firmware's variables")?;
        for user in USERS {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", &format!("{user}@test"), "-f"]);
            process::run(keygen.arg(vm.file(user)), MOMENT)?.ok()?;
        }
        Ok(vm)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Switches it on.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.qemu.is_some() {
            bail!("the machine is on already");
        }
        let mut qemu = self.machine.qemu();
        let secure = self.settings.secure_boot;
        let machine = if secure { "q35,smm=on" } else { "q35" };
        qemu.args(["-accel", "tcg,thread=multi", "-machine", machine, "-cpu", "max", "-smp", PROCESSORS]);
        qemu.args(["-m", MEMORY, "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
        let log = self.file(CONSOLE);
        if self.settings.answered {
            let (socket, log) = (self.file(SOCKET), log.display().to_string());
            let line = format!("socket,id=line,path={},server=on,wait=off,logfile={log}", socket.display());
            qemu.args(["-chardev", &line, "-serial", "chardev:line"]);
        } else {
            qemu.args(["-serial", &format!("file:{}", log.display())]);
        }
        if secure {
            qemu.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        let code = self.builder.file(if secure { CODE_SECURE } else { CODE });
        qemu.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", code.display())]);
        qemu.args(["-drive", &format!("if=pflash,format=raw,file={}", self.file("variables.fd").display())]);
        let disk = self.file("disk.raw");
        qemu.args(["-drive", &format!("if=none,id=disk,format=raw,discard=unmap,file={}", disk.display())]);
        qemu.args(["-device", "virtio-blk-pci,drive=disk,bootindex=1"]);
        match &self.wiring {
            Some(wiring) => {
                qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", self.file(MONITOR).display())]);
                qemu.args(wiring.cards())
            }
            None => {
                // Nothing of the guest's gets out: it has the emulated network to itself.
                let forward = format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22", self.port);
                qemu.args(["-netdev", &forward, "-device", "virtio-net-pci,netdev=net,romfile="])
            }
        };
        qemu.args(["-device", "virtio-rng-pci"]);
        if let Some((medium, iso)) = &self.settings.medium {
            qemu.args([
                "-drive",
                &format!("if=none,id=medium,format=raw,readonly=on,file={}", iso.display()),
            ]);
            match medium {
                Medium::Cd => qemu.args(["-device", "ide-cd,drive=medium,bootindex=0"]),
                Medium::Usb => {
                    qemu.args(["-device", "qemu-xhci", "-device", "usb-storage,drive=medium,bootindex=0"])
                }
            };
        }
        if !self.settings.seed.is_empty() {
            let iso =
                seed::volume(self.builder, &self.settings.seed, &self.file("admin.pub"), self.place.path())?;
            qemu.args(["-drive", &format!("if=none,id=seed,format=raw,readonly=on,file={}", iso.display())]);
            qemu.args(["-device", "ide-cd,drive=seed"]);
        }
        for (name, value) in self.told()? {
            let value = STANDARD.encode(value);
            let value = format!("type=11,value=io.systemd.credential.binary:{name}={value}");
            qemu.args(["-smbios", &value]);
        }
        if let Some(more) = &self.settings.command_line {
            qemu.args(["-smbios", &format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={more}")]);
        }
        if let Some(wiring) = &self.wiring {
            qemu = wiring.around(&qemu);
        }
        self.keyboard = None;
        self.started = Instant::now();
        self.qemu = Some(Child::spawn("qemu", &mut qemu, self.place.path())?);
        Ok(())
    }

    /// What the hypervisor tells: the users' keys and what the scenario says.
    fn told(&self) -> Result<Vec<(String, String)>> {
        if self.ejected {
            return Ok(Vec::new());
        }
        let mut told = self.settings.credentials.clone();
        for user in USERS.into_iter().filter(|_| !self.settings.without_keys) {
            let public = fs::read_to_string(self.file(&format!("{user}.pub"))).context("read the key")?;
            told.push((format!("appliance.{user}-keys"), public));
        }
        Ok(told)
    }

    /// Takes the medium out; from then on the machine knows only what the installer has left.
    pub(super) fn eject(&mut self) -> Result<()> {
        if self.qemu.is_some() {
            bail!("the machine is on");
        }
        self.ejected = true;
        self.settings.medium.take().map(drop).context("there is no medium in the machine")
    }

    /// Waits until an administrator gets in; returns how long that took from the start.
    pub(super) fn wait_for_ssh(&mut self, limit: Duration) -> Result<Duration> {
        let begun = self.started;
        let answered = wait::attempt(limit, "SSH to the appliance", || {
            let mut ssh = self.ssh_command(&Visit::default(), "show version", ATTEMPT)?;
            // A machine that is off will not answer.
            if let Some(status) = self.qemu.as_mut().and_then(|qemu| qemu.try_status().transpose()) {
                bail!("QEMU ended with {}", status?);
            }
            // An attempt that takes too long is no failure: a busy machine may be quicker the next time.
            let inside = process::run(&mut ssh, ATTEMPT * 2).is_ok_and(|output| output.success());
            Ok::<_, anyhow::Error>(inside.then(|| begun.elapsed()))
        });
        answered.map_err(|error| self.with_console(&error))
    }

    /// The networks around it, where it has cards.
    pub(super) fn wiring(&self) -> Option<&Wiring> {
        self.wiring.as_ref()
    }

    /// Takes the cable out of a card, or puts it in.
    pub(super) fn cable(&self, card: usize, plugged: bool) -> Result<()> {
        monitor::cable(&self.file(MONITOR), card, plugged)
    }

    /// How long ago it was switched on.
    pub(super) fn on_for(&self) -> Duration {
        self.started.elapsed()
    }

    fn ssh_command(&self, visit: &Visit<'_>, line: &str, patience: Duration) -> Result<Command> {
        let (mut ssh, address, port) = match &self.wiring {
            None => (Command::new("ssh"), Ipv4Addr::LOCALHOST.into(), self.port),
            Some(wiring) => {
                let (ssh, address) = wiring.administrators("ssh")?;
                (ssh, address, 22)
            }
        };
        ssh.args(["-F", "none", "-p", &port.to_string(), "-i"]).arg(self.file(visit.user));
        // What is said first counts.
        ssh.args(visit.options);
        // The host key of the first time must be that of all times.
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", self.file("known_hosts").display()));
        for option in ["StrictHostKeyChecking=accept-new", "BatchMode=yes", "IdentitiesOnly=yes"] {
            ssh.args(["-o", option]);
        }
        ssh.args(["-o", &format!("ConnectTimeout={}", patience.as_secs())]);
        ssh.arg(format!("{}@{address}", visit.user));
        if !line.is_empty() {
            // Behind this nothing is an option of ssh's.
            ssh.args(["--", &seed::with_keys_of_users(line, |user| self.file(&format!("{user}.pub")))?]);
        }
        Ok(ssh)
    }

    /// Runs a line of the appliance's command line as the administrator.
    pub(super) fn ssh(&self, line: &str, limit: Duration) -> Result<Output> {
        self.visit(&Visit::default(), line, limit)
    }

    /// The same without much patience.
    pub(super) fn attempt(&self, visit: &Visit<'_>, line: &str) -> Result<Output> {
        process::run(&mut self.ssh_command(visit, line, ATTEMPT)?, ATTEMPT * 2)
    }

    /// Runs a line, or what the options say where there is none.
    pub(super) fn visit(&self, visit: &Visit<'_>, line: &str, limit: Duration) -> Result<Output> {
        process::run(&mut self.ssh_command(visit, line, limit)?, limit)
    }

    /// Runs a line that gets a file on its standard input.
    pub(super) fn hand_over(
        &self,
        visit: &Visit<'_>,
        line: &str,
        file: &Path,
        limit: Duration,
    ) -> Result<Output> {
        process::run(&mut fed(&self.ssh_command(visit, line, MOMENT)?, file), limit)
    }

    /// The same, and takes the power away when the console says something.
    pub(super) fn cut_during(
        &mut self,
        visit: &Visit<'_>,
        line: &str,
        file: Option<&Path>,
        text: &str,
        limit: Duration,
    ) -> Result<()> {
        let mut ssh = self.ssh_command(visit, line, MOMENT)?;
        if let Some(file) = file {
            ssh = fed(&ssh, file);
        }
        let ssh = Child::spawn("ssh", &mut ssh, self.place.path())?;
        self.wait_for_console(text, limit).map_err(|error| ssh.with_log(&error))?;
        self.cut_power()
    }

    /// Whether it has switched itself off, or would start again.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        let Some(qemu) = self.qemu.as_mut() else { return Ok(true) };
        match qemu.try_status()? {
            Some(status) if status.success() => {
                self.qemu = None;
                Ok(true)
            }
            Some(status) => bail!("QEMU ended with {status}"),
            None => Ok(false),
        }
    }

    /// The appliance's command line as the administrator has it on a terminal.
    pub(super) fn terminal(&self) -> Result<Terminal> {
        let options = ["-t".to_owned()];
        let visit = Visit { options: &options, ..Visit::default() };
        Terminal::start(&self.ssh_command(&visit, "", MOMENT)?, 100, 30)
    }

    /// Some text must not have been on the console so far.
    pub(super) fn check_console_is_without(&self, text: &str) -> Result<()> {
        match self.console().lines().find(|line| line.contains(text)) {
            Some(line) => Err(self.with_console(&anyhow!("the console says: {line}"))),
            None => Ok(()),
        }
    }

    /// Takes its power away: nothing is told to the guest.
    pub(super) fn cut_power(&mut self) -> Result<()> {
        let mut qemu = self.qemu.take().context("the machine is off")?;
        qemu.signal(Signal::SIGKILL)?;
        qemu.wait(MOMENT).map(drop)
    }

    /// Waits until it has switched itself off; a restart is an end too (`-no-reboot`).
    pub(super) fn wait_for_end(&mut self, limit: Duration) -> Result<()> {
        let mut qemu = self.qemu.take().context("the machine is off")?;
        let ended = qemu.wait(limit);
        let ended = ended.map_err(|error| self.with_console(&error))?;
        if ended.success() { Ok(()) } else { bail!("QEMU ended with {ended}") }
    }

    /// Waits for a text on the console.
    pub(super) fn wait_for_console(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("`{text}` on the console");
        let found = wait::attempt(limit, &what, || {
            let ended = self.qemu.as_mut().and_then(|qemu| qemu.try_status().transpose()).transpose()?;
            if self.console().contains(text) {
                return Ok(Some(()));
            }
            match ended {
                Some(status) => bail!("QEMU ended with {status}"),
                None => Ok(None),
            }
        });
        found.map_err(|error| self.with_console(&error))
    }

    /// Types a line at the console.
    pub(super) fn answer(&mut self, text: &str) -> Result<()> {
        let text = seed::with_key(text, &self.file("admin.pub"))?;
        if self.keyboard.is_none() {
            self.keyboard = Some(Keyboard::at(&self.file(SOCKET))?);
        }
        self.keyboard.as_mut().map_or(Ok(()), |keyboard| keyboard.line(&text))
    }

    /// The disk, which nobody else may use at the same time.
    fn disk(&self) -> Result<PathBuf> {
        if self.qemu.is_some() {
            bail!("the machine is on");
        }
        Ok(self.file("disk.raw"))
    }

    /// Changes bytes in the middle of the root file system, as somebody with the disk in his hands could.
    pub(super) fn tamper(&self) -> Result<()> {
        let disk = File::options().read(true).write(true).open(self.disk()?);
        let disk = disk.context("open the disk")?;
        // Every 64 KiB, so that a block that every start reads is among them.
        let mut block = [0; 8];
        for offset in (0..ROOT_BYTES).step_by(64 << 10) {
            disk.read_exact_at(&mut block, ROOT_OFFSET + offset).context("read the disk")?;
            // The last bytes are padding, which no one reads.
            if block != [0; 8] {
                block.iter_mut().for_each(|byte| *byte ^= 0xff);
                disk.write_all_at(&block, ROOT_OFFSET + offset).context("write to the disk")?;
            }
        }
        Ok(())
    }

    /// Signs the boot loader or the kernel image on the disk anew.
    pub(super) fn sign(&self, what: Signed, by: Signer) -> Result<()> {
        signature::sign(self.builder, &self.disk()?, what, by)
    }

    /// Leaves no room on the state partition, as a disk that has run full.
    pub(super) fn fill(&self) -> Result<()> {
        State::find(self.builder, &self.disk()?)?.fill()
    }

    /// Gives the room back.
    pub(super) fn empty(&self) -> Result<()> {
        State::find(self.builder, &self.disk()?)?.empty()
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.file(CONSOLE)).unwrap_or_default()).into_owned()
    }

    /// An error with the end of the console and what QEMU said; the console is kept.
    fn with_console(&self, error: &anyhow::Error) -> anyhow::Error {
        let console = self.console();
        if let Ok(directory) = builder::directory() {
            // It helps to look at; that it cannot be kept is no reason for another error.
            drop(fs::write(directory.join(CONSOLE), &console));
        }
        let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n");
        let said = self.qemu.as_ref().map(Child::log_tail).unwrap_or_default();
        anyhow!("{error:#}; the console is target/image/{CONSOLE}, at its end:\n{tail}\n{said}")
    }
}

/// The same command with a file on its standard input.
fn fed(command: &Command, file: &Path) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-ec", "file=$1; shift; exec \"$@\" <\"$file\"", "sh"]).arg(file);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

const CODE: &str = "usr/share/OVMF/OVMF_CODE_4M.fd";
const CODE_SECURE: &str = "usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
const VARIABLES: &str = "usr/share/OVMF/OVMF_VARS_4M.fd";
