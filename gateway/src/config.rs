//! The configuration: what the operator wrote, checked and with its defaults filled in.
//!
//! Two kinds of type, as in ripgrep's flags: `config/file.rs` holds what was typed, with the place of each value;
//! `config/resolve.rs` says what it means and makes the types of this file. Nothing else reads the file, and nothing
//! else knows a default. Every mistake is reported at once, each with its line and column. Certificates are not
//! opened while reading: [`crate::check`] looks at them, and so does whoever starts a listener.
//!
//! `portcullis.example.toml` documents every key.

mod acme;
mod compare;
mod duration;
mod engine;
mod error;
mod file;
mod finding;
mod forward;
mod high_availability;
mod interfaces;
mod json;
mod metrics;
mod network;
pub mod path;
mod rate;
mod reader;
mod resolve;
pub mod schema;
mod server_tls;
mod suggest;
mod syslog;
mod xdp;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use portcullis_core::limits::Limits;
use portcullis_core::penalty::Rules;
use portcullis_core::policy::Policy;
use portcullis_core::profile::Kind;
use portcullis_proto::host_port::HostPort;
use portcullis_proto::ticket::AuthorityId;
use zeroize::Zeroizing;

pub use acme::{AcmeCertificate, AcmeChallenge, AcmeConfig, ExternalAccount};
pub use compare::{ReloadPlan, compare};
pub use duration::{format as format_duration, parse as parse_duration};
pub use engine::{EngineChoice, Gather};
pub use error::{ConfigError, Problem};
pub use finding::{Finding, Severity};
pub use forward::{Check, CheckTls, CheckTrust, DataPath, ForwardConfig, HealthConfig, ServerConfig};
pub use high_availability::{HighAvailability, Node, Sync, VirtualAddress};
pub(crate) use interfaces::{interface_of, networks_of, own_addresses, own_networks};
pub use metrics::{MetricsConfig, Token};
pub use network::{
    BondMode, InterfaceName, NetworkConfig, NetworkInterface, NetworkKind, NetworkRoute, TimeZone,
};
pub use server_tls::{ServerTlsConfig, ServerTrust};
pub(crate) use suggest::nearest;
pub use syslog::{FACILITIES, FACILITY_DEFAULT, SyslogConfig, SyslogProtocol, SyslogScope};
pub use xdp::{
    CookieMode, FloodConfig, PINS_DEFAULT, Steering, XdpConfig, XdpEgress, XdpInterface, XdpMode, XdpRule,
    XdpSizes, keeps_management, presets, protocols,
};

/// Where the configuration is read from unless a path is given.
pub const PATH_DEFAULT: &str = "/etc/portcullis/portcullis.toml";
/// Where state is kept unless the configuration says otherwise.
pub const STATE_DIR_DEFAULT: &str = "/var/lib/portcullis";
/// Below the state directory: chain and key of each certificate, by its name.
pub(crate) const KEPT: &str = "certificates";
/// Largest configuration file; ten thousand listeners fit.
pub const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The whole configuration. A value that exists is legal.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub path: PathBuf,
    pub server: Server,
    pub control: Control,
    pub log: Log,
    pub metrics: Option<MetricsConfig>,
    pub dns: Dns,
    pub limits: Limits,
    pub certificates: Vec<CertificateFiles>,
    /// Who issues some of them.
    pub acme: Option<AcmeConfig>,
    pub users: Vec<UserFile>,
    pub stas: Vec<Arc<StaConfig>>,
    pub sta_server: Option<StaServerConfig>,
    pub listeners: Vec<Arc<ListenerConfig>>,
    /// Without it nobody is banned but by hand.
    pub bans: Option<BansConfig>,
    pub xdp: Option<XdpConfig>,
    pub high_availability: Option<HighAvailability>,
    pub settings: Settings,
    /// Where the log goes besides.
    pub syslog: Option<SyslogConfig>,
    /// Whether an administrator may open a Unix shell for a while.
    pub support_shell: bool,
    /// Names of the secrets that are in it.
    pub secrets: BTreeSet<String>,
    /// Legal but doubtful things seen while resolving; [`crate::check`] reports them with its own.
    pub remarks: Vec<Finding>,
}

/// What the system itself follows: not the daemon applies it, but a job of root's ([`crate::settings`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub network: Option<NetworkConfig>,
}

