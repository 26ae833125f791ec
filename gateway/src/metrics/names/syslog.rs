//! Metrics of the log that goes to a syslog server.

use super::{Family, counter, gauge};

pub const CONNECTED: Family =
    gauge("portcullis_syslog_connected", &[], "1 while the syslog server gets the log.");
pub const MESSAGES: Family =
    counter("portcullis_syslog_messages_total", &[], "Messages that were sent to the syslog server.");
pub const FAILURES: Family = counter(
    "portcullis_syslog_failures_total",
    &[],
    "Connections to the syslog server that did not come about, or broke.",
);

pub const ALL: [Family; 3] = [CONNECTED, FAILURES, MESSAGES];
