//! Scenarios: what must be true of the booted appliance, one file each in `appliance-image/scenarios`.
//!
//! A scenario has a machine of its own, and steps in order; the first that fails ends it.

mod outside;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use portcullis_tests::{netns, process, wait};
use serde::Deserialize;

use super::build::{Built, Kernel};
use super::builder::Builder;
use super::installer;
use super::release;
use super::signature::{Signed, Signer};
use super::vm::{self, Medium, Settings, Visit, Vm};
use super::wiring::Card;
use crate::boot::debian::{self, Machine};
use crate::shell;
use outside::{Certificate, Expected, Outside, Run, Start};
pub(crate) use report::Report;
use report::{Image, Measured, Outcome, Row};

const DIRECTORY: &str = "appliance-image/scenarios";
/// From power on to SSH. A minute on an idle machine; this one may be busy.
const BOOT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// What an administrator is asked with.
const PROMPT: &str = "# ";
/// For a text on the console, which may be the end of an installation.
const CONSOLE_LIMIT: Duration = Duration::from_secs(40 * 60);
/// For handing over an update and writing it to the disk: 100 MiB, emulated.
const UPDATE_LIMIT: Duration = Duration::from_secs(25 * 60);
/// For a version that is tried in vain: as often as it is, each time as long as it may take.
const RESTARTS_LIMIT: Duration = Duration::from_secs(60 * 60);
const LINE_LIMIT: Duration = Duration::from_secs(120);
/// For what is awaited: a trial commit may have to end first.
const AWAIT_LIMIT: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    about: String,
    /// Whether `cargo xtask test` runs it.
    #[serde(default)]
    quick: bool,
    /// Whether the firmware starts only what is signed with the keys in `target/image/keys`.
    #[serde(default)]
    secure_boot: bool,
    /// Which kernel the image must have; any when absent.
    kernel: Option<Kernel>,
    /// Starts the installation medium on a machine with an empty disk.
    medium: Option<Medium>,
    command_line: Option<String>,
    #[serde(default)]
    credentials: BTreeMap<String, String>,
    /// Credentials on the system partition of the disk.
    #[serde(default)]
    on_disk: BTreeMap<String, String>,
    /// Whether nobody's keys are among the credentials.
    #[serde(default)]
    without_keys: bool,
    /// Files of a NoCloud volume; `{key}` in them is the administrator's public key.
    #[serde(default)]
    seed: BTreeMap<String, String>,
    /// The machine's network cards; without any it has one on QEMU's own network, by which SSH comes.
    #[serde(default)]
    card: Vec<Card>,
    #[serde(default)]
    certificate: BTreeMap<String, Certificate>,
    /// Outside of the machine, by their names.
    #[serde(default)]
    files: BTreeMap<String, String>,
    step: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum Step {
    /// Switch on and wait until an administrator gets in.
    Boot,
    /// Switch on.
    Start,
    /// Wait for a text on the console, and type an answer; `{key}` in it is the administrator's public key.
    Console { text: String, answer: Option<String> },
    /// Take the power away.
    CutPower,
    /// Wait until it has switched itself off, or would start again.
    Ended,
    /// Let it start again as often as it wants to, until an administrator gets in and a line prints what is expected.
    Restarts { run: String, expect: String },
    /// Take the installation medium out.
    Eject,
    /// Change the root file system on the disk.
    Tamper,
    /// Sign the boot loader or the kernel image on the disk anew, as somebody with the disk in his hands could.
    Sign { what: Signed, by: Signer },
    /// Some text must not have been on the console.
    Silent { text: String },
    /// Run a line of the appliance's command line: it must succeed, or fail, and print what is expected.
    Ssh {
        /// Empty where options of ssh say what is tried. `{key:USER}` is a user's public key, `{print:USER}` its fingerprint.
        #[serde(default)]
        run: String,
        /// Whose key: `admin`, `operator` or `viewer`.
        #[serde(default = "administrator", rename = "as")]
        user: String,
        /// More for ssh(1).
        #[serde(default)]
        options: Vec<String>,
        /// The update of a trial (`cargo xtask image --trials`) that is handed over on standard input.
        update: Option<String>,
        /// A file from outside that is handed over.
        input: Option<String>,
        /// The power is taken away when the console says this, while the line runs.
        cut_at: Option<String>,
        #[serde(default)]
        expect: Vec<String>,
        #[serde(default)]
        refuse: Vec<String>,
        #[serde(default)]
        fails: bool,
    },
    /// Type on a terminal, over SSH: keys, each followed by a return, and what must be shown then.
    Type {
        keys: Vec<(String, String)>,
        #[serde(default)]
        refuse: Vec<String>,
    },
    /// Wait until a line prints what is expected.
    Await {
        run: String,
        expect: String,
        /// More for ssh(1).
        #[serde(default)]
        options: Vec<String>,
    },
    /// Report how much memory is in use.
    Measure,
    /// Run a program outside of the machine: it must succeed, or fail, and print what is expected.
    Run(Run),
    /// Start a program outside of the machine.
    Serve(Start),
    /// Stop it again.
    Stop { name: String },
    /// Take the cable out of a card, or put it in.
    Cable { card: usize, plugged: bool },
    /// Fill the state partition to the last block, with the machine switched off.
    Fill,
    /// Give the room back.
    Empty,
}

