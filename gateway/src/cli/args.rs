//! What may be typed. The meaning is in the command's own module.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use portcullis_proto::host_port::HostPort;

use crate::exit;

/// Where the daemon listens unless the configuration says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/portcullis/control.sock";

const TICKETS_HELP: &str = "A ticket on the command line can be read by every user of this machine: \
                            prefer `-` (standard input), a file, or the variable PORTCULLIS_TICKET.";

/// Controls the Portcullis gateway and connects through it.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = exit::HELP, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Control socket of the daemon [default: that of the configuration, else /run/portcullis/control.sock]
    #[arg(long, global = true, env = "PORTCULLIS_SOCKET", value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// Configuration file [default: /etc/portcullis/portcullis.toml]
    #[arg(long, global = true, env = "PORTCULLIS_CONFIG", value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Print JSON, for programs; errors become JSON on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Use no colours, as the variable NO_COLOR does
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how the gateway does
    Status,
    /// Show versions: of this program, the appliance, the system, and the daemon that runs
    Version,
    /// Show how the machine does: what it is, memory, what is mounted, how it was started
    System,
    /// Show network interfaces: driver, queues, addresses, and where the packet filter sits
    Interfaces,
    /// Show how this appliance does as one of two that share addresses
    #[command(visible_alias = "ha")]
    HighAvailability,
    /// Show and end sessions
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Sessions(Sessions),
    /// Show and test ticket authorities (STAs)
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Sta(Sta),
    /// Issue and redeem tickets of the gateway's own authority
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Ticket(Ticket),
    /// Connect through a gateway: as an SSH ProxyCommand, or as a local port for any program
    Connect(Connect),
    /// Write an ICA file for a ticket
    Ica(Ica),
    /// Show and check the configuration
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Config(Config),
    /// Change the configuration: a candidate is edited, compared, committed, and taken back if it must be
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Configure(Configure),
    /// Show who changed what, when and from where, the newest last
    Audit(Audit),
    /// Check a configuration and what it names (the same as `config check`)
    Check(Check),
    /// Apply the configuration file to the running gateway
    Reload {
        #[command(subcommand)]
        command: Option<Reload>,
    },
    /// Start the machine again; sessions end
    Reboot,
    /// Switch the machine off; sessions end
    Shutdown,
    /// Other versions of the appliance: which there are, putting one in, going back
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Update(Update),
    /// What the system runs for `update`
    #[command(hide = true)]
    UpdateJob {
        /// Only what must be there before the job itself
        #[arg(long, conflicts_with = "ended")]
        prepare: bool,
        /// The job has ended, whatever has ended it
        #[arg(long)]
        ended: bool,
    },
    /// What the system runs for settings of the machine itself, such as `[network]`
    #[command(hide = true)]
    SettingsJob,
    /// Addresses of a name, as the gateway finds them
    Resolve { name: String },
    /// Send echoes from the gateway's machine to a host; exit code 1 when none is answered
    Ping(Ping),
    /// Show the way from the gateway's machine to a host, hop by hop
    Trace(Trace),
    /// Shake hands with a server from the gateway's machine: version, suite, chain, and whether it is believed
    TlsTest(TlsTest),
    /// Capture headers of packets, as pcap on standard output or kept under a name
    Capture(Capture),
    /// Show how the gateway does, check by check; exit code 1 when something is bad
    Health(Health),
    /// Show who has sessions
    Users,
    /// What support asks for
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Support(Support),
    /// What the system runs for `support shell`
    #[command(hide = true)]
    SupportJob,
    /// Make the machine what it was when it came: configuration, keys, logs and state are lost, and it starts again
    FactoryReset(FactoryReset),
    /// Print the gateway's metrics in Prometheus's text format
    Metrics,
    /// Who may not come in: bans by hand, and those that the gateway makes after repeated offences
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Bans(Bans),
    /// Show, request, import and delete certificates; keys never leave
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Certificate(Certificate),
    /// Keep secrets apart from the configuration, which names them
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Secret(Secret),
    /// Who may log in to the appliance: keys for SSH, passwords for the console
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Access(Access),
    /// What the system runs for `access`, and for logins at the console
    #[command(hide = true)]
    AccessJob(AccessJob),
    /// The packet filter of the kernel side
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Xdp(Xdp),
    /// The servers of `forward` listeners
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Forward(Forward),
    /// Let this gateway take no new sessions; those that live go on. Holds until the daemon ends or `undrain`
    Drain,
    /// Let this gateway take new sessions again
    Undrain,
    /// What may come in by which port, and which rule decides
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Ports(Ports),
    /// Show and set what is logged
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Logs(Logs),
    /// The operator's command line: what a login over SSH shows
    Shell(Shell),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print this program's manual page, or write one page per command into a directory
    Man {
        /// Write portcullis.1, portcullis-status.1, … there
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Reload {
    /// Keep the changed policy of `[xdp]`, or what was committed on trial, which is taken back otherwise
    Confirm,
}

#[derive(Debug, Subcommand)]
pub enum Forward {
    /// Show listeners, where their flows run, their servers, and how these do
    Status {
        /// Only this listener
        listener: Option<String>,
    },
    /// Show the flows that run in the kernel, the oldest first; those in user space are in `sessions list`
    Flows {
        /// Only those of this listener
        #[arg(long)]
        listener: Option<String>,
        /// Only those to the server of this name
        #[arg(long)]
        server: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Let a server take no new flows; those that it has go on. Holds until the daemon ends or `undrain`
    Drain(Server),
    /// Let a server take new flows again
    Undrain(Server),
}

#[derive(Debug, Args)]
pub struct Server {
    /// The server's name, as `status` shows it
    #[arg(value_name = "NAME")]
    pub server: String,
    /// Only the server of this listener [default: every listener that has a server of that name]
    #[arg(long)]
    pub listener: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Sta {
    /// List ticket authorities and their state
    List,
    /// Ask one authority now; exit code 1 when it is not up
    Test { name: String },
}

#[derive(Debug, Subcommand)]
pub enum Ticket {
    /// Issue a ticket for a server
    Issue(Issue),
    /// Redeem a ticket and show what it stands for; one that serves once is used up
    #[command(after_help = TICKETS_HELP)]
    Redeem {
        /// The ticket string, or `-` for standard input
        #[arg(value_name = "TICKET")]
        ticket: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct Issue {
    /// Server for SOCKS, WebSocket and CONNECT clients
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub target: HostPort,
    /// Server for CGP (session reliability) clients
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub cgp: Option<HostPort>,
    /// User name, shown in sessions and records
    #[arg(long)]
    pub user: Option<String>,
    /// The user's domain
    #[arg(long)]
    pub domain: Option<String>,
    /// Application name, shown in sessions and records
    #[arg(long)]
    pub application: Option<String>,
    /// Let the ticket serve until it expires instead of once
    #[arg(long)]
    pub refreshable: bool,
    /// How long the ticket lives [default: `ticket_life` of the configuration]
    #[arg(long, value_parser = duration)]
    pub life: Option<Duration>,
    /// What to print: the ticket string alone, or JSON with its facts
    #[arg(long, default_value = "string")]
    pub format: IssueFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IssueFormat {
    String,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// SOCKS5: with a ticket as the host name, or to a server by name
    Socks5,
    /// CGP: a ticket in the first packet, then bytes; the server sees that packet too
    Cgp,
    /// SOCKS5 inside a WebSocket, which has no half-close: a server that waits for the end of input gets it late
    Websocket,
    /// CGP inside a WebSocket
    WebsocketCgp,
    /// HTTP CONNECT: with a ticket as the host, or to a server by name
    Connect,
}

const CONNECT_HELP: &str = "\
With SSH, in ~/.ssh/config:
  ProxyCommand portcullis connect --gateway gw.example.com:443 --ticket-command 'ssh gw.example.com portcullis ticket issue --target %h:%p'

As a local port for any program:
  portcullis connect --gateway gw.example.com:443 --ticket-file ticket --listen 127.0.0.1:3389

A ticket on the command line can be read by every user of this machine: prefer `-` (standard input, with
--listen only), --ticket-file, --ticket-command, or the variable PORTCULLIS_TICKET.
Exit code 76 means that the gateway refused, 69 that it could not be reached.";

#[derive(Clone, Debug, Args)]
#[command(after_help = CONNECT_HELP)]
pub struct Connect {
    /// The gateway [default with --ica: the file's SSLProxyHost]
    #[arg(long, value_name = "HOST:PORT", value_parser = gateway, required_unless_present = "ica")]
    pub gateway: Option<HostPort>,
    /// How to speak with the gateway [default: socks5, or what the ICA file says]
    #[arg(long, value_name = "HOW")]
    pub via: Option<Via>,
    /// The ticket string, or `-` for standard input
    #[arg(long, group = "authority")]
    pub ticket: Option<String>,
    /// File that holds the ticket string
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "authority")]
    pub ticket_file: Option<PathBuf>,
    /// Command that prints a ticket string; run once per connection
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString, group = "authority")]
    pub ticket_command: Option<String>,
    /// ICA file that holds ticket and gateway
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "authority")]
    pub ica: Option<PathBuf>,
    /// Trust the certificates of this PEM file instead of the public ones
    #[arg(long, value_name = "PEM", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,
    /// Name in the gateway's certificate [default: the host of --gateway]
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Trust any certificate: whoever is on the path can read and change everything
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Speak without TLS, to a socks or secure-proxy listener that has no certificate
    #[arg(long, conflicts_with_all = ["ca", "insecure", "server_name"])]
    pub plain: bool,
    /// Serve connections to this local address instead of standard input and output
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// User name for a proxy that asks for credentials
    #[arg(long, value_name = "USER", requires = "proxy_password_file")]
    pub proxy_user: Option<String>,
    /// File that holds the password for that user
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "proxy_user")]
    pub proxy_password_file: Option<PathBuf>,
    /// How long setting up one connection may take
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub timeout: Duration,
    /// The server, where no ticket names it: for socks, secure-proxy and relay listeners
    #[arg(value_name = "HOST:PORT", value_parser = host_port, group = "authority")]
    pub target: Option<HostPort>,
}

