//! Sessions: which are shown, and which end.

use std::time::Duration;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Sessions {
    /// List sessions, oldest first
    List(Filter),
    /// Show a table of sessions that keeps itself up to date, until Ctrl-C
    Watch {
        #[command(flatten)]
        filter: Filter,
        /// Time between two looks
        #[arg(long, default_value = "2s", value_parser = super::duration)]
        interval: Duration,
        /// Stop after that many looks
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Show one session
    Show { id: String },
    /// End sessions: one by its id, those of a user, or all
    Kill(Kill),
}

#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Only sessions of this user
    #[arg(long)]
    pub user: Option<String>,
    /// Only sessions from this address or prefix, such as 192.0.2.0/24
    #[arg(long)]
    pub source: Option<String>,
    /// Sessions that ended lately instead of live ones
    #[arg(long)]
    pub ended: bool,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// The session's id
    #[arg(required_unless_present_any = ["user", "all"], conflicts_with_all = ["user", "all"])]
    pub id: Option<String>,
    /// All sessions of this user
    #[arg(long, conflicts_with = "all")]
    pub user: Option<String>,
    /// All sessions
    #[arg(long)]
    pub all: bool,
    /// Take their tickets back, too: those of the gateway's own authority for the same users
    #[arg(long)]
    pub revoke: bool,
}