fn administrator() -> String {
    vm::ADMINISTRATOR.to_owned()
}

impl Scenario {
    /// Why it cannot be run on this machine or with this image.
    fn impossible(&self, built: &Built) -> Option<String> {
        if self.secure_boot && !built.signed {
            return Some("the image is not signed: cargo xtask image --secure-boot".to_owned());
        }
        if !self.card.is_empty()
            && let Err(reason) = netns::available()
        {
            return Some(format!("network namespaces are not allowed here: {reason}"));
        }
        if self.medium.is_some() && installer::find().is_none() {
            return Some("there is no installation medium: cargo xtask image --format iso".to_owned());
        }
        if let Some(update) = self.missing() {
            return Some(format!("there is no update `{update}`: cargo xtask image --trials"));
        }
        match (self.kernel?, built.boots) {
            (wanted, found) if wanted == found => None,
            (Kernel::Cloud, _) => Some("the image is for bare metal: cargo xtask image".to_owned()),
            (Kernel::Full, _) => {
                Some("the image is for virtual machines: cargo xtask image --kernel full".to_owned())
            }
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{}", path.display()))
    }

    /// An update that it needs and that was not built.
    fn missing(&self) -> Option<String> {
        let mut named = self.step.iter().filter_map(|step| match step {
            Step::Ssh { update, .. } => update.as_deref(),
            _ => None,
        });
        let mut served = release::TRIALS
            .into_iter()
            .filter(|name| self.files.values().any(|text| text.contains(&outside::word_of(name))));
        let built = |name: &&str| release::trial(name).is_ok_and(|path| path.is_file());
        named.find(|name| !built(name)).or_else(|| served.find(|name| !built(name))).map(str::to_owned)
    }
}

/// All scenarios by name.
pub(super) fn all() -> Result<BTreeMap<String, Scenario>> {
    let directory = process::repository().join(DIRECTORY);
    let mut scenarios = BTreeMap::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("list {DIRECTORY}"))? {
        let path = entry.context("list the scenarios")?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        scenarios.insert(name, Scenario::read(&path)?);
    }
    Ok(scenarios)
}

/// Which scenarios to run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Choice<'a> {
    All,
    /// Those that `cargo xtask test` runs.
    Quick,
    Named(&'a [String]),
}

/// Runs scenarios on the image that was built last; skipped where there is none.
pub(crate) fn run(choice: Choice<'_>) -> Result<Report> {
    let scenarios = all()?;
    if let Choice::Named(names) = choice
        && let Some(unknown) = names.iter().find(|name| !scenarios.contains_key(name.as_str()))
    {
        let known: Vec<&str> = scenarios.keys().map(String::as_str).collect();
        bail!("there is no scenario `{unknown}`; there are: {}", known.join(", "));
    }
    let chosen = |name: &str, scenario: &Scenario| match choice {
        Choice::All => true,
        Choice::Quick => scenario.quick,
        Choice::Named(names) => names.iter().any(|named| named == name),
    };
    let chosen: Vec<_> = scenarios.iter().filter(|(name, scenario)| chosen(name, scenario)).collect();
    let skipped = |why: &str| Ok(Report::skipped(chosen.iter().map(|(name, _)| name.as_str()), why));
    let (Some(builder), Ok(built)) = (Builder::find(), Built::find()) else {
        return skipped("no image of the appliance to boot: run `cargo xtask image`");
    };
    let machine = match debian::ensure(None, false) {
        Ok(machine) => machine,
        Err(error) => return skipped(&format!("no QEMU to boot the appliance in: {error:#}")),
    };
    let mut report = Report { image: Some(Image::of(&built)?), ..Report::default() };
    for (name, scenario) in chosen {
        report.scenarios.push(if wait::interrupted() {
            Row::skipped(name, "interrupted before it began")
        } else {
            row(&machine, &builder, &built, name, scenario)
        });
    }
    Ok(report)
}

