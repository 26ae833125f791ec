//! A real `portcullisd` with a written configuration: built up, started, asked, and ended.
//!
//! ```no_run
//! # use portcullis_tests::gateway::Setup;
//! # fn main() -> anyhow::Result<()> {
//! let mut setup = Setup::new()?;
//! setup.own_authority("127.0.0.1".parse()?)?;
//! let edge = setup.listener("gateway", "gateway", r#"
//!     stas = ["local"]
//!     permit_loopback = true
//!     allow = [{ to = ["127.0.0.0/8"], ports = ["1-65535"] }]
//! "#)?;
//! setup.merge("[limits]\nidle_timeout = \"2s\"")?;
//! let gateway = setup.start()?;
//! let ticket = gateway.issue("127.0.0.1:5900")?;
//! # drop((edge, ticket)); Ok(()) }
//! ```

mod filter;
mod metrics;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use toml::Table;

use crate::filtered;
use crate::pki::{Authority, Leaf};
use crate::process::{self, Child, Output};
use crate::topology::Place;
use crate::wait::{self, PATIENCE};
pub use filter::{BpfFs, available as filter_available};
pub use metrics::Metrics;

/// A variable in the environment of the tests: what relay workers run on, as `[server] relay_engine` has it.
pub const RELAY_ENGINE: &str = "PORTCULLIS_TEST_RELAY_ENGINE";
/// The most that one answer on the control socket may take.
const CONTROL_LIMIT: Duration = Duration::from_secs(20);
const CLI_LIMIT: Duration = Duration::from_secs(60);

/// A gateway that is not running yet: its directory, certificates and configuration.
#[derive(Debug)]
pub struct Setup {
    dir: TempDir,
    ca: Authority,
    table: Table,
    environment: Vec<(String, String)>,
    /// Where the filter is pinned, if it is to filter. Dropped after the daemon has ended, which leaves it in force.
    pins: Option<BpfFs>,
}

impl Setup {
    /// A directory with a certificate `main` for loopback names, made by a CA of its own, and a configuration
    /// with everything but listeners.
    ///
    /// # Errors
    /// When a file or a certificate cannot be made.
    pub fn new() -> Result<Self> {
        let edge = filtered::edge().to_string();
        Self::with_names(&[&crate::pki::LOOPBACK_NAMES[..], &[&edge]].concat())
    }

    /// Like [`Setup::new`] for other names and addresses in the certificate.
    ///
    /// # Errors
    /// As [`Setup::new`].
    pub fn with_names(names: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pc-").tempdir().context("make a temporary directory")?;
        let ca = Authority::root("Portcullis test root")?;
        ca.write(&dir.path().join("ca.pem"))?;
        ca.issue(&Leaf::named(names))?.write(dir.path(), "main")?;
        let table = r#"
            server = { workers = 2, state_dir = "state", drain_timeout = "2s" }
            control = { socket = "control.sock" }
            log = { level = "debug" }
            certificate = [{ name = "main", chain = "main.crt", key = "main.key" }]
        "#;
        let mut table = table.parse().context("first configuration")?;
        if let Ok(engine) = std::env::var(RELAY_ENGINE) {
            merge(&mut table, format!("server.relay_engine = \"{engine}\"").parse().context(RELAY_ENGINE)?);
        }
        Ok(Self { dir, ca, table, environment: Vec::new(), pins: None })
    }

    /// The directory that relative paths of the configuration start from.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    #[must_use]
    pub fn ca(&self) -> &Authority {
        &self.ca
    }

    /// Adds a piece of configuration: tables are merged, arrays of tables grow, other values are replaced.
    ///
    /// # Errors
    /// When the text is no TOML.
    pub fn merge(&mut self, text: &str) -> Result<&mut Self> {
        let more: Table = text.parse().context("piece of configuration")?;
        merge(&mut self.table, more);
        Ok(self)
    }

    /// Sets a variable in the daemon's environment.
    pub fn environment(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a listener on a free port of 127.0.0.1, or of what takes its place, with `keys` as further TOML of its table.
    ///
    /// # Errors
    /// When no port is free or `keys` is no TOML.
    pub fn listener(&mut self, name: &str, kind: &str, keys: &str) -> Result<SocketAddr> {
        let address = SocketAddr::new(filtered::edge(), process::free_port()?);
        self.listener_at(name, kind, &[address], keys)?;
        Ok(address)
    }

    /// Adds a listener at given addresses. Kinds that need a certificate get `main` unless `keys` says otherwise.
    ///
    /// # Errors
    /// When `keys` is no TOML.
    pub fn listener_at(&mut self, name: &str, kind: &str, at: &[SocketAddr], keys: &str) -> Result<()> {
        let mut listener: Table = filtered::translated(keys).parse().context("keys of the listener")?;
        let listen: Vec<String> = at.iter().map(SocketAddr::to_string).collect();
        listener.insert("name".into(), name.into());
        listener.insert("kind".into(), kind.into());
        listener.insert("listen".into(), listen.into());
        if !matches!(kind, "socks" | "secure-proxy" | "forward") {
            listener.entry("certificates").or_insert_with(|| vec!["main"].into());
        }
        let mut more = Table::new();
        more.insert("listener".into(), vec![toml::Value::Table(listener)].into());
        merge(&mut self.table, more);
        Ok(())
    }

    /// Makes the gateway its own ticket authority (`stas = ["local"]`) that also listens at `ip`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn own_authority(&mut self, ip: IpAddr) -> Result<SocketAddr> {
        let address = SocketAddr::new(ip, process::free_port()?);
        let section =
            format!("[sta_server]\nlisten = [\"{address}\"]\nallow_from = [\"0.0.0.0/0\", \"::/0\"]");
        self.merge(&section)?;
        Ok(address)
    }

