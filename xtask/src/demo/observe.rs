//! What an operator sees: sessions, their records, metrics.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::gateway::Metrics;
use portcullis_tests::process::{self, Child};
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use super::report::Reporter;
use super::stage::{EXCHANGE_LIMIT, Stage};

const GIB: f64 = 1_073_741_824.0;

pub(crate) fn run(stage: &Stage, reporter: &mut Reporter) {
    reporter.step("sessions: the list shows user and application, and a session can be ended", || {
        list_and_kill(stage)
    });
    reporter.step("records: each finished session left one, with the reason of its end", || records(stage));
    reporter.step("metrics: scraped over HTTP", || scrape(stage));
    if process::find_program("promtool").is_some() {
        reporter.step("metrics: promtool finds nothing to object to", || promtool(stage));
    } else {
        reporter.skip("promtool: not installed (Debian package prometheus)");
    }
}

fn list_and_kill(stage: &Stage) -> Result<String> {
    let who = ["--user", "alice", "--domain", "FARM", "--application", "Files"];
    let ticket = stage.issue(stage.farm.web, &who)?;
    let (_client, port) = stage.listen(stage.connect("socks5", &ticket)?)?;
    let mut curl = stage.lab.outside.command("curl");
    let url = format!("http://127.0.0.1:{port}/big.bin");
    // Slow enough to be still there when it is looked at, fast enough to use up soon what was on its way.
    curl.args(["-sS", "-o", "/dev/null", "--limit-rate", "10M", &url]);
    let mut curl = Child::spawn("slow-curl", &mut curl, stage.dir.path())?;
    let session = wait::attempt(PATIENCE, "alice's session in `sessions list`", || {
        let list = stage.gateway()?.cli_json(["sessions", "list"])?;
        let list = list.get("sessions").unwrap_or(&list).as_array().cloned().unwrap_or_default();
        Ok::<_, anyhow::Error>(
            list.into_iter().find(|session| holds(session, "alice") && holds(session, "Files")),
        )
    })?;
    let id = session.get("id").and_then(Value::as_str).context("the session has no id")?.to_owned();
    let text = |key: &str| session.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
    stage.gateway()?.cli(["sessions", "kill", &id])?.ok()?;
    let status = curl.wait(PATIENCE).context("the killed session's client")?;
    ensure!(!status.success(), "curl ended well although its session was killed");
    Ok(format!(
        "{} used {} over {}; killed, and its client noticed",
        text("user"),
        text("application"),
        text("protocol")
    ))
}

/// Whether a value is a text that holds `wanted`, at any depth.
fn holds(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text.contains(wanted),
        Value::Array(values) => values.iter().any(|value| holds(value, wanted)),
        Value::Object(fields) => fields.values().any(|value| holds(value, wanted)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn records(stage: &Stage) -> Result<String> {
    let reasons = wait::attempt(PATIENCE, "the records of all sessions", || {
        let active = stage.metrics()?.sum("portcullis_sessions_active", &[]).unwrap_or(0.0);
        let ended = stage.metrics()?.sum("portcullis_sessions_total", &[]).unwrap_or(0.0);
        let reasons = reasons(&stage.gateway()?.log());
        let found = f64::from(reasons.values().sum::<u32>());
        Ok::<_, anyhow::Error>(
            (active < 0.5 && found > 0.5 && (found - ended).abs() < 0.5).then_some(reasons),
        )
    })?;
    ensure!(reasons.len() > 1, "all sessions have the same reason, although one was killed");
    let total: u32 = reasons.values().sum();
    let list: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    Ok(format!("{total} records: {}", list.join(", ")))
}

/// How often each reason occurs in the records of a JSON log.
fn reasons(log: &str) -> BTreeMap<String, u32> {
    let mut reasons = BTreeMap::new();
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        if event.get("event").and_then(Value::as_str) != Some("session") {
            continue;
        }
        let reason = event.get("reason").and_then(Value::as_str);
        *reasons.entry(reason.unwrap_or("no reason").to_owned()).or_default() += 1;
    }
    reasons
}

fn page(stage: &Stage) -> Result<String> {
    let mut curl = stage.lab.gateway.command("curl");
    let url = format!("http://{}/metrics", stage.metrics_address);
    Ok(process::run(curl.args(["-sS", "--fail", "--max-time", "20", &url]), EXCHANGE_LIMIT)?.ok()?.stdout)
}

fn scrape(stage: &Stage) -> Result<String> {
    let metrics = Metrics(page(stage)?);
    let sum =
        |name: &str, labels: &[&str]| metrics.sum(name, labels).with_context(|| format!("no metric {name}"));
    let down = sum("portcullis_session_bytes_total", &["direction=\"down\""])?;
    ensure!(down >= GIB, "only {down} bytes to clients were counted, and 1 GiB was copied");
    let sessions = sum("portcullis_sessions_total", &[])?;
    let redeems = sum("portcullis_setup_stage_duration_seconds_count", &["stage=\"redeem\""])?;
    sum("portcullis_build_info", &[])?;
    sum("portcullis_certificate_not_after_timestamp_seconds", &[])?;
    let down = down / GIB;
    Ok(format!("{sessions} sessions, {redeems} redemptions timed, {down:.2} GiB to clients"))
}

fn promtool(stage: &Stage) -> Result<String> {
    let mut promtool = std::process::Command::new("promtool");
    let page = page(stage)?;
    let output =
        process::run_with_input(promtool.args(["check", "metrics"]), page.as_bytes(), EXCHANGE_LIMIT)?;
    ensure!(output.success(), "{}{}", output.stdout.trim(), output.stderr.trim());
    Ok(format!("{} lines of metrics", page.lines().count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_in_session_records_only() {
        let log =
            "no json\n{\"target\":\"x\",\"reason\":\"a\"}\n{\"event\":\"session\",\"reason\":\"killed\"}\n";
        assert_eq!(reasons(log), BTreeMap::from([(String::from("killed"), 1)]));
    }
}
