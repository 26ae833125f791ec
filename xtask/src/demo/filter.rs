//! The packet filter on the gateway's two interfaces. All other steps run through it as well.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_tests::topology::Place;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use super::report::Reporter;
use super::stage::Stage;

/// A port of the gateway's machine that no rule opens.
const CLOSED: u16 = 8022;
/// How long a connection is tried before its silence counts.
const SILENCE: Duration = Duration::from_millis(1500);

pub(crate) fn run(stage: &Stage, reporter: &mut Reporter) {
    if let Some(reason) = &stage.unfiltered {
        return reporter.skip(&format!("packet filter: {reason}"));
    }
    reporter.step("filter: attached to both interfaces, all the time", || attached(stage));
    reporter.step("filter: a port that is not ours is silent, and counted", || silent(stage));
    reporter.step("filter: the farm opens nothing either", || {
        let inner = stage.lab.gateway.address(1);
        not_reached(stage, &stage.lab.farm, SocketAddr::new(inner, CLOSED), "farm")
    });
    reporter.step("filter: `ports test` names the rule before a packet is sent", || explained(stage));
    reporter.step("filter: a ban cuts a client off, its removal lets it in again", || banned(stage));
}

fn attached(stage: &Stage) -> Result<String> {
    let state = stage.gateway()?.filter_state()?;
    ensure!(state.starts_with("attached"), "the status says `{state}`");
    let status = stage.gateway()?.cli_json(["xdp", "status"])?;
    let rows = status.get("packets").and_then(Value::as_array).context("the status counts no packets")?;
    let passed = |interface: &str| -> u64 {
        let is = |row: &&Value| row["interface"] == interface && row["verdict"] == "pass";
        rows.iter().filter(is).filter_map(|row| row["packets"].as_u64()).sum()
    };
    let (edge, farm) = (passed("edge"), passed("farm"));
    ensure!(edge > 0 && farm > 0, "{edge} packets passed at the edge, {farm} in the farm");
    Ok(format!("{state}; {edge} packets passed at the edge, {farm} in the farm"))
}

/// A server that has nothing to do with us listens on the gateway's machine.
fn silent(stage: &Stage) -> Result<String> {
    let at = SocketAddr::new(stage.lab.gateway.address(0), CLOSED);
    let listening =
        stage.lab.gateway.enter(|| Ok(TcpListener::bind(at)?)).context("start a stranger's server")?;
    let said = not_reached(stage, &stage.lab.outside, at, "edge")?;
    drop(listening);
    Ok(format!("a server listens there; {said}"))
}

fn not_reached(stage: &Stage, from: &Place, to: SocketAddr, interface: &str) -> Result<String> {
    let before = stage.gateway()?.dropped(interface, "no_rule")?;
    match from.enter(|| Ok(TcpStream::connect_timeout(&to, SILENCE)))? {
        Err(error) if error.kind() == ErrorKind::TimedOut => {}
        Err(error) => bail!("{to} answered: {error}"),
        Ok(_) => bail!("{to} took the connection"),
    }
    let counted = || stage.gateway().and_then(|gateway| gateway.dropped(interface, "no_rule"));
    let after = wait::value(PATIENCE, "the drop in `portcullis xdp drops`", || {
        counted().ok().filter(|after| *after > before)
    })?;
    Ok(format!("no answer from {to}, not even a refusal; {} packets in `xdp drops`", after - before))
}

fn explained(stage: &Stage) -> Result<String> {
    let client = stage.lab.outside.address(0).to_string();
    let edge = stage.lab.gateway.address(0).to_string();
    let ask =
        |port: &str| stage.gateway()?.cli(["ports", "test", &client, &edge, "tcp", port, "--role", "edge"]);
    let (open, closed) = (ask("443")?, ask("8022")?);
    ensure!(open.success(), "port 443: {}{}", open.stdout.trim(), open.stderr.trim());
    ensure!(closed.code == Some(1), "port 8022: exit status {:?}", closed.code);
    let line = |text: &str| text.trim().replace('\n', "; ");
    Ok(format!("443: {}. 8022: {}", line(&open.stdout), line(&closed.stdout)))
}

fn banned(stage: &Stage) -> Result<String> {
    let client = stage.lab.outside.address(0);
    let prefix = format!("{client}/32");
    let edge = SocketAddr::new(stage.lab.gateway.address(0), 443);
    let reached = || stage.lab.outside.enter(|| Ok(TcpStream::connect_timeout(&edge, SILENCE).is_ok()));
    ensure!(reached()?, "the client does not reach the gateway before it is banned");
    stage.gateway()?.cli(["xdp", "bans", "add", &prefix, "--for", "10m"])?.ok()?;
    let cut_off = !reached()?;
    let dropped = stage.gateway()?.dropped("edge", "banned")?;
    // Whatever was seen: the steps that follow need the client.
    stage.gateway()?.cli(["xdp", "bans", "remove", &prefix])?.ok()?;
    ensure!(cut_off && dropped > 0, "the banned client still reached the gateway");
    let ticket = stage.issue(stage.farm.web, &[])?;
    stage.fetch(stage.connect("socks5", &ticket)?)?;
    Ok(format!("{dropped} packets of {client} dropped; a session opened after the ban was removed"))
}
