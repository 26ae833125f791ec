//! What may be typed to change the configuration, and to look at its history and at the audit log.

use std::time::Duration;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Configure {
    /// Show the candidate, or what stands at a path of it, as TOML
    Show {
        /// Such as `limits` or `listener.edge`
        path: Option<String>,
    },
    /// Change a value of the candidate: `set limits.sessions 2000`
    Set {
        /// Keys between dots, with the name of a table where there are several: `listener.edge.kind`
        path: String,
        /// A value as in TOML; a text needs no quotes, a list no brackets
        #[arg(required = true, allow_hyphen_values = true)]
        value: Vec<String>,
    },
    /// Take something out of the candidate: a value, or a whole table
    Delete { path: String },
    /// Show how the candidate, or an earlier configuration, differs from the one in force
    Compare {
        /// The configuration so many commits ago, instead of the candidate
        back: Option<usize>,
    },
    /// Say whether the candidate could be committed, and what that would change: exit code 78 when it could not
    Validate,
    /// Put the candidate in force and in the configuration file's place: all of it, or nothing
    Commit(Commit),
    /// Keep what was committed or reloaded on trial, which is taken back otherwise
    Confirm,
    /// Make the candidate what was in force so many commits ago; 0 is what is in force now
    Rollback { back: usize },
    /// Make the candidate's changes again on top of what others have committed meanwhile
    Update,
    /// Forget the candidate's changes
    Discard,
    /// List what has been in force, with who, when, from where and why
    History,
    /// Print the configuration in force, or an earlier one, as TOML
    Export {
        /// The configuration so many commits ago
        #[arg(long, value_name = "N")]
        back: Option<usize>,
    },
    /// Make the candidate a whole text, read from standard input until its end
    Import,
    /// Keep the candidate under a name, to go on later; without a name list what was kept
    Save { name: Option<String> },
    /// Make the candidate one that was kept under a name
    Load { name: String },
}

#[derive(Clone, Debug, Args)]
pub struct Commit {
    /// `confirm MINUTES`: take it back after that time unless `confirm` comes; without a number 10 minutes
    #[arg(value_name = "confirm", value_parser = ["confirm"])]
    pub on_trial: Option<String>,
    /// How long it may wait: minutes, or a time with its unit such as 90s
    #[arg(requires = "on_trial", value_parser = minutes, value_name = "MINUTES")]
    pub time: Option<Duration>,
    /// Why, for the history
    #[arg(long, short = 'm', value_name = "TEXT", default_value = "")]
    pub comment: String,
}

#[derive(Clone, Debug, Args)]
pub struct Audit {
    /// How many, the newest
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
}

#[derive(Clone, Debug, Args)]
pub struct Shell {
    /// Run one line instead of asking for lines, as `ssh gateway COMMAND` does; else that of SSH_ORIGINAL_COMMAND,
    /// where sshd was told to start nothing but this
    #[arg(short = 'c', value_name = "LINE", allow_hyphen_values = true)]
    pub command: Option<String>,
}

fn minutes(text: &str) -> Result<Duration, String> {
    if let Ok(minutes) = text.parse::<u32>() {
        return Ok(Duration::from_secs(u64::from(minutes).saturating_mul(60)));
    }
    super::duration(text).map_err(|_| "write minutes, or a time with its unit such as 90s".to_owned())
}
