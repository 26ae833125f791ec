//! What a scenario has outside of the machine: files, certificates, and programs in the places around it.
//!
//! In texts and arguments `{dir}` is the directory of the scenario's files, `{repository}` that of the sources, `{update-NAME}` that
//! of a trial's update, and `{portcullis}` and `{portcullisd}` are our programs, as they were built for this machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_tests::pki::{Authority, Leaf, Validity};
use portcullis_tests::process::{self, Child};
use portcullis_tests::wait;
use serde::Deserialize;
use tempfile::TempDir;

use crate::image::release;
use crate::image::wiring::Wiring;

/// Of certificates that are given to the machine.
const AUTHORITY: &str = "authority of the scenario";
/// Beside the machine's configuration.
const CERTIFICATES: &str = "/var/lib/appliance/configuration";
/// systemd-tmpfiles(8) takes lines from it, and makes the files that they name.
const CREDENTIAL: &str = "tmpfiles.extra";
const DAY: Duration = Duration::from_secs(86_400);
/// For a program that is to end, on a machine that emulates another one.
const RUN_LIMIT: Duration = Duration::from_secs(10 * 60);
/// For one that is run until it says what it should.
const AWAIT_LIMIT: Duration = Duration::from_secs(10 * 60);
const START_LIMIT: Duration = Duration::from_secs(60);

/// A certificate of the machine: `NAME.crt` and `NAME.key` beside its configuration, from the first boot on.
/// Who issued it is `ca.pem` there, and in `{dir}`; so are certificate and key, for programs outside.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    names: Vec<String>,
    /// How long it is still valid; many years when absent.
    days: Option<u32>,
    /// Of a program outside instead: `{dir}/NAME.crt` and `{dir}/NAME.key`.
    #[serde(default)]
    outside: bool,
}

/// A program that runs to its end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// In the network of this place.
    at: String,
    run: Vec<String>,
    /// Its standard output becomes this file, which only we may read.
    output: Option<String>,
    #[serde(default)]
    expect: Vec<String>,
    #[serde(default)]
    refuse: Vec<String>,
    #[serde(default)]
    fails: bool,
    /// Again and again, until it is as expected.
    #[serde(default)]
    again: bool,
    /// How long the machine has been on when this is done is reported under this name.
    pub(super) measure: Option<String>,
}

/// A program that goes on until it is stopped or the scenario ends.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    at: String,
    name: String,
    run: Vec<String>,
    /// It is there when it listens on this port.
    port: u16,
}

#[derive(Debug)]
pub(super) struct Outside {
    // Programs end before their files go.
    running: BTreeMap<String, Child>,
    dir: TempDir,
}