    /// Adds a metrics listener.
    ///
    /// # Errors
    /// When no port is free.
    pub fn metrics(&mut self, ip: IpAddr) -> Result<SocketAddr> {
        let address = SocketAddr::new(ip, process::free_port()?);
        self.merge(&format!("[metrics]\nlisten = \"{address}\""))?;
        Ok(address)
    }

    /// The configuration file as it stands, written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<PathBuf> {
        let path = self.dir.path().join("portcullis.toml");
        let text = toml::to_string(&self.table).context("write the configuration as TOML")?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Starts the daemon in this process's network, or where all are filtered, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready: with the end of its log.
    pub fn start(mut self) -> Result<Gateway> {
        let Some(place) = filtered::gateway() else { return self.start_in(&Place::here()) };
        if self.pins.is_none() {
            self.filtered(&[("edge", "edge"), ("farm", "farm")])?;
            // Tests open more connections at once than one client should.
            self.merge("xdp.flood = { syn_per_source = \"100000/s\", syn_total = \"100000/s\" }")?;
        }
        self.start_in(place)
    }

    /// Starts the daemon on a machine of a lab and waits until it is ready.
    ///
    /// # Errors
    /// As [`Setup::start`].
    pub fn start_in(self, place: &Place) -> Result<Gateway> {
        let config = self.write()?;
        let mut command = place.command(process::binary("portcullisd")?);
        command.arg("--config").arg(&config).current_dir(self.dir.path()).env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.start_command(&mut command)
    }

    /// Starts the daemon by a command of the caller's, which may wrap it to set limits first.
    ///
    /// # Errors
    /// As [`Setup::start`].
    pub fn start_command(self, command: &mut Command) -> Result<Gateway> {
        self.write()?;
        let child = Child::spawn("portcullisd", command, self.dir.path())?;
        let control = Control { socket: self.dir.path().join("control.sock") };
        let mut gateway = Gateway { child, control, setup: self };
        gateway.wait_until_ready(PATIENCE)?;
        Ok(gateway)
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (Some(toml::Value::Array(old)), toml::Value::Array(new)) if is_tables(&new) => old.extend(new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

fn is_tables(values: &[toml::Value]) -> bool {
    values.iter().all(toml::Value::is_table)
}

/// A running daemon. Ends, and its directory goes, when dropped.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    control: Control,
    setup: Setup,
}

impl Gateway {
    /// The first address of a listener.
    ///
    /// # Errors
    /// When there is no such listener.
    pub fn address(&self, listener: &str) -> Result<SocketAddr> {
        let all = self.setup.table.get("listener").and_then(toml::Value::as_array);
        let named = |table: &&toml::Value| table.get("name").and_then(toml::Value::as_str) == Some(listener);
        let found = all.into_iter().flatten().find(named);
        let address = found.and_then(|table| table.get("listen")?.get(0)?.as_str());
        let address = address.with_context(|| format!("no listener is called {listener}"))?;
        address.parse().context("address of the listener")
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        self.setup.dir()
    }

    /// The certificate that clients shall trust.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir().join("ca.pem")
    }

    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.dir().join("portcullis.toml")
    }

    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Everything the daemon has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.child.log()
    }

    /// The directory, certificates and configuration, for changes before a reload.
    pub fn setup(&mut self) -> &mut Setup {
        &mut self.setup
    }

    fn wait_until_ready(&mut self, limit: Duration) -> Result<()> {
        let ready = wait::attempt(limit, "portcullisd to be ready", || match self.child.try_status()? {
            Some(status) => bail!("it ended with {status}"),
            None => Ok(self.control.ask(&json!({"v": 1, "cmd": "status"})).ok().filter(is_ready).map(drop)),
        });
        ready.map_err(|error| self.child.with_log(&error))
    }

    /// Runs the `portcullis` command against this daemon.
    ///
    /// # Errors
    /// When it cannot be started or does not end. A failing exit code is in the output.
    pub fn cli<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Output> {
        process::run(self.cli_command()?.args(arguments), CLI_LIMIT)
    }

    /// Runs `portcullis --json` and reads its answer.
    ///
    /// # Errors
    /// When it fails or does not print JSON.
    pub fn cli_json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Value> {
        let output = process::run(self.cli_command()?.arg("--json").args(arguments), CLI_LIMIT)?.ok()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("JSON of `{}`", output.command))
    }

    /// The `portcullis` command with this daemon's socket and configuration already given.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn cli_command(&self) -> Result<Command> {
        let mut command = Command::new(process::binary("portcullis")?);
        command.arg("--socket").arg(&self.control.socket).arg("--config").arg(self.config_file());
        Ok(command)
    }

    /// Issues a ticket for a target by this gateway's own authority.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub fn issue(&self, target: &str) -> Result<String> {
        self.control.issue(&json!({"target": target}))
    }

    /// The metrics page.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub fn metrics(&self) -> Result<Metrics> {
        self.control.metrics()
    }

    /// Asks the daemon to drain and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(mut self) -> Result<std::process::ExitStatus> {
        self.child.stop(PATIENCE)
    }

    /// Ends the daemon and keeps its directory, so that it can be started again.
    ///
    /// # Errors
    /// When it does not end in order.
    pub fn halt(mut self) -> Result<Setup> {
        let status = self.child.stop(PATIENCE)?;
        if !status.success() {
            return Err(self.child.with_log(&anyhow::anyhow!("portcullisd ended with {status}")));
        }
        Ok(self.setup)
    }

    /// What a daemon leaves that has ended, by itself or not, so that it can be started again.
    ///
    /// # Errors
    /// When it still runs.
    pub fn left(mut self) -> Result<Setup> {
        self.child.wait(PATIENCE)?;
        Ok(self.setup)
    }

    /// Sends the daemon a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }
}