impl Settings {
    /// The tables of the file that they come from.
    pub const TABLES: [&str; 1] = ["network"];
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Relay workers and front threads, each; at least 1.
    pub workers: usize,
    pub record_layer: RecordLayer,
    pub state_dir: PathBuf,
    pub drain_timeout: Duration,
    pub relay_engine: EngineChoice,
    /// When a worker that has just worked leaves what arrives for a while, to handle several arrivals at once.
    pub relay_gather: Gather,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub socket: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: tracing::Level,
    pub format: LogFormat,
    /// Standard error where absent.
    pub file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Empty: what `/etc/resolv.conf` says when the resolver starts.
    pub servers: Vec<SocketAddr>,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub name: String,
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// Where a certificate is kept that the configuration has no files for.
#[must_use]
pub fn kept_path(state: &Path, name: &str) -> PathBuf {
    state.join(KEPT).join(format!("{name}.pem"))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFile {
    pub name: String,
    pub file: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaConfig {
    pub name: String,
    pub url: StaUrl,
    /// Learned from its answers where absent.
    pub authority_id: Option<AuthorityId>,
    pub tls: StaTls,
    /// Of one request.
    pub timeout: Duration,
    pub health_interval: Duration,
    /// Connections that are kept, and the most requests in flight.
    pub connections: usize,
    pub security_key: Option<SecurityKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaUrl {
    pub https: bool,
    pub server: HostPort,
    pub path: String,
}

impl fmt::Display for StaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.server, self.path)
    }
}

/// How the server behind an https URL is recognised; without meaning for http.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaTls {
    PublicRoots,
    Ca(PathBuf),
    /// SHA-256 of the server's certificate (DER).
    Pin([u8; 32]),
}

/// A header that proves the caller to a ticket authority. Its values are secrets and are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecurityKey {
    pub header: String,
    /// One or two: the second is the other side of a rotation.
    pub values: Vec<Zeroizing<String>>,
}

impl fmt::Debug for SecurityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecurityKey").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Portcullis as the ticket authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaServerConfig {
    pub listen: Vec<SocketAddr>,
    /// Name of the certificate for https.
    pub certificate: Option<String>,
    /// Made once and kept in the state directory where absent.
    pub authority_id: Option<AuthorityId>,
    pub allow_from: Vec<IpNet>,
    pub security_key: Option<SecurityKey>,
    pub ticket_life: Duration,
    pub max_tickets: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    pub name: String,
    pub kind: Kind,
    pub listen: Vec<SocketAddr>,
    /// Names of certificates; TLS where there are any, and the first is the default one.
    pub certificates: Vec<String>,
    pub min_tls: TlsFloor,
    pub unmatched_sni: UnmatchedSni,
    /// Names of ticket authorities; [`ListenerConfig::LOCAL_STA`] is our own.
    pub stas: Vec<String>,
    /// Name of the users file: credentials are required where present.
    pub users: Option<String>,
    /// Of an `ssl-relay`.
    pub target: Option<HostPort>,
    /// TLS towards the servers; plain TCP where absent.
    pub server_tls: Option<ServerTlsConfig>,
    /// Of a `forward` listener, and only there.
    pub forward: Option<ForwardConfig>,
    /// Source prefixes of clients.
    pub allow_from: Vec<IpNet>,
    /// What may be reached; it holds the gateway's own addresses.
    pub policy: Policy,
}

impl ListenerConfig {
    /// The name in `stas` that stands for our own `[sta_server]`, without HTTP.
    pub const LOCAL_STA: &'static str = "local";

    #[must_use]
    pub fn uses_tls(&self) -> bool {
        !self.certificates.is_empty()
    }
}

/// Who opens and seals TLS records after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLayer {
    /// The relay itself, in place.
    Own,
    Rustls,
}

impl RecordLayer {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Rustls => "rustls",
        }
    }
}

/// The lowest TLS version that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFloor {
    Tls12,
    Tls13,
}

impl TlsFloor {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// What a client gets that asks for a name no certificate has, or for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmatchedSni {
    /// The listener's first certificate.
    Default,
    /// The handshake fails.
    Reject,
}

impl UnmatchedSni {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Reject => "reject",
        }
    }
}

/// When a source is banned, and who never is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BansConfig {
    pub rules: Rules,
    pub allow: Vec<IpNet>,
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    parse(&read(path)?, path)
}

/// Reads the text of the file at `path`.
///
/// # Errors
/// When it cannot be read, is too long, or is no text.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    file::read_text(path, FILE_MAX_BYTES)
}

/// Checks `text` as if it had been read from `path`, to which relative paths in it are relative.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    resolve::resolve(text, path)
}

/// Checks those tables of `text` that the system follows ([`Settings`]). Nothing else in it is looked at, and no file
/// is read for it: this is what a privileged program may do with a text of somebody else's.
///
/// # Errors
/// Everything that is wrong with them, at once.
pub fn parse_settings(text: &str, path: &Path) -> Result<Settings, ConfigError> {
    resolve::settings(text, path)
}

impl Config {
    /// The effective configuration without secrets.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json::config(self)
    }
}
