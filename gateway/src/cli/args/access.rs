//! What may be typed about who may log in.

use clap::{Args, Subcommand};

use crate::access::User;

const KEY_HELP: &str = "\
As one line of id_ed25519.pub, in the line or on standard input:
  ssh admin@gateway access key add operator - < id_ed25519.pub

Ed25519, ECDSA and hardware keys (sk-…) are taken, and RSA from 3072 bits; nothing stands before the key.";

#[derive(Debug, Subcommand)]
pub enum Access {
    /// List users with their keys, and whether they have a password for the console
    List,
    /// Public keys, with which one logs in by SSH
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Key(AccessKey),
    /// Passwords, with which one logs in at the machine's own console and nowhere else
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Password(AccessPassword),
}

#[derive(Debug, Subcommand)]
pub enum AccessKey {
    /// Let a key log in as a user
    #[command(after_help = KEY_HELP)]
    Add {
        user: User,
        /// The key, `ssh-ed25519 AAAA… comment`; `-` or nothing: one line of standard input
        #[arg(value_name = "KEY", num_args = 0..)]
        key: Vec<String>,
    },
    /// Let a key log in no more; sessions that are open stay
    Remove {
        user: User,
        /// As `list` shows it, SHA256:…
        fingerprint: String,
        #[command(flatten)]
        last: Last,
    },
}

#[derive(Debug, Subcommand)]
pub enum AccessPassword {
    /// Set a password: asked for twice, or one line of standard input
    Set { user: User },
    /// Forget a password
    Clear {
        user: User,
        #[command(flatten)]
        last: Last,
    },
}

/// One of them, or none: the change that an administrator was granted.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub struct AccessJob {
    /// Whether standard input has this user's password: exit code 0 or 1
    #[arg(long, value_name = "USER")]
    pub check: Option<User>,
    /// Take this user's password from standard input
    #[arg(long, value_name = "USER")]
    pub set: Option<User>,
    /// Whether standard input may become this user's password, and why not
    #[arg(long, value_name = "USER")]
    pub judge: Option<User>,
    /// Whether standard input is a public key that is taken, and why not
    #[arg(long)]
    pub judge_key: bool,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Last {
    /// Even if no administrator can log in then; the console asks at the next start who may
    #[arg(long)]
    pub force: bool,
}