fn row(machine: &Machine, builder: &Builder, built: &Built, name: &str, scenario: &Scenario) -> Row {
    let mut measured = Measured::new();
    let begun = Instant::now();
    let (outcome, why) = match scenario.impossible(built) {
        Some(why) => (Outcome::Skipped, Some(why)),
        None => {
            shell::say(&format!("── {name}: {}", scenario.about));
            match perform(machine, builder, built, scenario, &mut measured) {
                Ok(()) => (Outcome::Passed, None),
                Err(error) => (Outcome::Failed, Some(format!("{error:#}"))),
            }
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    if outcome == Outcome::Passed {
        shell::say(&format!("{name}: ok, {seconds:.0} s"));
    }
    Row { name: name.to_owned(), outcome, why, seconds, measured }
}

fn perform(
    machine: &Machine,
    builder: &Builder,
    built: &Built,
    scenario: &Scenario,
    measured: &mut Measured,
) -> Result<()> {
    let outside = Outside::new()?;
    outside.write(&scenario.files)?;
    let given = outside.issue(&scenario.certificate)?;
    let settings = Settings {
        credentials: scenario.credentials.clone().into_iter().chain(given).collect(),
        command_line: scenario.command_line.clone(),
        secure_boot: scenario.secure_boot,
        cards: scenario.card.clone(),
        medium: scenario.medium.zip(installer::find()),
        on_disk: scenario.on_disk.clone(),
        without_keys: scenario.without_keys,
        seed: scenario.seed.clone(),
        answered: scenario.step.iter().any(|step| matches!(step, Step::Console { answer: Some(_), .. })),
    };
    let vm = Vm::new(machine, builder, &built.raw, settings)?;
    // Programs outside end before the networks go that they are in.
    let mut stage = Stage { outside, vm, measured };
    for (number, step) in scenario.step.iter().enumerate() {
        let at = || format!("step {}, {step:?}", number + 1);
        stage.take(step).with_context(at)?;
    }
    Ok(())
}

/// What the steps act on.
struct Stage<'a> {
    outside: Outside,
    vm: Vm<'a>,
    measured: &'a mut Measured,
}

impl Stage<'_> {
    fn take(&mut self, step: &Step) -> Result<()> {
        let vm = &mut self.vm;
        match step {
            Step::Boot => {
                vm.start()?;
                let took = vm.wait_for_ssh(BOOT_LIMIT)?;
                shell::say(&format!("  SSH answered after {:.1} s", took.as_secs_f64()));
                // Of the first start, in which the machine is made.
                self.measured.entry("ssh_seconds".to_owned()).or_insert(took.as_secs_f64());
                Ok(())
            }
            Step::Start => vm.start(),
            Step::Console { text, answer } => {
                vm.wait_for_console(text, CONSOLE_LIMIT)?;
                answer.as_deref().map_or(Ok(()), |answer| vm.answer(answer))
            }
            Step::CutPower => vm.cut_power(),
            Step::Ended => vm.wait_for_end(LINE_LIMIT),
            Step::Eject => vm.eject(),
            Step::Tamper => vm.tamper(),
            Step::Sign { what, by } => vm.sign(*what, *by),
            Step::Silent { text } => vm.check_console_is_without(text),
            Step::Restarts { run, expect } => restarts(vm, run, expect),
            Step::Ssh { run, user, options, update, cut_at: Some(cut_at), .. } => {
                let update = update.as_deref().map(release::trial).transpose()?;
                vm.cut_during(&Visit { user, options }, run, update.as_deref(), cut_at, UPDATE_LIMIT)
            }
            Step::Ssh { run, user, options, update, input, expect, refuse, fails, cut_at: None } => {
                let visit = Visit { user, options };
                let update = update.as_deref().map(release::trial).transpose()?;
                let output = match update.or_else(|| input.as_deref().map(|name| self.outside.file(name))) {
                    Some(file) => vm.hand_over(&visit, run, &file, UPDATE_LIMIT)?,
                    // It may have to fetch.
                    None if run.starts_with("update ") => vm.visit(&visit, run, UPDATE_LIMIT)?,
                    None => vm.visit(&visit, run, LINE_LIMIT)?,
                };
                let said = format!("{}{}", output.stdout, output.stderr);
                outside::check(&Expected { fails: *fails, expect, refuse }, output.success(), &said)
            }
            Step::Type { keys, refuse } => type_keys(vm, keys, refuse),
            Step::Await { run, expect, options } => await_line(vm, run, expect, options),
            Step::Measure => self.measure(),
            Step::Run(run) => {
                self.outside.run(vm.wiring(), run)?;
                if let Some(name) = &run.measure {
                    let on = vm.on_for().as_secs_f64();
                    shell::say(&format!("  {name}: {on:.1} s after power on"));
                    self.measured.insert(format!("{name}_seconds"), on);
                }
                Ok(())
            }
            Step::Serve(start) => self.outside.start(vm.wiring(), start),
            Step::Stop { name } => self.outside.stop(name),
            Step::Cable { card, plugged } => vm.cable(*card, *plugged),
            Step::Fill => vm.fill(),
            Step::Empty => vm.empty(),
        }
    }

    fn measure(&mut self) -> Result<()> {
        let said = self.vm.ssh("show system --json", LINE_LIMIT)?.ok()?.stdout;
        let system: serde_json::Value = serde_json::from_str(&said).context("read `show system`")?;
        let memory = system["memory_used_mib"].as_f64().context("`show system` tells no memory in use")?;
        shell::say(&format!("  {memory:.0} MiB of memory in use"));
        self.measured.insert("memory_used_mib".to_owned(), memory);
        Ok(())
    }
}

