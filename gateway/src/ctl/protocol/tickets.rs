//! Requests and answers about tickets.

use serde::{Deserialize, Serialize};

use super::SecretText;

/// A ticket string on its way; never shown by `Debug`.
pub type TicketText = SecretText;

/// A ticket to be issued by the gateway's own authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketOrder {
    /// `host:port` where SOCKS, CONNECT and ICA clients go.
    pub target: String,
    /// `host:port` where CGP clients go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// Serves until it expires instead of once.
    #[serde(default)]
    pub refreshable: bool,
    /// Default: `ticket_life` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_seconds: Option<u64>,
}

/// Answer to `ticket-issue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The ticket string. A secret: whoever has it may open the session.
    pub ticket: TicketText,
    pub authority_id: String,
    pub refreshable: bool,
    pub life_seconds: u64,
}

/// Answer to `ticket-redeem`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeemed {
    #[serde(default)]
    pub target: Option<String>,
    #[serde(default)]
    pub cgp: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub domain: Option<String>,
    #[serde(default)]
    pub application: Option<String>,
}
