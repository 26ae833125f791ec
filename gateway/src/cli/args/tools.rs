//! What may be typed to look around from the gateway's machine.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
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

#[derive(Clone, Debug, Args)]
pub struct LogLines {
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Only what came within that time
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    pub since: Option<Duration>,
    /// How many lines, the newest
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub lines: usize,
    /// This level and what is worse
    #[arg(long)]
    pub level: Option<super::Level>,
    /// Of this unit of the system instead of the gateway, such as ssh.service
    #[arg(long, value_name = "UNIT", conflicts_with = "all")]
    pub unit: Option<String>,
    /// Of the whole system
    #[arg(long)]
    pub all: bool,
}

const CAPTURE_HELP: &str = "\
  ssh admin@gateway capture --interface eth0 --filter tcp port 443 > edge.pcap

Kept of each packet are its headers: nothing of what TCP and UDP carry is in the file. A filter is made of tcp, udp, icmp,
icmp6, arp, ip, ip6, host ADDRESS, net PREFIX, port NUMBER (src and dst may stand before these three), and, or, not and
brackets. Packets that the packet filter drops or forwards by itself are not seen: `xdp drops --events` shows the former.";

#[derive(Clone, Debug, Args)]
#[command(after_help = CAPTURE_HELP, args_conflicts_with_subcommands = true)]
pub struct Capture {
    #[command(subcommand)]
    pub command: Option<CaptureCommand>,
    /// Only packets of this interface
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Only these packets
    #[arg(long, value_name = "EXPRESSION", num_args = 1..)]
    pub filter: Vec<String>,
    /// End after that many packets
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub count: u32,
    /// End after that many seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub seconds: u32,
}

#[derive(Clone, Debug, Subcommand)]
pub enum CaptureCommand {
    /// List captures that are kept
    List,
    /// Write one that is kept to standard output
    Get { name: String },
    /// End one that runs
    Stop { name: Option<String> },
    /// Remove a capture that is kept
    Delete { name: String },
}

#[derive(Clone, Debug, Args)]
pub struct Health {
    /// Count only whether it serves, as far as that is in this machine's hands: ticket authorities may be down
    #[arg(long)]
    pub own: bool,
    /// Wait so long for it to become well
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    pub wait: Option<Duration>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Support {
    /// Write one file with what support asks for to standard output: status, configuration, interfaces, routes, packet
    /// filter, metrics, logs, audit log, units. Secrets are taken out
    Bundle,
    /// Open a Unix shell on the appliance, where the configuration allows it (`[support]`): it ends by itself, and the audit
    /// log has who, when, from where, why and how long
    Shell(SupportShell),
}

#[derive(Clone, Debug, Args)]
pub struct SupportShell {
    /// Why; asked for where it is not given
    #[arg(long)]
    pub reason: Option<String>,
    /// After what time it ends, with everything that was started in it: 1m to 4h
    #[arg(long = "for", value_name = "TIME", default_value = "30m", value_parser = super::duration)]
    pub time: Duration,
}

#[derive(Clone, Debug, Args)]
pub struct FactoryReset {
    /// Keep the network's settings of the machine
    #[arg(long)]
    pub keep_network: bool,
    /// Do not ask: everything that was configured, every key and every log is lost
    #[arg(long)]
    pub yes: bool,
}