#[derive(Debug, Args)]
#[command(after_help = TICKETS_HELP)]
pub struct Ica {
    /// The ticket string, or `-` for standard input
    #[arg(long)]
    pub ticket: Option<String>,
    /// The gateway as clients reach it
    #[arg(long, value_name = "HOST:PORT", value_parser = gateway)]
    pub gateway: HostPort,
    /// Name of the application or desktop
    #[arg(long, default_value = "Desktop")]
    pub application: String,
    /// Let the client speak SOCKS instead of CGP, without session reliability
    #[arg(long)]
    pub no_cgp: bool,
    /// Write the file there, readable by its owner only [default: standard output]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Add or replace a setting of the application's section
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Show the effective configuration without secrets: the daemon's, or that of a file
    Show {
        /// Read this file instead of asking the daemon
        #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// Check a configuration and what it names: exit code 78 when it is wrong, 1 when something needs attention
    Check(Check),
    /// Give the configuration in force to the other of two appliances, where it is checked and committed
    Push(Push),
    /// Make a line for a users file from a password, which is asked for or read from standard input
    HashPassword {
        /// Print `USER:HASH` instead of the hash alone
        #[arg(long)]
        user: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct Check {
    /// The file to check [default: that of --config]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Logs {
    /// Show the level, or set it until the next reload or restart
    Level { level: Option<Level> },
    /// Show the newest lines, and with --follow those that come
    Show(LogLines),
}

mod access;
mod certificate;
mod configure;
mod high_availability;
mod kernel;
mod sessions;
mod tools;
mod update;

pub use access::{Access, AccessJob, AccessKey, AccessPassword, Last};
pub use certificate::{Certificate, Import, Key, Request, Secret};
pub use configure::{Audit, Commit, Configure, Shell};
pub use high_availability::Push;
pub use kernel::{Bans, Drops, Flows, Half, Order, Ports, Probe, Role, Top, Xdp};
pub use sessions::{Filter, Kill, Sessions};
pub use tools::{
    Capture, CaptureCommand, FactoryReset, Health, LogLines, Method, Ping, Support, SupportShell, TlsTest,
    Trace, Way,
};
pub use update::{Install, Update};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
        .ok_or_else(|| "write a number and a unit, such as 500ms, 30s, 5m or 2h".to_owned())
}

fn host_port(text: &str) -> Result<HostPort, String> {
    HostPort::parse(text).map_err(|error| format!("{error}; write host:port"))
}

fn gateway(text: &str) -> Result<HostPort, String> {
    HostPort::parse_or_port(text, Some(443)).map_err(|error| format!("{error}; write host:port"))
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
    pair.filter(|(key, _)| !key.is_empty()).ok_or_else(|| "write KEY=VALUE".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_has_no_contradiction() {
        Cli::command().debug_assert();
    }
}
