//! A real Prometheus: scrapes what it is told, keeps rules, and answers questions.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{self, Child};
use crate::wait::{self, PATIENCE};

/// The programs that are needed, from Debian's package `prometheus`.
pub const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// A running server. Ends, and its data go, when dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    at: SocketAddr,
    /// Dropped last.
    _dir: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` every second as the job `portcullis`. `scrape` holds more lines of YAML for that
    /// job, `rules` the text of a file of rules.
    ///
    /// # Errors
    /// When it does not become ready: with the end of its log.
    pub fn start(target: SocketAddr, scrape: &str, rules: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pc-prom-").tempdir().context("make a directory")?;
        let lines: String = scrape.lines().map(|line| format!("    {}\n", line.trim())).collect();
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n  - job_name: portcullis\n{lines}    static_configs: [{{ targets: [\"{target}\"] }}]\n"
        );
        fs::write(dir.path().join("prometheus.yml"), text).context("write its configuration")?;
        fs::write(dir.path().join("rules.yml"), rules).context("write its rules")?;
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), process::free_port()?);
        let child = spawn(dir.path(), at)?;
        let mut started = Self { child, at, _dir: dir };
        let ready = wait::attempt(PATIENCE, "Prometheus to be ready", || {
            match started.child.try_status()? {
                Some(status) => bail!("it ended with {status}"),
                // Until then the connection may be refused.
                None => Ok(started.get("/-/ready").ok().filter(|answer| answer.starts_with("HTTP/1.0 200"))),
            }
        });
        ready.map_err(|error| started.child.with_log(&error))?;
        Ok(started)
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.at).context("connect to Prometheus")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0, so that the body comes in one piece, up to the end.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("read Prometheus's answer")?;
        Ok(answer)
    }

    fn ask(&self, path: &str) -> Result<Value> {
        let answer = self.get(path)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
        let mut answer: Value = serde_json::from_str(body).with_context(|| format!("JSON: {body}"))?;
        if answer.get("status").and_then(Value::as_str) != Some("success") {
            bail!("{}", answer.get("error").and_then(Value::as_str).unwrap_or("no success, and no error"));
        }
        Ok(answer.get_mut("data").map(Value::take).unwrap_or_default())
    }

    /// The samples that an expression has now.
    ///
    /// # Errors
    /// What Prometheus says against the expression.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut data = self.ask(&format!("/api/v1/query?query={}", encoded(expression)))?;
        match data.get_mut("result").map(Value::take) {
            Some(Value::Array(samples)) => Ok(samples),
            other => bail!("the result is no list: {other:?}"),
        }
    }

    /// The labels of the alerts that fire now.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn firing(&self) -> Result<Vec<Value>> {
        let data = self.ask("/api/v1/alerts")?;
        let alerts = data.get("alerts").and_then(Value::as_array).context("no list of alerts")?;
        let fires = |alert: &&Value| alert.get("state").and_then(Value::as_str) == Some("firing");
        Ok(alerts.iter().filter(fires).filter_map(|alert| alert.get("labels").cloned()).collect())
    }

    /// Waits until the target was scraped, or says what Prometheus has against it.
    ///
    /// # Errors
    /// When the target is not up in time.
    pub fn wait_until_scraped(&self) -> Result<()> {
        let up = || self.query("up == 1").is_ok_and(|samples| !samples.is_empty());
        let waited = wait::until(PATIENCE, "the gateway to be scraped", up);
        waited.map_err(|error| error.context(self.get("/api/v1/targets").unwrap_or_default()))
    }
}

fn spawn(dir: &Path, at: SocketAddr) -> Result<Child> {
    let program = process::find_program("prometheus").context("prometheus is not installed")?;
    let mut command = Command::new(program);
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg(format!("--web.listen-address={at}")).arg("--log.level=warn");
    Child::spawn("prometheus", &mut command, dir)
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_encoded_for_a_url() {
        assert_eq!(encoded("a{b=\"c\"} > 1"), "a%7Bb%3D%22c%22%7D%20%3E%201");
    }
}
