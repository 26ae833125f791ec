//! The contenders' configurations, and how each is found and started: bound to one CPU, ready for connections.

pub(crate) mod baseline;
pub(crate) mod haproxy;
pub(crate) mod hitch;
pub(crate) mod nginx;
pub(crate) mod portcullis;
pub(crate) mod stunnel;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use portcullis_tests::process::{self, Child};
use serde::Serialize;

use crate::contender::{Contender, Door, Process, Ways};
use crate::cpu;
use crate::load::PATIENCE;
use crate::load::connection::Entry;

/// Names a newer HAProxy than this machine's: a directory into which its packages were unpacked.
pub(crate) const NEWEST_HAPROXY: &str = "PORTCULLIS_PERF_HAPROXY";

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Portcullis,
    /// Ours with `relay_gather = "1ms"`: it gathers also while it is quiet.
    PortcullisGathering,
    /// Ours with `relay_gather = "0s"`: it never gathers, not even while it is busy.
    PortcullisPrompt,
    Haproxy,
    HaproxyNewest,
    Nginx,
    Hitch,
    Stunnel,
    /// Our honest baseline: tokio and tokio-rustls in 40 lines.
    Tokio,
    /// The same on tokio-uring, without TLS.
    TokioUring,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Portcullis,
        Self::PortcullisGathering,
        Self::PortcullisPrompt,
        Self::Haproxy,
        Self::HaproxyNewest,
        Self::Nginx,
        Self::Hitch,
        Self::Stunnel,
        Self::Tokio,
        Self::TokioUring,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::PortcullisGathering => "portcullis-gathering",
            Self::PortcullisPrompt => "portcullis-prompt",
            Self::Haproxy => "haproxy",
            Self::HaproxyNewest => "haproxy-newest",
            Self::Nginx => "nginx",
            Self::Hitch => "hitch",
            Self::Stunnel => "stunnel",
            Self::Tokio => "tokio",
            Self::TokioUring => "tokio-uring",
        }
    }

    /// Whether the goals are against it; the others are shown beside.
    pub(crate) fn is_rival(self) -> bool {
        matches!(self, Self::Haproxy | Self::HaproxyNewest | Self::Nginx | Self::Hitch)
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Portcullis | Self::PortcullisGathering | Self::PortcullisPrompt)
    }

    pub(crate) fn is_haproxy(self) -> bool {
        matches!(self, Self::Haproxy | Self::HaproxyNewest)
    }
}

/// What a contender is set up for: each peer is at its best, and that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// As many bytes as possible: large buffers.
    Bulk,
    /// Many sessions: buffers as small as they come.
    Sessions,
}

/// Where all contenders of one run find what they need.
#[derive(Debug)]
pub(crate) struct Site {
    /// Logs and configurations.
    pub(crate) dir: PathBuf,
    /// Where `ca.pem`, `main.crt` and `main.key` are.
    pub(crate) certificates: PathBuf,
    /// Chain and key in one file.
    pub(crate) pem: PathBuf,
    pub(crate) backend: SocketAddr,
    pub(crate) cpu: usize,
}

/// A program that takes part, and what it says of its version.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) version: String,
    /// The program and its first arguments.
    #[serde(skip)]
    pub(crate) program: Vec<PathBuf>,
}

impl Peer {
    /// Finds a program and asks for its version; an error says what is missing and how to get it.
    pub(crate) fn find(kind: Kind) -> Result<Self> {
        let (program, version) = match kind {
            Kind::Portcullis | Kind::PortcullisGathering | Kind::PortcullisPrompt => portcullis::find()?,
            Kind::Haproxy => haproxy::find_with_version()?,
            Kind::HaproxyNewest => haproxy::find_newest()?,
            Kind::Nginx => nginx::find()?,
            Kind::Hitch => hitch::find()?,
            Kind::Stunnel => stunnel::find()?,
            Kind::Tokio | Kind::TokioUring => baseline::find(kind)?,
        };
        Ok(Self { kind, version, program })
    }

    /// Starts it on its CPU in front of the back end.
    pub(crate) fn start(&self, site: &Site, job: Job) -> Result<Contender> {
        match self.kind {
            Kind::Portcullis | Kind::PortcullisGathering | Kind::PortcullisPrompt => {
                portcullis::start(self.kind, site)
            }
            Kind::Haproxy | Kind::HaproxyNewest => haproxy::start(self, site, job),
            Kind::Nginx => nginx::start(self, site, job),
            Kind::Hitch => hitch::start(self, site),
            Kind::Stunnel => stunnel::start(self, site),
            Kind::Tokio | Kind::TokioUring => baseline::start(self, site),
        }
    }

    fn command(&self) -> Command {
        let mut words = self.program.iter();
        let mut command = Command::new(words.next().map_or_else(|| Path::new(""), PathBuf::as_path));
        command.args(words);
        command
    }
}

/// A free address of loopback.
fn address() -> Result<SocketAddr> {
    Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), process::free_port()?))
}

/// Writes a configuration.
fn configure(site: &Site, name: &str, text: &str) -> Result<PathBuf> {
    let path = site.dir.join(name);
    fs::write(&path, text).with_context(|| format!("write {name}"))?;
    Ok(path)
}

/// Starts a peer's command, bound to its CPU, and waits until it listens.
fn launch(peer: &Peer, site: &Site, ways: Ways, command: &mut Command) -> Result<Contender> {
    let label = peer.kind.label();
    let mut child = cpu::pinned(site.cpu, || Child::spawn(label, command, &site.dir))?;
    for entry in [ways.tls, ways.plain, ways.splice].into_iter().flatten() {
        let (Entry::Tls(to) | Entry::Plain(to) | Entry::Socks(to, _)) = entry;
        child.wait_for_port(to, PATIENCE)?;
    }
    let door = ways.tls.and_then(|entry| match entry {
        Entry::Tls(to) => Some(Door::Open(to)),
        Entry::Plain(_) | Entry::Socks(..) => None,
    });
    let nowhere = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    Ok(Contender::new(label, ways, door.unwrap_or(Door::Open(nowhere)), Process::Peer(child), site.cpu))
}

/// The first line of what a program says of itself that holds `word`.
fn version_line(command: &mut Command, word: &str) -> Result<String> {
    let output = process::run(command, PATIENCE)?;
    let all = output.stdout + &output.stderr;
    let line = all.lines().find(|line| line.contains(word)).unwrap_or(word);
    Ok(line.trim().to_owned())
}
