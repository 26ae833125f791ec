//! The bench: peers that were found, one back end, one certificate, and line-ups of freshly started contenders.

use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_tests::gateway::Setup;
use portcullis_tests::wait;
use rustls::CipherSuite;

use crate::backend::{self, Backend};
use crate::contender::Contender;
use crate::cpu::{self, Cpus, Meter};
use crate::interrupt;
use crate::load::connection::{Clients, Connection, Entry, Received};
use crate::load::{PATIENCE, Target, Timing};
use crate::peers::{Job, Kind, Peer, Site};

/// What the probe reads and compares.
const PROBE_BYTES: usize = 1 << 20;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
}

impl Plan {
    pub(crate) fn timing(&self) -> Timing {
        let (warm_up, length) = if self.quick { (100, 400) } else { (300, 1_500) };
        Timing { warm_up: Duration::from_millis(warm_up), length: Duration::from_millis(length) }
    }
}

/// Which of a contender's ways is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tls,
    Plain,
    Splice,
}

/// One contender of one measure.
pub(crate) struct Lane {
    pub(crate) label: String,
    /// `None`: the direct way to the back end.
    pub(crate) kind: Option<Kind>,
    /// `None` of the direct way.
    pub(crate) contender: Option<Contender>,
    pub(crate) entry: Entry,
    /// It has failed, and takes no further part.
    pub(crate) is_out: bool,
    nobody: Meter,
}

impl Lane {
    pub(crate) fn is_ours(&self) -> bool {
        self.kind.is_some_and(Kind::is_ours)
    }

    pub(crate) fn meter(&self) -> &Meter {
        self.contender.as_ref().map_or(&self.nobody, Contender::meter)
    }

    pub(crate) fn log_tail(&self) -> String {
        self.contender.as_ref().map(Contender::log_tail).unwrap_or_default()
    }

    pub(crate) fn contender(&mut self) -> Result<&mut Contender> {
        self.contender.as_mut().context("the direct way has no contender")
    }
}

pub(crate) struct Bench {
    pub(crate) plan: Plan,
    pub(crate) cpus: Cpus,
    pub(crate) backend: Backend,
    pub(crate) clients: Clients,
    pub(crate) peers: Vec<Peer>,
    /// Who does not take part, and why.
    pub(crate) skipped: Vec<String>,
    /// How CPU time was read.
    pub(crate) cpu_source: &'static str,
    /// Held as long as anything is measured.
    awake: Option<File>,
    site: Site,
    _setup: Setup,
}

