//! What most tests start with: a gateway whose own authority issues tickets for servers on loopback.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use portcullis_tests::backend::{self, Service};
use portcullis_tests::client::{self, Client};
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::netns;
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::{Value, json};

/// The keys of a ticket listener that may reach anything on loopback.
pub(crate) const ANYTHING_LOCAL: &str = r#"
    stas = ["local"]
    permit_loopback = true
    allow = [{ to = ["127.0.0.0/8", "*.farm.test"], ports = ["1-65535"] }]
"#;

/// The keys of a proxy listener that may reach anything on loopback.
pub(crate) const PROXY_LOCAL: &str = r#"
    permit_loopback = true
    allow = [{ to = ["127.0.0.0/8", "*.farm.test"], ports = ["1-65535"] }]
"#;

/// What makes OpenSSL speak each suite that the record layer knows, with ECDSA certificates.
pub(crate) const OPENSSL_SUITES: [[&str; 3]; 6] = [
    ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
    ["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
    ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
    ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
    ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
    ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
];

/// The lines of both outputs of a child, as they come.
pub(crate) fn lines_of(child: &mut Child) -> Receiver<String> {
    let (tell, lines) = channel();
    let outputs: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    for output in outputs {
        let tell = tell.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                // Nobody listens any more when the test is over.
                tell.send(String::from_utf8_lossy(&line).into_owned()).ok();
            }
        });
    }
    lines
}

/// A gateway and the address of the listener under test.
pub(crate) struct Edge {
    pub(crate) gateway: Gateway,
    pub(crate) at: SocketAddr,
}

/// A configuration with an own authority and machine-readable logs, but no listener yet.
pub(crate) fn setup() -> Setup {
    let mut setup = Setup::new().unwrap();
    setup.own_authority("127.0.0.1".parse().unwrap()).unwrap();
    setup.merge("[log]\nformat = \"json\"").unwrap();
    setup
}

impl Edge {
    /// Leaves something to be counted: a session that has ended, and a ticket of an authority that nobody knows. The
    /// session's server goes on.
    pub(crate) fn live_a_little(&self) -> Service {
        let server = backend::echo().unwrap();
        let mut client = self.session(server.address());
        client.echo(b"counted").unwrap();
        client.sender.finish().unwrap();
        client.read_to_end().unwrap();
        self.wait_for_records(1);
        self.socks_code(";40;STA999999999;0123456789ABCDEF0123456789ABCDEF");
        server
    }

    /// A listener of kind `gateway` that may reach anything on loopback.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// The same with more configuration.
    pub(crate) fn with(more: &str) -> Self {
        Self::of_kind("gateway", ANYTHING_LOCAL, more)
    }

    /// A listener of any kind, with its keys, and more configuration.
    pub(crate) fn of_kind(kind: &str, keys: &str, more: &str) -> Self {
        let mut setup = setup();
        setup.merge(more).unwrap();
        Self::of_setup(setup, kind, keys)
    }

    pub(crate) fn of_setup(mut setup: Setup, kind: &str, keys: &str) -> Self {
        let at = setup.listener("edge", kind, keys).unwrap();
        Self { gateway: setup.start().unwrap(), at }
    }

    pub(crate) fn ca(&self) -> std::path::PathBuf {
        self.gateway.ca_file()
    }

    /// A connection whose TLS handshake is done.
    pub(crate) fn client(&self) -> Client {
        Client::tls(self.at, &self.ca()).unwrap()
    }

    pub(crate) fn ticket(&self, target: SocketAddr) -> String {
        self.gateway.issue(&target.to_string()).unwrap()
    }

    /// A new ticket of our own authority with further fields of `ticket-issue`.
    pub(crate) fn ticket_with(&self, target: SocketAddr, fields: &Value) -> String {
        let mut data = fields.clone();
        data["target"] = json!(target.to_string());
        self.gateway.control().issue(&data).unwrap()
    }

    /// An established SOCKS session to `target`.
    pub(crate) fn session(&self, target: SocketAddr) -> Client {
        let mut client = self.client();
        assert_eq!(client.socks(&self.ticket(target), 1494).unwrap(), 0);
        client
    }

    /// The answer to a SOCKS request with this name, as its reply code.
    pub(crate) fn socks_code(&self, name: &str) -> u8 {
        self.client().socks(name, 1494).unwrap()
    }

    /// How often the gateway has refused for this reason.
    pub(crate) fn refusals(&self, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        self.gateway.metrics().unwrap().sum("portcullis_refusals_total", &[&label]).unwrap_or(0.0)
    }

    /// Waits until the gateway has refused `times` for this reason.
    pub(crate) fn wait_for_refusals(&self, reason: &str, times: f64) {
        let what = format!("{times} refusals for {reason}");
        let waited = wait::until(PATIENCE, &what, || self.refusals(reason) >= times);
        waited.unwrap_or_else(|error| panic!("{error}; the metrics:\n{}", self.gateway.metrics().unwrap().0));
    }

