//! The command line of `portcullisd`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::config::{self, Config, Finding, Severity};
use crate::exit::{self, Exit};
use crate::lab;
use crate::store::{other_version, trial};

/// The Portcullis gateway: tickets in, sessions through.
#[derive(Debug, Parser)]
#[command(name = "portcullisd", version = crate::version::LONG, after_help = exit::HELP)]
pub(super) struct Options {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = config::PATH_DEFAULT, env = "PORTCULLIS_CONFIG")]
    config: PathBuf,
    /// Read and check the configuration with everything it names, print what is wrong, and exit.
    #[arg(long, conflicts_with = "lab")]
    pub(super) check: bool,
    /// Try it without a configuration: own certificate, own ticket authority, loopback only.
    #[arg(long, conflicts_with = "config")]
    lab: bool,
    /// Where the lab keeps its certificates and state; default: a directory below the system's temporary one.
    #[arg(long, value_name = "DIR", requires = "lab")]
    lab_dir: Option<PathBuf>,
    /// Port of the lab's gateway on 127.0.0.1.
    #[arg(long, value_name = "PORT", requires = "lab", default_value_t = lab::PORT_DEFAULT)]
    port: u16,
}

impl Options {
    pub(super) fn read() -> Self {
        Self::parse()
    }

    /// The configuration that is asked for and its text, or what is wrong with it.
    pub(super) fn configuration(&self) -> Result<(Config, String), String> {
        let (text, path) = if self.lab {
            let lab =
                lab::Lab::prepare(self.lab_dir.as_deref(), self.port).map_err(|error| error.to_string())?;
            (lab.configuration, lab.path)
        } else {
            let text = config::read(&self.config).map_err(|error| error.to_string())?;
            (text, self.config.clone())
        };
        let config = config::parse(&text, &path).map_err(|error| error.to_string())?;
        Ok((config, text))
    }

    /// What to start with where another version has put a configuration in force that this one cannot read.
    pub(super) fn of_other_version(&self) -> Option<(Config, trial::Start)> {
        if self.lab || self.check {
            return None;
        }
        let text = config::read(&self.config).ok()?;
        // The rest of it says nothing to this version.
        let table: toml::Table = text.parse().ok()?;
        let stated = table.get("server").and_then(|server| server.get("state_dir")?.as_str());
        let state = self.config.parent()?.join(stated.unwrap_or(config::STATE_DIR_DEFAULT));
        let parse = |text: &str| config::parse(text, &self.config).map_err(|error| error.to_string());
        let start = other_version::to_start_with(&self.config, &state, &text, |text| parse(text).map(drop))?;
        Some((parse(&start.text).ok()?, start))
    }

    /// Prints findings for `--check`.
    pub(super) fn report(&self, findings: &[Finding]) -> ExitCode {
        let mut out = std::io::stdout().lock();
        let mut worst = Exit::Ok;
        for finding in findings {
            if finding.severity == Severity::Error {
                worst = Exit::Config;
            }
            // Nobody may be listening; the exit code still tells.
            writeln!(out, "{finding}").ok();
        }
        if findings.is_empty() {
            writeln!(out, "{}: no findings", self.config.display()).ok();
        }
        worst.into()
    }

    pub(super) fn fail(&self, exit: Exit, error: &str) -> ExitCode {
        writeln!(std::io::stderr(), "portcullisd: {error}").ok();
        exit.into()
    }

    /// Tells who started the lab how to try it.
    pub(super) fn announce(&self, config: &Config) {
        if self.lab {
            writeln!(std::io::stdout(), "{}", lab::how_to_try(config)).ok();
        }
    }
}
