//! What operators look around with: names, echoes, the way to a server, its TLS.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Probe, ShownCertificate, TraceMethod};

/// Echoes that one request may ask for; a client that wants more asks again.
pub const ECHOES_MAX: u8 = 20;
/// Furthest hop of a trace.
pub const HOPS_MAX: u8 = 30;
/// Echoes for each hop.
pub const PROBES_MAX: u8 = 3;
/// Most bytes behind the header of an echo: what an Ethernet frame takes with IPv6.
pub const ECHO_MAX_BYTES: u16 = 1452;

/// Addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// Echoes to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingOrder {
    /// A name or an address.
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// An address of this machine to ask from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    #[serde(default = "default_echoes")]
    pub count: u8,
    /// Bytes behind the header of an echo.
    #[serde(default = "default_size")]
    pub size: u16,
    /// How long each may take.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u16,
    /// From one to the next.
    #[serde(default = "default_interval")]
    pub interval_ms: u16,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pinged {
    pub address: IpAddr,
    pub sent: usize,
    pub answered: usize,
    pub echoes: Vec<Probe>,
}

/// The way to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceOrder {
    /// A name or an address.
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    #[serde(default = "default_first")]
    pub first: u8,
    #[serde(default = "default_last")]
    pub last: u8,
    #[serde(default = "default_probes")]
    pub probes: u8,
    #[serde(default = "default_timeout")]
    pub timeout_ms: u16,
    /// Echoes where the kernel lets us, else UDP, unless one of them is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<TraceMethod>,
}

/// The hops that were asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traced {
    pub address: IpAddr,
    pub method: TraceMethod,
    pub hops: Vec<Hop>,
    /// Whether the host itself has answered, or somebody said that it cannot be reached.
    pub ended: bool,
    /// Whether it was the host that answered.
    pub reached: bool,
    /// Where to go on, when time was over before the last hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    pub hop: u8,
    pub probes: Vec<Probe>,
}

/// Whose TLS to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsTestOrder {
    /// `host:port`
    pub target: String,
    /// Asked for, and looked for in the certificate, instead of the target's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Authorities to believe instead of the public ones: PEM text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The `[[sta]]` or the listener (for its `server_tls`) by whose settings a server is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
}

/// A handshake that came to its end, whether the server is believed or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TlsTested {
    pub address: String,
    pub server_name: String,
    pub version: String,
    pub suite: String,
    pub group: Option<String>,
    /// By what it was judged: `public`, `ca`, `sta NAME` or `listener NAME`.
    pub trust: String,
    pub verified: bool,
    /// Why it is not believed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// As the server sent it, its own first.
    pub chain: Vec<ShownCertificate>,
    pub connect_ms: f64,
    pub handshake_ms: f64,
}

fn default_echoes() -> u8 {
    4
}

fn default_size() -> u16 {
    56
}

fn default_timeout() -> u16 {
    1000
}

fn default_interval() -> u16 {
    1000
}

fn default_first() -> u8 {
    1
}

fn default_last() -> u8 {
    HOPS_MAX
}

fn default_probes() -> u8 {
    PROBES_MAX
}