impl Outside {
    pub(super) fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pc-outside-").tempdir().context("make a directory")?;
        Ok(Self { running: BTreeMap::new(), dir })
    }

    /// Writes a scenario's files.
    pub(super) fn write(&self, files: &BTreeMap<String, String>) -> Result<()> {
        for (name, text) in files {
            let path = self.dir.path().join(name);
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory).context("make a directory for a file")?;
            }
            fs::write(&path, self.filled(text)?).with_context(|| format!("write {name}"))?;
        }
        Ok(())
    }

    /// Makes certificates and returns the credential that brings them to the machine.
    pub(super) fn issue(
        &self,
        certificates: &BTreeMap<String, Certificate>,
    ) -> Result<Option<(String, String)>> {
        if certificates.is_empty() {
            return Ok(None);
        }
        let authority = Authority::root(AUTHORITY)?;
        authority.write(&self.dir.path().join("ca.pem"))?;
        let beside = |name: &str, text: &str| {
            let text = STANDARD.encode(text);
            format!("f~ {CERTIFICATES}/{name} 0640 portcullis portcullis - {text}\n")
        };
        let mut lines = beside("ca.pem", authority.pem());
        for (name, certificate) in certificates {
            let validity = certificate.days.map_or(Validity::Current, |days| Validity::EndsIn(DAY * days));
            let leaf = Leaf { names: certificate.names.clone(), validity, ..Leaf::default() };
            let identity = authority.issue(&leaf)?;
            identity.write(self.dir.path(), name)?;
            if certificate.outside {
                continue;
            }
            for (ending, text) in [("crt", &identity.chain), ("key", &identity.key)] {
                lines += &beside(&format!("{name}.{ending}"), text);
            }
        }
        Ok((!lines.is_empty()).then(|| (CREDENTIAL.to_owned(), lines)))
    }

    /// Where one of the scenario's files is.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn run(&self, wiring: Option<&Wiring>, run: &Run) -> Result<()> {
        if !run.again {
            return self.once(wiring, run);
        }
        let mut last = None;
        let found = wait::attempt(AWAIT_LIMIT, "a program to do as expected", || {
            last = self.once(wiring, run).err();
            Ok::<_, anyhow::Error>(last.is_none().then_some(()))
        });
        found.with_context(|| last.map(|error| format!("{error:#}")).unwrap_or_default())
    }

    fn once(&self, wiring: Option<&Wiring>, run: &Run) -> Result<()> {
        let mut command = self.command(wiring, &run.at, &run.run)?;
        let output = process::run(&mut command, RUN_LIMIT)?;
        if let Some(name) = &run.output {
            self.keep(name, &output.stdout)?;
        }
        let said = if run.output.is_some() {
            output.stderr.clone()
        } else {
            format!("{}{}", output.stdout, output.stderr)
        };
        check(
            &Expected { fails: run.fails, expect: &run.expect, refuse: &run.refuse },
            output.success(),
            &said,
        )
    }

    fn keep(&self, name: &str, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.path().join(name);
        fs::write(&path, text).with_context(|| format!("write {name}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("keep a file to ourselves")
    }

    pub(super) fn start(&mut self, wiring: Option<&Wiring>, start: &Start) -> Result<()> {
        let mut command = self.command(wiring, &start.at, &start.run)?;
        let mut child = Child::spawn(&start.name, &mut command, self.dir.path())?;
        child.wait_for_listen(start.port, START_LIMIT)?;
        self.running.insert(start.name.clone(), child);
        Ok(())
    }

    pub(super) fn stop(&mut self, name: &str) -> Result<()> {
        let mut child = self.running.remove(name).with_context(|| format!("nothing called `{name}` runs"))?;
        child.stop(START_LIMIT).map(drop)
    }

    fn command(&self, wiring: Option<&Wiring>, place: &str, words: &[String]) -> Result<Command> {
        let wiring = wiring.context("a scenario whose programs are in places has cards")?;
        let words = words.iter().map(|word| self.filled(word)).collect::<Result<Vec<String>>>()?;
        let (program, arguments) = words.split_first().context("there is nothing to run")?;
        let Some(program) = process::find_program(program) else {
            bail!("{program} is missing: cargo xtask setup");
        };
        let mut command = wiring.place(place)?.command(text(&program)?);
        command.args(arguments).current_dir(self.dir.path());
        Ok(command)
    }

    fn filled(&self, template: &str) -> Result<String> {
        let mut filled = template.replace("{dir}", text(self.dir.path())?);
        filled = filled.replace("{repository}", text(process::repository())?);
        for trial in release::TRIALS {
            filled = filled.replace(&word_of(trial), text(&release::trial_directory(trial)?)?);
        }
        for name in ["portcullis", "portcullisd"] {
            let word = format!("{{{name}}}");
            if filled.contains(&word) {
                filled = filled.replace(&word, text(&process::binary(name)?)?);
            }
        }
        Ok(filled)
    }
}

/// What stands for the directory of a trial's update.
pub(super) fn word_of(trial: &str) -> String {
    format!("{{update-{trial}}}")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

/// What a line or a program must come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) fails: bool,
    pub(super) expect: &'a [String],
    pub(super) refuse: &'a [String],
}

pub(super) fn check(expected: &Expected<'_>, success: bool, said: &str) -> Result<()> {
    if success == expected.fails {
        let how = if expected.fails { "succeeded" } else { "failed" };
        bail!("it {how} and said: {}", said.trim());
    }
    if let Some(missing) = expected.expect.iter().find(|text| !said.contains(text.as_str())) {
        bail!("it did not say `{missing}`, but: {}", said.trim());
    }
    if let Some(wrong) = expected.refuse.iter().find(|text| said.contains(text.as_str())) {
        bail!("it said `{wrong}`: {}", said.trim());
    }
    Ok(())
}
