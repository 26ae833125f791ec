//! What the file means: defaults, bounds, references between tables, contradictions.
//!
//! What is wrong is reported, and resolving goes on with a stand-in, so that the rest is still checked; a
//! configuration comes out only when nothing was reported. Files are read only where a value of the configuration
//! is in them (security keys); certificates and users are looked at by `check`.

mod access;
mod acme;
mod addresses;
mod bans;
mod flood;
mod forward;
mod high_availability;
mod limits;
mod listener;
mod network;
mod secrets;
mod server_tls;
mod sta;
mod syslog;
mod tables;
mod values;
mod xdp;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::{self, File};
use super::reader::{Located, Problems};
use super::{Config, ConfigError, Finding, Settings, Severity};
use addresses::Bound;

pub(super) fn resolve(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let mut problems = Problems::new(text);
    let typed = file::read(text, &mut problems);
    let mut resolver = Resolver::new(problems, path);
    let config = typed.map(|typed| resolver.config(typed, path));
    resolver.end(config, path)
}

/// Only what the system's own settings follow from. The rest is not looked at.
pub(super) fn settings(text: &str, path: &Path) -> Result<Settings, ConfigError> {
    let mut problems = Problems::new(text);
    let typed = file::read_some(text, |table| Settings::TABLES.contains(&table), &mut problems);
    let mut resolver = Resolver::new(problems, path);
    let settings = typed.map(|typed| resolver.system(typed.network));
    resolver.end(settings, path)
}

/// The work of resolving one file.
#[derive(Debug)]
struct Resolver<'a> {
    problems: Problems<'a>,
    /// What relative paths are relative to.
    base: PathBuf,
    remarks: Vec<Finding>,
    /// Every address that something listens on.
    bound: Vec<Bound>,
    /// That of `[limits]`: what a listener without its own has.
    idle_timeout: Duration,
    has_xdp: bool,
    /// Addresses that this machine has or its peer: the virtual ones.
    floating: Vec<IpAddr>,
    /// Where secrets and kept certificates are.
    state: PathBuf,
    /// Names of the secrets that were opened.
    secrets: BTreeSet<String>,
}

impl<'a> Resolver<'a> {
    fn new(problems: Problems<'a>, path: &Path) -> Self {
        // Absolute, so that nothing depends on the directory in which the daemon runs later.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self {
            problems,
            base: absolute.parent().unwrap_or_else(|| Path::new("/")).to_owned(),
            remarks: Vec::new(),
            bound: Vec::new(),
            idle_timeout: Duration::ZERO,
            has_xdp: false,
            floating: Vec::new(),
            state: PathBuf::new(),
            secrets: BTreeSet::new(),
        }
    }

    /// What was resolved, when nothing was reported.
    fn end<T>(self, resolved: Option<T>, path: &Path) -> Result<T, ConfigError> {
        match (self.problems.into_error(path), resolved) {
            (None, Some(resolved)) => Ok(resolved),
            (Some(error), _) => Err(error),
            (None, None) => Err(ConfigError::unplaced(path, "cannot be understood")),
        }
    }

    fn system(&mut self, network: Option<Located<file::Network>>) -> Settings {
        Settings { network: network.map(|typed| self.network(typed)) }
    }

    fn config(&mut self, mut typed: File, path: &Path) -> Config {
        let server = self.server(table(typed.server.take()));
        self.state.clone_from(&server.state_dir);
        let names = self.names(&typed);
        let rows_of_certificates = rows(typed.certificate);
        let by_acme = self.acme_certificates(&rows_of_certificates, &names.certificates);
        let certificates = self.certificates(rows_of_certificates, &names);
        let acme = self.acme(typed.acme, by_acme);
        let users = self.users(rows(typed.users), &names);
        let stas = self.stas(rows(typed.sta), &names);
        let metrics = typed.metrics.and_then(|typed| self.metrics(typed, &names));
        let sta_server = typed.sta_server.and_then(|typed| self.sta_server(typed, &names));
        self.refuse_shared_authority_ids(&stas, sta_server.as_ref());
        let limits = self.limits(table(typed.limits));
        (self.idle_timeout, self.has_xdp) = (limits.idle_timeout, typed.xdp.is_some());
        let high_availability = typed.high_availability.and_then(|typed| self.high_availability(typed));
        let syslog = typed.syslog.and_then(|typed| self.syslog(typed, &names));
        let listeners = self.listeners(rows(typed.listener), &names);
        if listeners.is_empty() && sta_server.is_none() {
            let message = "no [[listener]] and no [sta_server]";
            self.remark(Severity::Warning, "configuration", message, "nothing is served; add a listener");
        }
        let bans = typed.bans.map(|typed| self.bans(typed));
        let xdp = typed.xdp.and_then(|typed| self.xdp(typed));
        let settings = self.system(typed.network);
        Config {
            path: path.to_owned(),
            server,
            control: self.control(table(typed.control)),
            log: self.log(table(typed.log)),
            metrics,
            dns: self.dns(table(typed.dns)),
            limits,
            certificates,
            acme,
            users,
            stas: stas.into_iter().map(|sta| Arc::new(sta.value)).collect(),
            sta_server: sta_server.map(|server| server.value),
            listeners: listeners.into_iter().map(Arc::new).collect(),
            bans,
            xdp,
            high_availability,
            settings,
            syslog,
            support_shell: table(typed.support).shell.is_some_and(|typed| typed.value),
            secrets: std::mem::take(&mut self.secrets),
            remarks: std::mem::take(&mut self.remarks),
        }
    }

    fn remark(&mut self, severity: Severity, subject: &str, message: &str, remedy: &str) {
        self.remarks.push(Finding::new(severity, subject, message, remedy));
    }
}

fn table<T: Default>(typed: Option<Located<T>>) -> T {
    typed.map(|typed| typed.value).unwrap_or_default()
}

fn rows<T>(typed: Option<Located<Vec<Located<T>>>>) -> Vec<Located<T>> {
    typed.map(|typed| typed.value).unwrap_or_default()
}
