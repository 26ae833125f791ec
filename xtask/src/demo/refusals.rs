//! What must not open a session: forged, expired, used and foreign tickets, and targets that policy forbids.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_tests::process::{self, Output};
use portcullis_tests::wait::{self, PATIENCE};

use super::report::Reporter;
use super::stage::{AUTHORITY, EXCHANGE_LIMIT, LOCAL_AUTHORITY, Stage, hides_inside};

/// `portcullis connect`: refused by the gateway.
const REFUSED: i32 = 76;
/// An authority that the gateway has never heard of.
const STRANGER: &str = "STAFFFFFFFFFFFF";

pub(crate) fn run(stage: &Stage, reporter: &mut Reporter) {
    let before = refusals(stage);
    let begun = reporter.count();
    reporter.step("refused: a forged ticket", || refused(stage, &format!(";40;{AUTHORITY};{}", random()?)));
    reporter.step("refused: an expired ticket", || expired(stage));
    reporter.step("refused: a ticket used a second time", || {
        let ticket = stage.issue(stage.farm.web, &[])?;
        stage.fetch(stage.connect("socks5", &ticket)?)?;
        refused(stage, &ticket)
    });
    reporter.step("refused: a ticket of an authority that the gateway does not know", || {
        refused(stage, &format!(";40;{STRANGER};{}", random()?))
    });
    reporter.step("refused: a real ticket under another authority's name", || {
        let ticket = stage.issue(stage.farm.web, &[])?.replace(AUTHORITY, LOCAL_AUTHORITY);
        ensure!(ticket.contains(LOCAL_AUTHORITY), "the ticket does not name its authority");
        refused(stage, &ticket)
    });
    reporter.step("refused: a ticket for a port that policy does not allow", || {
        let forbidden = SocketAddr::new(stage.farm.shell.ip(), 22);
        refused(stage, &stage.issue(forbidden, &[])?)
    });
    if stage.lab.is_isolated() {
        reporter.step("refused: a ticket for the gateway's own loopback", || {
            let own = SocketAddr::new([127, 0, 0, 1].into(), stage.farm.web.port());
            refused(stage, &stage.issue(own, &[])?)
        });
    } else {
        reporter.skip("refusal of loopback targets: on loopback the farm itself is one");
    }
    reporter.step("refused: over WebSocket and CONNECT, in their own words", || {
        for via in ["websocket", "connect"] {
            let ticket = format!(";40;{AUTHORITY};{}", random()?);
            let output = process::run(&mut stage.connect(via, &ticket)?, EXCHANGE_LIMIT)?;
            judge(stage, &output).with_context(|| format!("over {via}"))?;
        }
        Ok(String::from("exit status 76 both times"))
    });
    let steps = reporter.count() - begun;
    reporter.step("refusals are counted", || {
        let (old, new) = (before?, refusals(stage)?);
        let least = f64::from(u32::try_from(steps).unwrap_or(u32::MAX));
        ensure!(new - old >= least, "{} were counted, at least {least} happened", new - old);
        let reasons = stage.metrics()?.by_label("portcullis_refusals_total", "reason");
        let reasons = reasons.iter().filter(|(_, count)| **count > 0.5);
        let list: Vec<String> = reasons.map(|(reason, count)| format!("{reason} {count}")).collect();
        Ok(format!("{old} before, {new} after: {}", list.join(", ")))
    });
}

fn refusals(stage: &Stage) -> Result<f64> {
    Ok(stage.metrics()?.sum("portcullis_refusals_total", &[]).unwrap_or(0.0))
}

/// A secret that nobody issued.
fn random() -> Result<String> {
    let output = process::run(std::process::Command::new("openssl").args(["rand", "-hex", "16"]), PATIENCE)?;
    Ok(output.ok()?.stdout.trim().to_ascii_uppercase())
}

fn expired(stage: &Stage) -> Result<String> {
    const LIFE: Duration = Duration::from_secs(1);
    let ticket = stage.issue(stage.farm.web, &["--life", "1s"])?;
    let issued = Instant::now();
    wait::until(PATIENCE, "the ticket to expire", || issued.elapsed() > LIFE + LIFE / 4)?;
    refused(stage, &ticket)
}

/// Shows a ticket that must not open a session.
fn refused(stage: &Stage, ticket: &str) -> Result<String> {
    judge(stage, &stage.try_ticket(ticket)?)
}

fn judge(stage: &Stage, output: &Output) -> Result<String> {
    if output.success() {
        bail!("the gateway opened a session");
    }
    hides_inside(stage, "the refusal", &format!("{}{}", output.stdout, output.stderr))?;
    let said = output.stderr.trim().lines().last().unwrap_or_default().to_owned();
    ensure!(output.code == Some(REFUSED), "exit status {:?} instead of {REFUSED}: {said}", output.code);
    Ok(format!("exit status {REFUSED}: {said}"))
}