impl Bench {
    /// Finds the peers, says who is missing, and starts the back end.
    pub(crate) fn start(plan: Plan, progress: &mut dyn Write) -> Result<Self> {
        let cpus = Cpus::choose()?;
        writeln!(progress, "building portcullisd where it is out of date")?;
        let ours = Peer::find(Kind::Portcullis)?;
        let (mut peers, mut skipped) = (vec![ours], Vec::new());
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Portcullis) {
            match Peer::find(kind) {
                Ok(peer) => peers.push(peer),
                Err(error) => skipped.push(format!("{}: {error:#}", kind.label())),
            }
        }
        peers.iter().try_for_each(|peer| writeln!(progress, "{}: {}", peer.kind.label(), peer.version))?;
        skipped.iter().try_for_each(|line| writeln!(progress, "! SKIPPED {line}"))?;
        interrupt::watch()?;
        cpu::widen_descriptors()?;
        // This thread is the load generator, and the back end's process inherits its CPU.
        cpu::pin(cpus.load)?;
        let awake = cpu::keep_awake();
        let setup = Setup::new()?;
        let dir = setup.dir().to_owned();
        let backend = Backend::spawn(&dir)?;
        let read = |name: &str| fs::read(dir.join(name)).with_context(|| format!("read {name}"));
        let (clients, pem) = (Clients::of(&dir)?, dir.join("chain-and-key.pem"));
        fs::write(&pem, [read("main.crt")?, read("main.key")?].concat()).context("write the certificate")?;
        let site =
            Site { dir: dir.clone(), certificates: dir, pem, backend: backend.address, cpu: cpus.contender };
        Ok(Self { plan, cpus, backend, clients, peers, skipped, cpu_source: "", awake, site, _setup: setup })
    }

    /// Whether idle CPUs poll, so that waking the load costs contenders little.
    pub(crate) fn is_awake(&self) -> bool {
        self.awake.is_some()
    }

    /// Starts those of some contenders that were found, and proves of each that it relays unharmed on its CPU only. A
    /// peer that does not is left out, aloud.
    pub(crate) fn lineup(
        &mut self,
        kinds: &[(Kind, Way)],
        job: Job,
        progress: &mut dyn Write,
    ) -> Result<Vec<Lane>> {
        let mut lanes = Vec::new();
        for (kind, way) in kinds {
            let Some(peer) = self.peers.iter().find(|peer| peer.kind == *kind) else { continue };
            match self.lane(peer, *way, job) {
                Ok(lane) => {
                    self.cpu_source = lane.meter().source();
                    lanes.push(lane);
                }
                Err(error) if kind.is_ours() => return Err(error),
                Err(error) => {
                    let line = format!("{}: {error:#}", kind.label());
                    writeln!(progress, "! SKIPPED {line}")?;
                    // A peer is missed once, whatever it was to be compared in.
                    self.peers.retain(|peer| peer.kind != *kind || *way != Way::Tls);
                    self.skipped.push(line);
                }
            }
        }
        self.settle()?;
        Ok(lanes)
    }

    fn lane(&self, peer: &Peer, way: Way, job: Job) -> Result<Lane> {
        let contender = peer.start(&self.site, job)?;
        let label = peer.kind.label();
        let (entry, label) = match way {
            Way::Tls => (contender.ways.tls, label.to_owned()),
            Way::Plain => (contender.ways.plain, label.to_owned()),
            // For ours it is not a choice.
            Way::Splice if peer.kind == Kind::Portcullis => (contender.ways.splice, label.to_owned()),
            Way::Splice => (contender.ways.splice, format!("{label}-splice")),
        };
        let entry = entry.context("it has no such way")?;
        self.probe(entry).and_then(|()| contender.expect_pinned()).with_context(|| contender.log_tail())?;
        let nobody = Meter::nobody(self.cpus.contender);
        Ok(Lane { label, kind: Some(peer.kind), contender: Some(contender), entry, is_out: false, nobody })
    }

    /// The way to the back end without a contender.
    pub(crate) fn direct(&self) -> Lane {
        let (entry, nobody) = (Entry::Plain(self.backend.address), Meter::nobody(self.cpus.contender));
        Lane { label: "direct".into(), kind: None, contender: None, entry, is_out: false, nobody }
    }

    pub(crate) fn target<'a>(&'a self, lane: &'a Lane) -> Target<'a> {
        Target {
            label: &lane.label,
            entry: lane.entry,
            clients: &self.clients,
            backend: &self.backend,
            meter: lane.meter(),
            probe: None,
        }
    }

    /// One download that is decrypted, verified and compared byte for byte, under the parameters of the comparison.
    fn probe(&self, entry: Entry) -> Result<()> {
        let mut connection = match entry {
            Entry::Tls(to) => Connection::establish(to, &self.clients.strict)?,
            Entry::Plain(_) | Entry::Socks(..) => Connection::open(entry, &self.clients)?,
        };
        let suite = connection.suite();
        let expected = matches!(entry, Entry::Tls(_)).then_some(CipherSuite::TLS13_AES_128_GCM_SHA256);
        ensure!(suite == expected, "it negotiated {suite:?}");
        connection.send(&[backend::SOURCE])?;
        let (mut buffer, mut offset) = (vec![0; PROBE_BYTES], 0);
        wait::attempt(PATIENCE, "a download", || {
            while offset < PROBE_BYTES {
                let count = match connection.receive(&mut buffer)? {
                    Received::Bytes(0) => return Ok(None),
                    Received::Bytes(count) => count,
                    Received::End => bail!("it ended after {offset} bytes"),
                };
                let mut got = buffer.iter().take(count).enumerate();
                ensure!(got.all(|(n, byte)| *byte == backend::pattern(offset + n)), "it sent other bytes");
                offset += count;
            }
            Ok::<_, anyhow::Error>(Some(()))
        })
    }

    /// Waits until nothing of the last slice is left that could cost the next one anything.
    pub(crate) fn settle(&self) -> Result<()> {
        wait::until(PATIENCE, "the contender to close its connections", || {
            self.backend.live().is_ok_and(|live| live == 0)
        })
    }
}
