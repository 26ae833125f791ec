//! What may be typed about updates.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Update {
    /// Show which version runs, which starts next, and how the last order went
    Status,
    /// Show which versions there are
    List {
        /// The directory of updates, https://host/path [default: the one that was named last]
        url: Option<String>,
        /// The certificate of the directory's own authority comes on standard input (PEM), as in
        /// `ssh admin@gateway update list https://host/path --authority < FILE`; it is remembered with the directory
        #[arg(long, requires = "url")]
        authority: bool,
    },
    /// Put a version into the slot that does not run; it starts with the next reboot, and stays if it is healthy then
    Install(Install),
    /// Choose the other version for the next start
    Rollback {
        /// Start the machine again at once
        #[arg(long)]
        reboot: bool,
    },
}

#[derive(Debug, Args)]
pub struct Install {
    /// A version, or the directory of updates, https://host/path; `-` for a file on standard input, as in
    /// `ssh admin@gateway update install - < FILE` [default: the newest of the directory that was named last]
    #[arg(allow_hyphen_values = true)]
    pub what: Option<String>,
    /// This version, where a directory is named
    #[arg(long = "version", value_name = "VERSION")]
    pub version: Option<String>,
    /// The certificate of the directory's own authority comes on standard input (PEM); it is remembered with the directory
    #[arg(long, requires = "what")]
    pub authority: bool,
    /// Start the machine again when it is installed
    #[arg(long)]
    pub reboot: bool,
}
