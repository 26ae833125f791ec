//! `smoke`: a short comparison with HAProxy in four measures. It reports; it gates nothing.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::gateway::Setup;
use portcullis_tests::wait;
use rustls::CipherSuite;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::backend::{self, Backend};
use crate::contender::Contender;
use crate::cpu::{self, Cpus};
use crate::interrupt;
use crate::load::connection::{Clients, Connection, Received};
use crate::load::{self, PATIENCE, Slice};
use crate::machine::{self, Facts};
use crate::measure::{Measure, Round};
use crate::peers::{haproxy, portcullis};
use crate::report::{Report, Seen, Settings};

/// Not counted at the start of every slice: caches, congestion windows and the scheduler settle.
const WARM_UP: Duration = Duration::from_millis(250);
/// What the probe reads and compares.
const PROBE_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// Of one contender in one round of one measure, in two slices.
    pub(crate) time: Duration,
    /// HAProxy against itself.
    pub(crate) null: bool,
}

struct Bench {
    backend: Backend,
    clients: Clients,
    ours: Contender,
    theirs: Contender,
}

pub(crate) fn run(plan: Plan, progress: &mut impl Write) -> Result<Report> {
    let facts = Facts::collect();
    let cpus = Cpus::choose()?;
    let mut bench = Bench::start(plan, cpus, progress)?;
    let seen = [bench.probe(&bench.ours)?, bench.probe(&bench.theirs)?];
    let mut series: Vec<Vec<Round>> = Measure::ALL.iter().map(|_| Vec::new()).collect();
    for round in 1..=plan.rounds {
        for (measure, rounds) in Measure::ALL.into_iter().zip(&mut series) {
            let done = bench.round(measure, plan.time / 2)?;
            writeln!(progress, "round {round}/{}: {}: {}", plan.rounds, measure.title(), done.line(measure))?;
            rounds.push(done);
        }
    }
    let settings = Settings::new(plan, cpus);
    Ok(Report::new(machine::today(), facts, settings, seen, Measure::ALL.into_iter().zip(series).collect()))
}

impl Bench {
    fn start(plan: Plan, cpus: Cpus, progress: &mut impl Write) -> Result<Self> {
        let program = haproxy::find()?;
        if !plan.null {
            writeln!(progress, "building portcullisd where it is out of date")?;
            portcullis::build()?;
        }
        interrupt::watch()?;
        // This thread is the load generator, and the back end's thread inherits its CPU.
        cpu::pin(cpus.load)?;
        let backend = Backend::start()?;
        let setup = Setup::new()?;
        let read = |name: &str| fs::read(setup.dir().join(name)).with_context(|| format!("read {name}"));
        let (ca, chain, key) = (read("ca.pem")?, read("main.crt")?, read("main.key")?);
        let clients = Clients::new(&ca, CertificateDer::from_pem_slice(&chain)?)?;
        // HAProxy outlives this directory only by its open files: it reads them at its start.
        let dir = setup.dir().to_owned();
        let pem = dir.join("haproxy.pem");
        fs::write(&pem, [chain, key].concat()).context("write the certificate for HAProxy")?;
        let second = |label| haproxy::start(&program, label, &dir, &pem, backend.address, cpus.contender);
        let theirs = second(if plan.null { "haproxy-2" } else { "haproxy" })?;
        let ours = if plan.null {
            second("haproxy-1")?
        } else {
            portcullis::start(setup, "portcullis", backend.address, cpus.contender)?
        };
        Ok(Self { backend, clients, ours, theirs })
    }

    /// Proves, before anything is measured, that a contender relays unharmed data under the parameters of this
    /// comparison and on its CPU only.
    fn probe(&self, contender: &Contender) -> Result<Seen> {
        let tickets = self.download(contender).with_context(|| format!("probe of {}", contender.label))?;
        contender.expect_pinned()?;
        self.settle()?;
        Ok(Seen {
            label: contender.label.clone(),
            version: contender.version.clone(),
            session_tickets: tickets,
            cpu_source: contender.meter().source(),
        })
    }

    fn download(&self, contender: &Contender) -> Result<u32> {
        let mut connection = Connection::establish(contender.relay, &self.clients.strict)?;
        let suite = connection.suite();
        ensure!(suite == Some(CipherSuite::TLS13_AES_128_GCM_SHA256), "it negotiated {suite:?}");
        connection.send(&[backend::SOURCE])?;
        let (mut buffer, mut offset) = (vec![0; PROBE_BYTES], 0);
        wait::attempt(PATIENCE, "a download", || {
            while offset < PROBE_BYTES {
                let count = match connection.receive(&mut buffer)? {
                    Received::Bytes(0) => return Ok(None),
                    Received::Bytes(count) => count,
                    Received::End => anyhow::bail!("it ended after {offset} bytes"),
                };
                let mut got = buffer.iter().take(count).enumerate();
                ensure!(got.all(|(n, byte)| *byte == backend::pattern(offset + n)), "it sent other bytes");
                offset += count;
            }
            Ok::<_, anyhow::Error>(Some(()))
        })?;
        Ok(connection.tickets())
    }

    /// Ours, theirs, theirs, ours: a drift of the machine falls on both alike.
    fn round(&mut self, measure: Measure, length: Duration) -> Result<Round> {
        let mut slice = |ours: bool| self.slice(measure, ours, length);
        let (first, second, third, fourth) = (slice(true)?, slice(false)?, slice(false)?, slice(true)?);
        Ok(Round { ours: [first, fourth], theirs: [second, third] })
    }

    fn slice(&mut self, measure: Measure, ours: bool, length: Duration) -> Result<Slice> {
        let contender = if ours { &mut self.ours } else { &mut self.theirs };
        let clients = &self.clients;
        let slice = match measure {
            Measure::Down => load::bulk::down(contender, clients, WARM_UP, length),
            Measure::Up => load::bulk::up(contender, clients, &self.backend, WARM_UP, length),
            Measure::Setup => load::setup::run(contender, clients, WARM_UP, length),
            Measure::Echo => load::echo::run(contender, clients, WARM_UP, length),
        };
        let slice = slice.with_context(|| format!("{} through {}", measure.title(), contender.label))?;
        ensure!(slice.units > 0, "{} relayed nothing: {}", contender.label, measure.title());
        self.settle()?;
        Ok(slice)
    }

    /// Waits until nothing of the last slice is left that could cost the next one anything.
    fn settle(&self) -> Result<()> {
        wait::until(PATIENCE, "the contender to close its connections", || self.backend.live() == 0)
    }
}