fn await_line(vm: &Vm<'_>, run: &str, expect: &str, options: &[String]) -> Result<()> {
    let mut last = String::new();
    let found = wait::attempt(AWAIT_LIMIT, expect, || {
        // Nobody may get in for now: the next attempt may.
        let Ok(output) = vm.attempt(&Visit { options, ..Visit::default() }, run) else { return Ok(None) };
        last = format!("{}{}", output.stdout, output.stderr);
        Ok::<_, anyhow::Error>(last.contains(expect).then_some(()))
    });
    found.with_context(|| format!("it said last: {}", last.trim()))
}

fn restarts(vm: &mut Vm<'_>, run: &str, expect: &str) -> Result<()> {
    let mut starts = 0_u32;
    let mut last = String::new();
    let found = wait::attempt(RESTARTS_LIMIT, expect, || {
        if vm.has_ended()? {
            starts += 1;
            shell::say(&format!("  it starts again, for the {starts}. time"));
            vm.start()?;
        }
        // Nobody may get in for now: the next attempt may.
        let Ok(output) = vm.attempt(&Visit::default(), run) else { return Ok(None) };
        last = format!("{}{}", output.stdout, output.stderr);
        Ok::<_, anyhow::Error>(last.contains(expect).then_some(()))
    });
    found.with_context(|| format!("after {starts} starts it said last: {}", last.trim()))
}

fn type_keys(vm: &Vm<'_>, keys: &[(String, String)], refuse: &[String]) -> Result<()> {
    let mut terminal = vm.terminal()?;
    let mut shown = terminal.expect(PROMPT)?;
    for (at, (typed, expected)) in keys.iter().enumerate() {
        if at.checked_sub(1).and_then(|before| keys.get(before)).is_some_and(|(_, answer)| answer != PROMPT) {
            // What is typed before the line editor asks for it is lost.
            shown += &terminal.expect(PROMPT)?;
        }
        terminal.send(typed)?;
        terminal.send("\r")?;
        shown += &terminal.expect(expected)?;
    }
    match refuse.iter().find(|text| shown.contains(text.as_str())) {
        Some(wrong) => bail!("it showed `{wrong}`: {shown}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_can_be_read_and_begins_with_a_machine_that_is_switched_on() {
        let scenarios = all().unwrap();
        assert!(scenarios.values().any(|scenario| scenario.quick));
        for (name, scenario) in scenarios {
            assert!(!scenario.about.is_empty(), "{name}");
            let before = |step: &&Step| {
                matches!(step, Step::Tamper | Step::Sign { .. } | Step::Run(_) | Step::Serve(_))
            };
            let first = scenario.step.iter().find(|step| !before(step));
            assert!(matches!(first, Some(Step::Boot | Step::Start)), "{name}");
            for step in &scenario.step {
                let Step::Ssh { update: Some(update), .. } = step else { continue };
                assert!(release::TRIALS.contains(&update.as_str()), "{name}: {update}");
            }
        }
    }

    #[test]
    fn a_step_that_nobody_knows_is_refused() {
        let scenario = "about = \"x\"\n[[step]]\ndo = \"hope\"\n";
        assert!(toml::from_str::<Scenario>(scenario).is_err());
    }
}
