//! What may be typed to look around from the gateway's machine.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use portcullis_proto::host_port::HostPort;

#[derive(Clone, Debug, Args)]
pub struct Ping {
    /// A name, as the gateway resolves it, or an address
    #[arg(value_name = "HOST")]
    pub host: String,
    /// How many echoes
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
    /// From one to the next, 100ms at least
    #[arg(long, default_value = "1s", value_parser = super::duration)]
    pub interval: Duration,
    /// How long each may take, 5s at most
    #[arg(long, default_value = "1s", value_parser = super::duration)]
    pub timeout: Duration,
    /// Bytes behind the header, 1452 at most
    #[arg(long, value_name = "BYTES", default_value_t = 56)]
    pub size: u16,
    #[command(flatten)]
    pub way: Way,
}

#[derive(Clone, Debug, Args)]
pub struct Trace {
    /// A name, as the gateway resolves it, or an address
    #[arg(value_name = "HOST")]
    pub host: String,
    /// Furthest hop, 30 at most
    #[arg(long, value_name = "N", default_value_t = crate::ctl::protocol::HOPS_MAX)]
    pub hops: u8,
    /// Questions for each hop, 3 at most
    #[arg(long, value_name = "N", default_value_t = crate::ctl::protocol::PROBES_MAX)]
    pub probes: u8,
    /// How long each may take, 5s at most
    #[arg(long, default_value = "1s", value_parser = super::duration)]
    pub timeout: Duration,
    /// How to ask [default: icmp where the kernel lets the gateway, else udp]
    #[arg(long, value_name = "HOW")]
    pub method: Option<Method>,
    #[command(flatten)]
    pub way: Way,
}

#[derive(Clone, Debug, Args)]
pub struct Way {
    /// IPv4 only
    #[arg(long, short = '4', conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// IPv6 only
    #[arg(long, short = '6')]
    pub ipv6: bool,
    /// An address of the gateway's machine to ask from
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    Icmp,
    Udp,
}

#[derive(Clone, Debug, Args)]
pub struct TlsTest {
    #[arg(value_name = "HOST:PORT", value_parser = super::gateway)]
    pub target: HostPort,
    /// Ask for this name, and look for it in the certificate [default: the host]
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Believe the authorities of this PEM file instead of the public ones
    #[arg(long, value_name = "PEM", value_hint = ValueHint::FilePath, conflicts_with = "trust")]
    pub ca: Option<PathBuf>,
    /// Believe what the settings of this STA believe, or those of this listener towards its servers
    #[arg(long, value_name = "STA|LISTENER")]
    pub trust: Option<String>,
}
