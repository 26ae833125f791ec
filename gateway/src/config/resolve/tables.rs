//! The plain tables: server, control, log, metrics, dns, certificates and users; and the names of all tables that
//! have one.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::thread::available_parallelism;
use std::time::Duration;

use tracing::Level;

use super::Resolver;
use crate::config::file::{self, File};
use crate::config::reader::{Located, shown};
use crate::config::{
    CertificateFiles, Control, Dns, ListenerConfig, Log, LogFormat, MetricsConfig, RecordLayer,
    STATE_DIR_DEFAULT, Server, Token, UserFile,
};
use crate::config::{duration, kept_path};

use crate::config::{EngineChoice, Gather};

/// More threads than this wait for each other more than they work.
const WORKERS_MAX: usize = 256;
/// More than that a user would notice.
const RELAY_GATHER_MAX: Duration = Duration::from_millis(10);
/// A Unix socket's path without its final zero, unix(7).
const SOCKET_PATH_MAX_BYTES: usize = 107;
/// Servers that are asked in turn; the C library uses three.
const DNS_SERVERS_MAX: usize = 8;
const DNS_PORT: u16 = 53;
/// Tables of one kind; each listener costs descriptors and threads' time.
const TABLES_MAX: usize = 1_000;

/// The names of the tables that others refer to, one per row; a row without a name has an empty one.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) certificates: Vec<String>,
    pub(super) users: Vec<String>,
    pub(super) stas: Vec<String>,
    pub(super) listeners: Vec<String>,
    /// Whether there is a `[sta_server]` for the word `local` to mean.
    pub(super) local_sta: bool,
}

