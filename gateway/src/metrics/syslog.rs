//! How the log to a syslog server does, for metrics.

use super::names::syslog as names;
use super::text;

/// How it goes, for metrics and people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub connected: bool,
    pub sent: u64,
    /// Connections that did not come about, or broke.
    pub failures: u64,
    pub fault: Option<String>,
}

pub(super) fn render(fact: Option<&Fact>, writer: &mut text::Writer) {
    writer.single(names::CONNECTED, fact.map(|fact| u8::from(fact.connected)));
    writer.single(names::MESSAGES, fact.map(|fact| fact.sent));
    writer.single(names::FAILURES, fact.map(|fact| fact.failures));
}