fn is_ready(status: &Value) -> bool {
    status.get("state").and_then(Value::as_str).is_none_or(|state| state != "starting")
}

/// A client of the control socket: one line of JSON each way.
#[derive(Debug, Clone)]
pub struct Control {
    pub socket: PathBuf,
}

impl Control {
    /// Sends one request and returns the whole answer, whatever it says.
    ///
    /// # Errors
    /// When the daemon cannot be reached or does not answer with JSON.
    pub fn exchange(&self, request: &Value) -> Result<Value> {
        let shown = self.socket.display();
        let mut stream = UnixStream::connect(&self.socket).with_context(|| format!("connect to {shown}"))?;
        stream.set_read_timeout(Some(CONTROL_LIMIT))?;
        stream.set_write_timeout(Some(CONTROL_LIMIT))?;
        stream.write_all(format!("{request}\n").as_bytes()).context("send a request")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).context("read the answer")?;
        serde_json::from_str(&line).context("the daemon's answer is no JSON")
    }

    /// Sends one request and returns the data of a good answer.
    ///
    /// # Errors
    /// Also the code and message of a refusal.
    pub fn ask(&self, request: &Value) -> Result<Value> {
        let mut answer = self.exchange(request)?;
        if answer.get("ok").and_then(Value::as_bool) == Some(true) {
            return Ok(answer.get_mut("data").map(Value::take).unwrap_or_default());
        }
        let part =
            |name: &str| answer.pointer(&format!("/error/{name}")).and_then(Value::as_str).unwrap_or("?");
        bail!("{}: {}", part("code"), part("message"))
    }

    /// Issues a ticket; `data` holds the fields of `ticket-issue`.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub fn issue(&self, data: &Value) -> Result<String> {
        let mut request = data.clone();
        if let Some(fields) = request.as_object_mut() {
            fields.insert("v".into(), json!(1));
            fields.insert("cmd".into(), json!("ticket-issue"));
        }
        let answer = self.ask(&request)?;
        let ticket = answer.get("ticket").or(Some(&answer)).and_then(Value::as_str);
        ticket.map(str::to_owned).context("the answer to ticket-issue holds no ticket")
    }

    /// The sessions now in the table.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub fn sessions(&self) -> Result<Vec<Value>> {
        let answer = self.ask(&json!({"v": 1, "cmd": "sessions-list"}))?;
        let list = answer.get("sessions").unwrap_or(&answer);
        list.as_array().cloned().context("the answer to sessions-list holds no list")
    }

    /// The metrics page.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub fn metrics(&self) -> Result<Metrics> {
        let answer = self.ask(&json!({"v": 1, "cmd": "metrics"}))?;
        let text = ["text", "metrics"].iter().find_map(|key| answer.get(key)).unwrap_or(&answer);
        text.as_str().map(|text| Metrics(text.to_owned())).context("the answer to metrics holds no text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_configuration_add_up() {
        let mut setup = Setup::new().unwrap();
        setup.listener("one", "gateway", "stas = [\"local\"]").unwrap();
        setup.listener("two", "socks", "allow = [{ to = [\"10.0.0.0/8\"], ports = [22] }]").unwrap();
        setup.merge("[server]\nworkers = 3").unwrap();
        let text = fs::read_to_string(setup.write().unwrap()).unwrap();
        let table: Table = text.parse().unwrap();
        assert_eq!(table["listener"].as_array().unwrap().len(), 2);
        assert_eq!(table["server"]["workers"].as_integer(), Some(3));
        assert_eq!(table["server"]["state_dir"].as_str(), Some("state"));
        assert_eq!(table["listener"][0]["certificates"][0].as_str(), Some("main"));
        assert!(table["listener"][1].get("certificates").is_none());
    }
}