    /// Waits until exactly `count` sessions are in the table.
    pub(crate) fn wait_for_sessions(&self, count: usize) {
        let control = self.gateway.control();
        let what = format!("{count} sessions in the table");
        wait::until(PATIENCE, &what, || control.sessions().unwrap().len() == count).unwrap();
    }

    /// The records of finished sessions so far, oldest first.
    pub(crate) fn records(&self) -> Vec<Value> {
        records(&self.gateway.log())
    }

    /// Waits until `count` sessions have finished and returns their records.
    pub(crate) fn wait_for_records(&self, count: usize) -> Vec<Value> {
        let what = format!("{count} session records");
        let found = wait::value(PATIENCE, &what, || {
            let records = self.records();
            (records.len() >= count).then_some(records)
        });
        found.unwrap_or_else(|error| panic!("{error}; the log:\n{}", self.gateway.log()))
    }

    /// Waits for the record of the only session of this test and returns it.
    pub(crate) fn record(&self) -> Value {
        let mut records = self.wait_for_records(1);
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    /// Waits for the only session's end and returns its reason.
    pub(crate) fn end_reason(&self) -> String {
        text(&self.record(), "reason")
    }

    pub(crate) fn descriptors(&self) -> usize {
        descriptors(self.gateway.pid())
    }

    /// Waits until no more descriptors are open than before.
    pub(crate) fn wait_for_descriptors(&self, before: usize) {
        let found = wait::until(PATIENCE, "descriptors to be closed", || self.descriptors() <= before);
        found.unwrap_or_else(|error| {
            let open = Command::new("ls").arg("-l").arg(format!("/proc/{}/fd", self.gateway.pid())).output();
            panic!("{error}: {before} before, now\n{}", String::from_utf8_lossy(&open.unwrap().stdout))
        });
    }
}

impl Drop for Edge {
    /// Whatever a test is about: no task or thread of the daemon may have broken off.
    fn drop(&mut self) {
        if !thread::panicking() {
            let log = self.gateway.log();
            assert!(!log.contains("panicked at"), "the daemon's log holds a panic:\n{log}");
        }
    }
}

/// Ends sessions: `id`, `user` or `all` says which.
pub(crate) fn kill(edge: &Edge, which: &Value) {
    let mut request = which.clone();
    request["v"] = json!(1);
    request["cmd"] = json!("session-kill");
    edge.gateway.control().ask(&request).unwrap();
}

/// The records of finished sessions in a log of JSON lines.
pub(crate) fn records(log: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == "session" && line.get("bytes_up").is_some()).collect()
}

/// A field of a record as text.
pub(crate) fn text(record: &Value, field: &str) -> String {
    let value = &record[field];
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A field of a record as a number.
pub(crate) fn number(record: &Value, field: &str) -> u64 {
    text(record, field).parse().unwrap_or_else(|_| panic!("{field} of {record} is no number"))
}

pub(crate) fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Asserts that nothing the client was sent tells where the server is.
pub(crate) fn assert_hidden(received: &[u8], target: SocketAddr) {
    let SocketAddr::V4(target) = target else { panic!("back ends of these tests are IPv4") };
    let (ip, port) = (target.ip().octets(), target.port());
    let shown = String::from_utf8_lossy(received);
    let holds = |needle: &[u8]| received.windows(needle.len()).any(|window| window == needle);
    assert!(!holds(target.ip().to_string().as_bytes()), "the address is in {shown:?}");
    assert!(!holds(port.to_string().as_bytes()), "the port is in {shown:?}");
    assert!(!holds(&ip), "the address is in {received:?}");
    assert!(!holds(b"farm.test"), "the name is in {shown:?}");
}

/// A TLS configuration that trusts a gateway of these tests.
pub(crate) fn tls_config(ca: &Path) -> Arc<rustls::ClientConfig> {
    Arc::new(client::trusting(ca).unwrap())
}

/// Python with the packages of `tests/requirements.txt`, or `None` after having skipped aloud.
pub(crate) fn python(package: &str) -> Option<Command> {
    let Some(program) = process::python() else {
        skip(&format!("no Python with {package} (`cargo xtask setup` installs it)"));
        return None;
    };
    let mut command = Command::new(program);
    // Scripts lie in the repository: no compiled copies beside them.
    command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(process::repository().join("tests/it/peers"));
    Some(command)
}

/// Skips aloud and returns `true` when one of the programs is missing.
pub(crate) fn without_programs(programs: &[&str]) -> bool {
    let missing: Vec<_> =
        programs.iter().copied().filter(|name| process::find_program(name).is_none()).collect();
    if !missing.is_empty() {
        skip(&format!("no {} on this machine", missing.join(", no ")));
    }
    !missing.is_empty()
}

/// Skips aloud and returns `true` when network namespaces cannot be made.
pub(crate) fn without_namespaces() -> bool {
    netns::available().inspect_err(|reason| skip(&format!("no network namespaces: {reason}"))).is_err()
}