impl Resolver<'_> {
    pub(super) fn names(&mut self, typed: &File) -> Names {
        let certificates = self.names_of("certificate", typed.certificate.as_ref(), |row| row.name.as_ref());
        let users = self.names_of("users", typed.users.as_ref(), |row| row.name.as_ref());
        let stas = self.names_of("sta", typed.sta.as_ref(), |row| row.name.as_ref());
        let listeners = self.names_of("listener", typed.listener.as_ref(), |row| row.name.as_ref());
        let reserved = rows_named(typed.sta.as_ref(), |row| row.name.as_ref())
            .find(|name| name.value == ListenerConfig::LOCAL_STA);
        if let Some(reserved) = reserved {
            self.problems
                .add(reserved.at, "a [[sta]] cannot be named `local`: that is our own [sta_server]")
                .expected("another name");
        }
        Names { certificates, users, stas, listeners, local_sta: typed.sta_server.is_some() }
    }

    fn names_of<T>(
        &mut self,
        table: &str,
        rows: Option<&Located<Vec<Located<T>>>>,
        name: impl Fn(&T) -> Option<&Located<String>>,
    ) -> Vec<String> {
        let Some(rows) = rows else { return Vec::new() };
        self.check_length(table, rows.at, rows.value.len(), TABLES_MAX);
        let mut seen = HashSet::new();
        let mut names = Vec::new();
        for row in &rows.value {
            let typed = name(&row.value);
            self.required(typed, row.at, &format!("[[{table}]]"), "name", "a name of its own");
            if let Some(typed) = typed
                && self.is_name(typed)
                && !seen.insert(typed.value.clone())
            {
                self.problems
                    .add(typed.at, format!("a second [[{table}]] is named `{}`", typed.value))
                    .expected("a name of its own");
            }
            names.push(typed.map(|typed| typed.value.clone()).unwrap_or_default());
        }
        names
    }

    pub(super) fn certificates(
        &mut self,
        rows: Vec<Located<file::Certificate>>,
        names: &Names,
    ) -> Vec<CertificateFiles> {
        let mut certificates = Vec::new();
        for (Located { value: row, at }, name) in rows.into_iter().zip(&names.certificates) {
            let table = format!("[[certificate]] `{}`", shown(name));
            // With neither it is kept in the state directory: what `certificate import` and ACME write.
            if row.chain.is_none() && row.key.is_none() {
                let path = kept_path(&self.state, name);
                certificates.push(CertificateFiles { name: name.clone(), chain: path.clone(), key: path });
                continue;
            }
            let expected = "a PEM file, the server's certificate first; or neither `chain` nor `key`";
            let chain = self.required(row.chain, at, &table, "chain", expected);
            let key = self.required(row.key, at, &table, "key", "a PEM file with the private key");
            let (Some(chain), Some(key)) = (chain, key) else { continue };
            let (chain, key) = (self.path("chain", &chain), self.path("key", &key));
            certificates.push(CertificateFiles { name: name.clone(), chain, key });
        }
        certificates
    }

    pub(super) fn users(&mut self, rows: Vec<Located<file::Users>>, names: &Names) -> Vec<UserFile> {
        let mut users = Vec::new();
        for (Located { value: row, at }, name) in rows.into_iter().zip(&names.users) {
            let table = format!("[[users]] `{}`", shown(name));
            let Some(file) = self.required(row.file, at, &table, "file", "a file of `name:hash` lines")
            else {
                continue;
            };
            users.push(UserFile { name: name.clone(), file: self.path("file", &file) });
        }
        users
    }

    pub(super) fn server(&mut self, typed: file::Server) -> Server {
        let cores = || available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let workers = self.number("workers", typed.workers, 0, 0..=WORKERS_MAX);
        let bounds = Duration::ZERO..=Duration::from_hours(24);
        let engines = EngineChoice::ALL.map(|choice| (choice.as_str(), choice));
        let relay_engine = self.choice("relay_engine", typed.relay_engine.as_ref(), &engines);
        let layers = [RecordLayer::Own, RecordLayer::Rustls].map(|layer| (layer.as_str(), layer));
        let record_layer = self.choice("record_layer", typed.record_layer.as_ref(), &layers);
        Server {
            workers: if workers == 0 { cores() } else { workers },
            record_layer: record_layer.unwrap_or(RecordLayer::Own),
            state_dir: self.path_or("state_dir", typed.state_dir, STATE_DIR_DEFAULT),
            drain_timeout: self.duration(
                "drain_timeout",
                typed.drain_timeout,
                Duration::from_secs(30),
                bounds,
            ),
            relay_engine: relay_engine.unwrap_or_default(),
            relay_gather: self.gather(typed.relay_gather),
        }
    }

    fn gather(&mut self, typed: Option<Located<String>>) -> Gather {
        let Some(typed) = typed.filter(|typed| typed.value != Gather::ADAPTIVE) else {
            return Gather::Adaptive;
        };
        let bounds = Duration::ZERO..=RELAY_GATHER_MAX;
        if duration::parse(&typed.value).is_none() {
            self.problems
                .add(typed.at, format!("`relay_gather` is \"{}\"", shown(&typed.value)))
                .expected(format!("one of {}, a duration up to 10ms", Gather::ADAPTIVE));
            return Gather::Adaptive;
        }
        Gather::Always(self.duration("relay_gather", Some(typed), Duration::ZERO, bounds))
    }

    pub(super) fn control(&mut self, typed: file::Control) -> Control {
        let at = typed.socket.as_ref().map_or(0, |typed| typed.at);
        let socket = self.path_or("socket", typed.socket, "/run/portcullis/control.sock");
        let length = socket.as_os_str().as_bytes().len();
        if length > SOCKET_PATH_MAX_BYTES {
            self.problems
                .add(at, format!("`socket` is a path of {length} bytes"))
                .expected(format!("at most {SOCKET_PATH_MAX_BYTES} bytes, as unix(7) has it"));
        }
        Control { socket }
    }

    pub(super) fn log(&mut self, typed: file::Log) -> Log {
        let levels = [
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Log {
            level: self.choice("level", typed.level.as_ref(), &levels).unwrap_or(Level::INFO),
            format: self.choice("format", typed.format.as_ref(), &formats).unwrap_or(LogFormat::Text),
            file: typed.file.map(|file| self.path("file", &file)),
        }
    }

    pub(super) fn metrics(
        &mut self,
        Located { value: typed, at }: Located<file::Metrics>,
        names: &Names,
    ) -> Option<MetricsConfig> {
        let table = "[metrics]";
        if let (Some(client_ca), None) = (&typed.client_ca, &typed.certificate) {
            self.problems
                .add(client_ca.at, "[metrics] has `client_ca` but no `certificate`")
                .expected("both: only over TLS can callers show a certificate");
        }
        let certificate =
            typed.certificate.filter(|typed| self.refers("certificate", typed, &names.certificates));
        let client_ca = typed.client_ca.map(|typed| self.path("client_ca", &typed));
        let token = self.token(typed.token_file, typed.token_secret);
        let expected = "such as \"127.0.0.1:9464\"";
        let listen = self.required(typed.listen, at, table, "listen", expected)?;
        Some(MetricsConfig {
            listen: self.bind(table, &listen)?,
            certificate: certificate.map(|typed| typed.value),
            client_ca,
            token,
        })
    }

    fn token(&mut self, file: Option<Located<String>>, secret: Option<Located<String>>) -> Option<Token> {
        let value = match (file, secret) {
            (Some(_), Some(secret)) => {
                self.problems
                    .add(secret.at, "[metrics] has `token_file` and `token_secret`")
                    .expected("one of them");
                None
            }
            (Some(file), None) => {
                let path = self.path("token_file", &file);
                self.key_file("token", &file, &path)
            }
            (None, Some(secret)) => self.secret("token", &secret),
            (None, None) => None,
        };
        value.map(Token::new)
    }

    pub(super) fn dns(&mut self, typed: file::Dns) -> Dns {
        let servers = self.list("servers", typed.servers, DNS_SERVERS_MAX, |resolver, typed| {
            let bare = typed.value.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
            let server = bare.or_else(|_| typed.value.parse::<SocketAddr>());
            if server.is_err() {
                resolver
                    .problems
                    .add(typed.at, format!("\"{}\" is no address of a name server", shown(&typed.value)))
                    .expected("such as \"10.0.0.53\", \"10.0.0.53:53\" or \"[2001:db8::53]:53\"");
            }
            server.ok()
        });
        let bounds = Duration::from_millis(100)..=Duration::from_mins(1);
        Dns {
            servers: servers.into_iter().map(|server| server.value).collect(),
            timeout: self.duration("timeout", typed.timeout, Duration::from_secs(3), bounds),
        }
    }
}

fn rows_named<'t, T>(
    rows: Option<&'t Located<Vec<Located<T>>>>,
    name: impl Fn(&'t T) -> Option<&'t Located<String>>,
) -> impl Iterator<Item = &'t Located<String>> {
    rows.into_iter().flat_map(|rows| &rows.value).filter_map(move |row| name(&row.value))
}
