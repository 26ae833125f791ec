//! The grammar of `xdp` and `ports`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::duration;

#[derive(Debug, Subcommand)]
pub enum Xdp {
    /// Show which interfaces are filtered and what passed and was dropped
    Status,
    /// Show what was dropped, by interface and reason
    Drops,
    /// Take the filter off every interface, at once and without the daemon; its next start puts it back
    Detach {
        /// Where the programs are pinned [default: `pin_dir` of the configuration, else /sys/fs/bpf/portcullis]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        pins: Option<PathBuf>,
    },
    /// The same as `portcullis bans`
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Bans(Bans),
}

#[derive(Debug, Subcommand)]
pub enum Bans {
    /// List the bans: who made them, why, and until when
    List {
        /// Only those that hold for some of this address or prefix
        source: Option<String>,
    },
    /// Keep an address or prefix out: listeners refuse it, and the packet filter drops what comes from it, but not on
    /// interfaces of role mgmt. Its live sessions go on; `sessions kill` ends them
    Add {
        /// Such as 192.0.2.7 or 2001:db8::/32
        prefix: String,
        /// How long; at most 365 days
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = duration)]
        time: Duration,
        /// Why, for whoever lists it later
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Lift the ban of an address or prefix, and forget what it was for
    Remove { prefix: String },
    /// Lift all bans
    Clear {
        /// Only those that the gateway made by itself
        #[arg(long)]
        automatic: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Ports {
    /// Show the rules of the configuration and where each comes from
    Show,
    /// Say whether a new connection would come in, and which rule decides; exit code 1 when it would not
    Test(Probe),
}

#[derive(Debug, Args)]
pub struct Probe {
    /// Role of the interface that it arrives at
    pub role: Role,
    /// Address of the client
    pub source: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Edge,
    Farm,
    Mgmt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Tcp,
    Udp,
}
