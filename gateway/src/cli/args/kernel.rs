//! The grammar of `xdp` and `ports`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::duration;
use crate::config::protocols;

#[derive(Debug, Subcommand)]
pub enum Xdp {
    /// Show which interfaces are filtered and what passed and was dropped
    Status,
    /// Show what was dropped, by interface and reason, or packet by packet
    Drops(Drops),
    /// Show both halves of each session: packets and bytes that came in
    Flows(Flows),
    /// Show packets per second by reason, the busiest flows and the sources of what is dropped, again and again
    Top(Top),
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

#[derive(Debug, Args)]
pub struct Drops {
    /// Show the packets that were dropped last, one by one: a sample under load, and nothing of what they carry
    #[arg(long)]
    pub events: bool,
    /// Go on showing them as they come, until interrupted
    #[arg(long)]
    pub follow: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct Flows {
    /// Only those of a session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Only those of a client or server, or of a prefix of them
    #[arg(long, value_name = "PREFIX")]
    pub peer: Option<String>,
    /// Only this half: edge is what clients send, farm what servers send
    #[arg(long)]
    pub half: Option<Half>,
    /// What comes first
    #[arg(long, default_value = "session")]
    pub order: Order,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Half {
    Edge,
    Farm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    Session,
    Bytes,
    Recent,
}

#[derive(Debug, Args)]
pub struct Top {
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// Look for one interval, show it, and end
    #[arg(long)]
    pub once: bool,
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
    /// Say whether something new would come in or go out, and which rule decides; exit code 1 when it would not
    Test(Probe),
    /// Compare the policy in force with the configuration file; exit code 1 when they differ
    Diff,
}

#[derive(Debug, Args)]
pub struct Probe {
    /// Address that begins it; one of this machine's own: it goes out
    pub source: IpAddr,
    /// Address that it is for: one of this machine's own, which says by which interface it comes
    pub destination: IpAddr,
    /// Such as tcp, udp, vrrp, or a number
    #[arg(value_parser = protocol)]
    pub protocol: u8,
    /// None where the protocol has none
    #[arg(default_value_t = 0)]
    pub port: u16,
    /// By an interface of that role, whatever the addresses say
    #[arg(long)]
    pub role: Option<Role>,
}

fn protocol(text: &str) -> Result<u8, String> {
    let text = text.to_ascii_lowercase();
    protocols::number(&text)
        .ok_or_else(|| format!("`{text}` is no protocol: tcp, udp, vrrp, esp, …, or a number"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Edge,
    Farm,
    Mgmt,
}
