//! Secure Ticket Authorities: the ones that we ask, and the one that we are (PROTOCOL §3).
//!
//! [`pool`] chooses the authority of a ticket by its id and asks it through `member`, which holds what is known
//! of one authority; `client` is its HTTP; `health` keeps that knowledge fresh. [`authority`] issues and
//! redeems our own tickets, and [`server`] lets others do so over HTTP. What the messages look like is known only
//! to `portcullis_proto::sta`.

pub mod authority;
mod client;
mod health;
mod member;
pub mod pool;
pub mod server;
mod tls;

use std::path::PathBuf;

/// Why ticket authorities cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StaError {
    #[error("sta `{sta}`: the CA file {} cannot be used: {reason}", path.display())]
    Ca { sta: String, path: PathBuf, reason: String },
    #[error("sta `{sta}`: {reason}")]
    Tls { sta: String, reason: String },
    #[error("sta `{sta}`: the URL cannot be used: {reason}")]
    Url { sta: String, reason: String },
    #[error("security key header `{header}`: {reason}")]
    SecurityKey { header: String, reason: &'static str },
    #[error("the authority id in {} cannot be used: {reason}", path.display())]
    AuthorityId { path: PathBuf, reason: String },
    #[error("the system gives no randomness")]
    Randomness,
}
